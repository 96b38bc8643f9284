"""The base of the preference methods: rows with a chosen and a rejected answer, and losses of how
far apart the two are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from unteach.errors import UserError
from unteach.lazy import F
from unteach.methods.base import Method, Term, mean_over_rows
from unteach.models.forward import TokenOutputs

if TYPE_CHECKING:
    from torch import Tensor

LossType = Literal["sigmoid", "hinge", "ipo"]


@dataclass
class Pairs(Method):
    """Train on the two answers of each row of data.train, which are drawn together."""

    ROWS: ClassVar = "pairs"

    beta: float = 0.1

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise UserError(f"beta must be above 0, got {self.beta}")

    def streams(self) -> tuple[str, ...]:
        return ("chosen", "rejected")

    def metric_names(self) -> tuple[str, ...]:
        return ("reward_chosen", "reward_rejected", "margin", "preference_accuracy")

    def build_preference_terms(
        self, loss: "Tensor", chosen: "Tensor", rejected: "Tensor", outputs: TokenOutputs
    ) -> list[Term]:
        """Build the terms of pairs: the loss and, only logged, both rewards, their margin, and how
        often it is above 0.

        Args:
            loss: of each pair: [B].
            chosen: the rewards of the chosen answers, beta times their scores: [B].
            rejected: those of the rejected answers: [B].
            outputs: of the chosen answers, whose rows are counted.
        """
        values = {
            "reward_chosen": chosen,
            "reward_rejected": rejected,
            "margin": chosen - rejected,
            "preference_accuracy": (chosen > rejected).float(),
        }
        terms = [mean_over_rows("preference", "chosen", loss, outputs)]
        for name, value in values.items():
            term = mean_over_rows(name, "chosen", value.detach(), outputs)
            term.factor = None
            terms.append(term)
        return terms


def refuse_bad_smoothing(loss_type: LossType, label_smoothing: float) -> None:
    """Raise UserError where `label_smoothing`, the share of pairs labelled the wrong way, cannot
    be."""
    if not 0 <= label_smoothing < 0.5:
        raise UserError(f"label_smoothing must be at least 0 and below 0.5, got {label_smoothing}")
    if label_smoothing and loss_type != "sigmoid":
        raise UserError(f"label_smoothing is for loss_type=sigmoid; {loss_type} has no use for it")


def pair_loss(
    loss_type: LossType, margin: "Tensor", beta: float, label_smoothing: float = 0.0
) -> "Tensor":
    """The loss of pairs whose answers are `margin` apart: [B] -> [B].

    - sigmoid: -(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m), e the label smoothing
      (arXiv:2305.18290)
    - hinge: max(0, 1 - beta m) (SLiC, arXiv:2305.10425)
    - ipo: (m - 1 / (2 beta))^2 (arXiv:2310.12036)
    """
    if loss_type == "hinge":
        return (1 - beta * margin).relu()
    if loss_type == "ipo":
        return (margin - 1 / (2 * beta)).square()
    loss = -(1 - label_smoothing) * F.logsigmoid(beta * margin)
    if label_smoothing:
        loss = loss - label_smoothing * F.logsigmoid(-beta * margin)
    return loss


def mean_per_row(outputs: TokenOutputs) -> "Tensor":
    """The mean log-prob of each row's answer tokens: [B]."""
    return outputs.per_row() / outputs.lengths().clamp(min=1)
