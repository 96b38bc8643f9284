"""Refusing what is forgotten, and preferring the answer to the refusal where it is kept."""

from dataclasses import dataclass, field
from typing import Any

from unteach.data.streams import ALTERNATE, RETAIN_ALTERNATE
from unteach.errors import UserError
from unteach.lazy import F
from unteach.methods.base import Term, TwoSided, cross_entropy, mean_over_rows
from unteach.models.forward import TokenOutputs
from unteach.registry import method


@method(
    "IdkAP",
    paper="arXiv:2410.08109",
    cost="1 forward of alternate, retain and the retain rows' refusals",
    reference="none",
    evidence="verified against the authors' code",
    license="none; written from the formula",
)
@dataclass
class IdkAP(TwoSided):
    """L = gamma CE_a - alpha (1/beta) log sigmoid(beta (s_r - s_ra)) per retain row, s sums of
    log-probs: IDK+AP.

    CE_a teaches the refusals of the forget rows; the second term, answer preservation, prefers a
    retain row's answer (r) to the refusal of its question (ra). Trains on rows of data.forget and
    of data.retain that carry {original, alternate}.
    """

    gamma: float = field(default=1.0, metadata={"help": "weight of the forget term"})
    alpha: float = field(
        default=1.0, metadata={"help": "weight of the retain term; 0 makes no retain pass at all"}
    )
    beta: float = 0.1

    def __post_init__(self) -> None:
        for name in ("gamma", "alpha"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.beta <= 0:
            raise UserError(f"beta must be above 0, got {self.beta}")

    def forget_streams(self) -> tuple[str, ...]:
        return (ALTERNATE,)

    def retain_streams(self) -> tuple[str, ...]:
        return ("retain", RETAIN_ALTERNATE) if self.alpha else ()

    def forget_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        return [cross_entropy("forget", ALTERNATE, policy[ALTERNATE], self.gamma)]

    def retain_terms(
        self, policy: dict[str, TokenOutputs], reference: dict[str, Any]
    ) -> list[Term]:
        answers = policy["retain"]
        margin = answers.per_row() - policy[RETAIN_ALTERNATE].per_row()
        loss = -F.logsigmoid(self.beta * margin) / self.beta
        retain = mean_over_rows("retain", "retain", loss, answers)
        retain.factor = self.alpha
        return [retain]
