"""ORPO: fine-tuning on the chosen answer, and its odds raised over those of the rejected one, in
one step."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from unteach.lazy import F, torch
from unteach.methods.base import UNITS, Term, cross_entropy
from unteach.methods.preference.pairs import Pairs
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method("ORPO", paper="arXiv:2403.07691", cost="1 forward of both answers", reference="none")
@dataclass
class ORPO(Pairs):
    """CE(chosen) - beta log sigmoid(log odds_c - log odds_r) per pair, odds = p / (1 - p), log p =
    s/|y|.

    beta is the paper's lambda. The reward of an answer is beta log p.
    """

    loss_on: Literal["completion", "all"] = field(
        default="all",
        metadata={
            "help": "what the cross-entropy is over; all: the prompt too, as its authors have it"
        },
    )

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"chosen": OutputSpec(positions=self._over()), "rejected": OutputSpec()}

    def _over(self) -> Literal["answer", "all"]:
        return "answer" if self.loss_on == "completion" else "all"

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        answers = policy["chosen"]
        chosen, rejected = answer_mean(answers), answer_mean(policy["rejected"])
        ratio = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
        terms = self.preference(
            -self.beta * F.logsigmoid(ratio),
            self.beta * chosen,
            self.beta * rejected,
            answers,
        )
        return [*terms, cross_entropy("chosen", "chosen", answers, units=UNITS[self._over()])]


def answer_mean(answers: TokenOutputs) -> "Tensor":
    """The mean log-prob of each row's answer tokens, of a pass that may be over its prompt too:
    [B]."""
    before = (answers.lengths() - answers.labelled).clamp(min=0)
    own = (answers.index_in_row() >= before[answers.row]).float()
    return answers.per_row(torch.where(own > 0, answers.value, 0)) / answers.per_row(own).clamp(
        min=1
    )


def log1mexp(x: "Tensor") -> "Tensor":
    """log(1 - exp(x)) for x < 0, exact on both sides of -log 2; what rounds to 0 is taken as the
    number next to it."""
    near, far = x.clamp(min=-0.7, max=-torch.finfo(x.dtype).eps), x.clamp(max=-0.69)
    return torch.where(x > -math.log(2), (-torch.expm1(near)).log(), torch.log1p(-far.exp()))
