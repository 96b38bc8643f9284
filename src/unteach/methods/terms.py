"""What a loss is a sum of: terms, unreduced, each with the name of the count that it is divided
by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unteach.models.forward import TokenOutputs

if TYPE_CHECKING:
    from torch import Tensor

Over = Literal["answer", "all", "every"]
UNITS = {"answer": "tokens", "all": "all_tokens", "every": "positions"}
"""The count of a stream that goes with the positions a pass is asked about."""


@dataclass
class Term:
    """One summand of the loss, not yet reduced.

    value: one number per unit (token or sequence) of this micro-batch.
    divisor: the name of the count, over the whole optimiser step, that the sum is divided by
    (`forget.tokens`…).
    factor: what the term is multiplied by in the loss, one number, without a gradient; None: it is
    no part of the loss, and only told.
    """

    name: str
    value: "Tensor"
    divisor: str
    factor: "float | Tensor | None" = 1.0

    @property
    def logged(self) -> str:
        """What it is called in the log."""
        return self.name if self.factor is None else f"{self.name}_loss"


def cross_entropy(
    name: str, stream: str, answers: TokenOutputs, factor: float = 1.0, units: str = "tokens"
) -> Term:
    """CE: the mean over answer tokens of -log p_t."""
    return Term(name, -answers.value, f"{stream}.{units}", factor)


def mean_of_rows(name: str, stream: str, value: "Tensor", answers: TokenOutputs) -> Term:
    """The mean over sequences of `value` [B]; rows that only fill up a batch are left out."""
    return Term(name, value[answers.weight != 0], f"{stream}.sequences")
