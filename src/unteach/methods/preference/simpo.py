"""SimPO: preference by mean log-probs, which is how answers are generated, with a margin to be
reached."""

from dataclasses import dataclass, field
from typing import Any

from unteach.methods.base import Term
from unteach.methods.preference.pairs import Pairs, mean_per_row, pair_loss
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method("SimPO", paper="arXiv:2405.14734", cost="1 forward of both answers", reference="none")
@dataclass
class SimPO(Pairs):
    """-log sigmoid(beta (s_c/|y_c| - s_r/|y_r|) - gamma) per pair, s the sum of an answer's
    log-probs."""

    beta: float = 2.0
    gamma: float = field(
        default=0.5, metadata={"help": "the margin between the two rewards that is aimed at"}
    )

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        chosen = self.beta * mean_per_row(policy["chosen"])
        rejected = self.beta * mean_per_row(policy["rejected"])
        loss = pair_loss("sigmoid", chosen - rejected - self.gamma, beta=1.0)
        return self.build_preference_terms(loss, chosen, rejected, policy["chosen"])
