"""ORPO: fine-tuning on the chosen answer, and its odds raised over those of the rejected one, in
one step."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from unteach.lazy import F, torch
from unteach.methods.base import UNITS, Term, cross_entropy
from unteach.methods.preference.pairs import Pairs
from unteach.methods.terms import Positions
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
        return {"chosen": OutputSpec(positions=self.positions()), "rejected": OutputSpec()}

    def positions(self) -> Positions:
        """Name the positions that the cross-entropy is over."""
        return "answer" if self.loss_on == "completion" else "all"

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        chosen = mean_over_answers(policy["chosen"])
        rejected = mean_over_answers(policy["rejected"])
        log_odds_ratio = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
        loss = -self.beta * F.logsigmoid(log_odds_ratio)
        terms = self.build_preference_terms(
            loss, self.beta * chosen, self.beta * rejected, policy["chosen"]
        )
        units = UNITS[self.positions()]
        return [*terms, cross_entropy("chosen", "chosen", policy["chosen"], units=units)]


def mean_over_answers(outputs: TokenOutputs) -> "Tensor":
    """The mean log-prob of each row's answer tokens, of a pass that may be over its prompt too:
    [B]."""
    # The answer is the end of a row: as many positions as it has labels.
    prompt_lengths = (outputs.lengths() - outputs.labelled).clamp(min=0)  # [B]
    is_answer = outputs.index_in_row() >= prompt_lengths[outputs.row]  # [N]
    total = outputs.per_row(torch.where(is_answer, outputs.value, 0))
    return total / outputs.per_row(is_answer.float()).clamp(min=1)


def log1mexp(x: "Tensor") -> "Tensor":
    """log(1 - exp(x)) for x < 0, exact on both sides of -log 2.

    What rounds to 0 is taken as the number next to it.
    """
    near_zero = x.clamp(min=-0.7, max=-torch.finfo(x.dtype).eps)
    far_from_zero = x.clamp(max=-0.69)
    return torch.where(
        x > -math.log(2), (-torch.expm1(near_zero)).log(), torch.log1p(-far_from_zero.exp())
    )
