"""Gradient ascent: the plainest way to forget, and the plainest way to ruin a model."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from unteach.methods.base import UNITS, StreamReference, Term, Unlearn, cross_entropy
from unteach.methods.terms import Positions
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method("GradAscent", paper="arXiv:2210.01504", cost="1 forget forward", reference="none")
@dataclass
class GradAscent(Unlearn):
    """Ascend the loss of the forget answers: L = -CE_f. Unbounded: it goes on until nothing is
    left."""

    ASCENDS: ClassVar[bool] = True

    alpha: float = 0.0
    loss_on: Literal["completion", "all"] = field(
        default="completion", metadata={"help": "all: the questions too, of both streams"}
    )

    def positions(self) -> Positions:
        return "answer" if self.loss_on == "completion" else "all"

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        term = cross_entropy("forget", "forget", policy, units=UNITS[self.positions()])
        term.value = -term.value
        return term
