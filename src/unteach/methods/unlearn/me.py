"""Maximum entropy: make every word as likely as any other, where an answer is to be forgotten."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from unteach.methods.base import UNITS, StreamReference, Term, Unlearn
from unteach.methods.terms import Positions
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "ME",
    paper="arXiv:2410.08109",
    cost="1 forget + 1 retain forward",
    reference="none",
    evidence="verified against the authors' code",
    license="none; written from the formula",
)
@dataclass
class ME(Unlearn):
    """L_forget = KL(U || p) = -log V - mean_v log p(v), the mean over tokens, U uniform: ME+GD.

    0 where all logits are equal; its gradient in the logits is p - 1/V, which is bounded. The
    questions of the forget rows count too, as in the paper; retain rows count by their answers.
    """

    gamma: float = field(default=0.1, metadata={"help": "weight of the forget term"})
    loss_on: Literal["completion", "all"] = field(
        default="all", metadata={"help": "all: the questions of the forget rows too"}
    )

    def forget_positions(self) -> Positions:
        """Name the positions of the forget rows; retain rows count by their answers."""
        return "answer" if self.loss_on == "completion" else "all"

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        return OutputSpec(fn=distance_from_uniform, positions=self.forget_positions())

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        return Term("forget", policy.value, f"forget.{UNITS[self.forget_positions()]}")


def distance_from_uniform(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """KL(U || p): [n, V], [n] -> [n]."""
    return -math.log(logits.shape[-1]) - logits.log_softmax(-1).mean(-1)
