"""Who's Harry Potter: hold back the words that a model trained further on the forget rows says
more."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def hold_back_reinforced(base: "Tensor", reinforced: "Tensor", alpha: float = 1.0) -> "Tensor":
    """z_b - alpha relu(z_r - z_b): raw logits [..., V] of the model and of one trained further on
    the forget rows -> logits [..., V].

    Paper: arXiv:2310.02238, decoding as in MUSE (arXiv:2407.06460). Cost: 2 forwards a token. Where
    alpha is 0, or the reinforced model says nothing more, it is the base. A constant added to one
    model's logits changes the result, so the two must share a base.

    Evidence: verified against the authors' code. License: none; written from the formula.
    """
    return base - alpha * (reinforced - base).relu()
