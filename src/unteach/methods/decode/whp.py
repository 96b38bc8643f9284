"""Who's Harry Potter: hold back the words that a model trained further on the forget rows says
more."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.methods.base import Method, Term, cross_entropy
from unteach.models.decoding import Decoding
from unteach.models.forward import TokenOutputs
from unteach.registry import decoding, method

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


@decoding("WHP")
@dataclass
class HoldBackReinforced(Decoding):
    """z_b - alpha relu(z_r - z_b), r trained further on the forget rows."""

    SECOND = "reinforced"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise UserError(f"alpha must not be negative, got {self.alpha}")

    def combine(self, base: "Tensor", second: "Tensor") -> "Tensor":
        return hold_back_reinforced(base, second, self.alpha)


@method(
    "WHP",
    paper="arXiv:2310.02238, arXiv:2407.06460",
    cost="1 forget forward; afterwards 2 forwards a token",
    reference="none",
    evidence="decoding verified against the authors' code",
    license="none; written from the formula",
)
@dataclass
class WHP(Method):
    """L = CE_f trains a reinforced model r; what is saved decodes with z_b - alpha relu(z_r - z_b),
    b the model that it starts from.

    The model that forgets is the two together: r alone knows the forget rows better than b.
    """

    alpha: float = field(
        default=1.0, metadata={"help": "how much of what the reinforced model adds is taken away"}
    )

    def __post_init__(self) -> None:
        self.decoding()

    def streams(self) -> tuple[str, ...]:
        return ("forget",)

    def decoding(self) -> Decoding:
        return HoldBackReinforced(self.alpha)

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        return [cross_entropy("forget", "forget", policy["forget"])]
