"""Contrastive preference optimisation: DPO without a reference, held by the likelihood of the
chosen answer."""

from dataclasses import dataclass, field
from typing import Any

from unteach.errors import UserError
from unteach.methods.base import Term, cross_entropy
from unteach.methods.preference.pairs import (
    LossType,
    Pairs,
    mean_per_row,
    pair_loss,
    refuse_bad_smoothing,
)
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method("CPO", paper="arXiv:2401.08417", cost="1 forward of both answers", reference="none")
@dataclass
class CPO(Pairs):
    """-log sigmoid(beta (s_c - s_r)) per pair + alpha CE(chosen), s the sum of an answer's
    log-probs.

    ipo takes the mean over an answer's tokens in place of the sum.
    """

    alpha: float = field(
        default=1.0, metadata={"help": "weight of the chosen answers' cross-entropy"}
    )
    loss_type: LossType = "sigmoid"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_bad_smoothing(self.loss_type, self.label_smoothing)
        if self.alpha < 0:
            raise UserError(f"alpha must not be negative, got {self.alpha}")

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        if self.loss_type == "ipo":
            chosen = mean_per_row(policy["chosen"])
            rejected = mean_per_row(policy["rejected"])
        else:
            chosen = policy["chosen"].per_row()
            rejected = policy["rejected"].per_row()
        loss = pair_loss(self.loss_type, chosen - rejected, self.beta, self.label_smoothing)
        terms = self.build_preference_terms(
            loss, self.beta * chosen, self.beta * rejected, policy["chosen"]
        )
        if self.alpha:
            terms.append(cross_entropy("chosen", "chosen", policy["chosen"], self.alpha))
        return terms
