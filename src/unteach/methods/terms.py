"""Terms: what a loss is a sum of, unreduced, each with the name of the count that it is divided
by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unteach.models.forward import TokenOutputs
from unteach.models.reference import ReferenceLogits

if TYPE_CHECKING:
    from torch import Tensor

Positions = Literal["answer", "all", "every"]
UNITS: dict[Positions, str] = {"answer": "tokens", "all": "all_tokens", "every": "positions"}
"""The count of a stream that goes with the positions of a pass."""
StreamReference = TokenOutputs | ReferenceLogits | None
"""The reference's side of one stream: answer log-probs or a layer's hidden states, or what gives
its logits; None where the method compares with nothing there."""


@dataclass
class Term:
    """One summand of the loss, not yet reduced.

    Attributes:
        name: of the term.
        value: one number per unit (token or sequence) of this micro-batch.
        divisor: the name of the count, over the whole optimiser step, that the sum is divided by
            (`forget.tokens`…).
        factor: what the term is multiplied by in the loss, one number without a gradient; None: it
            is only logged, and no part of the loss.
    """

    name: str
    value: "Tensor"
    divisor: str
    factor: "float | Tensor | None" = 1.0

    @property
    def log_name(self) -> str:
        """What it is called in the log."""
        return self.name if self.factor is None else f"{self.name}_loss"


def cross_entropy(
    name: str, stream: str, outputs: TokenOutputs, factor: float = 1.0, units: str = "tokens"
) -> Term:
    """CE: the mean over answer tokens of -log p_t."""
    return Term(name, -outputs.value, f"{stream}.{units}", factor)


def mean_over_rows(name: str, stream: str, value: "Tensor", outputs: TokenOutputs) -> Term:
    """The mean over sequences of `value` [B]; rows that only fill up a batch are left out."""
    return Term(name, value[outputs.weight != 0], f"{stream}.sequences")


def require_outputs(reference: StreamReference) -> TokenOutputs:
    """Give the reference's outputs, of a method whose reference is log-probs or hidden states."""
    assert isinstance(reference, TokenOutputs), "the method's reference() asks for them"
    return reference


def require_logits(reference: StreamReference) -> ReferenceLogits:
    """Give what makes the reference's logits, of a method whose reference is last hidden states."""
    assert isinstance(reference, ReferenceLogits), "the method's reference() asks for them"
    return reference
