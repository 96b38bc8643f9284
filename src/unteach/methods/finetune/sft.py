"""Supervised fine-tuning and pretraining: the cross-entropy of what should be learned."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from unteach.methods.base import UNITS, Method, Term, cross_entropy
from unteach.methods.terms import Positions
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method

MAX_EXPONENT = 700
"""Beyond it exp() of a float overflows."""


@method("SFT", aliases=("Trainer", "FinetuneTrainer"), cost="1 forward", reference="none")
@dataclass
class SFT(Method):
    """Supervised fine-tuning: the mean over answer tokens of -log p_t."""

    loss_on: Literal["completion", "all"] = "completion"

    def streams(self) -> tuple[str, ...]:
        return ("train",)

    def positions(self) -> Positions:
        """Name the positions that the cross-entropy is over."""
        return "answer" if self.loss_on == "completion" else "all"

    def wants(self, reference: dict[str, Any]) -> dict[str, OutputSpec]:
        return {"train": OutputSpec(positions=self.positions())}

    def terms(self, policy: dict[str, TokenOutputs], reference: dict[str, Any]) -> list[Term]:
        return [cross_entropy("train", "train", policy["train"], units=UNITS[self.positions()])]

    def metric_names(self) -> tuple[str, ...]:
        return ("perplexity",)

    def compute_metrics(self, loss: float, rows: dict[str, list[Any]]) -> dict[str, Any]:
        return {"perplexity": math.exp(loss) if loss < MAX_EXPONENT else math.inf}


@method("Pretrain", cost="1 forward", reference="none")
@dataclass
class Pretrain(SFT):
    """Pretraining: the mean over all tokens of -log p_t, prompts included."""

    ROWS = "text"
    loss_on: Literal["completion", "all"] = "all"
