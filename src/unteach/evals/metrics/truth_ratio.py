"""Whether wrong answers have become as likely as the true one. Source: TOFU, arXiv:2401.06121."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unteach.evals.base import Metric, Need, Result, Value, mean_of
from unteach.registry import metric


@metric("truth_ratio")
@dataclass
class TruthRatio(Metric):
    """TR = p(wrong) / p(correct), with p(wrong) the mean of the wrong answers: geometric, or
    `arith`.

    Aggregates: closer_to_1_better, mean min(TR, 1/TR) (forget sets); true_better, mean max(0, 1 -
    TR) (the others); mean, that of TR itself; prob_mean, mean of p / (p + wrong).
    """

    correct: str
    wrong: str
    aggregator: Literal["closer_to_1_better", "true_better", "mean", "prob_mean"]
    mean: Literal["geometric", "arith"] = "geometric"

    def needs(self) -> dict[str, Need]:
        return {"correct_value": Result(self.correct), "wrong_value": Result(self.wrong)}

    def compute(self, name: str, correct_value: Value, wrong_value: Value, **_: object) -> Value:
        right, wrong = correct_value.by_index or {}, wrong_value.by_index or {}
        by_index = {
            i: {"score": self.ratio(v["avg_loss"], wrong[i]["avg_loss"])}
            for i, v in right.items()
            if i in wrong
        }
        aggregated = {i: {"score": self._aggregated(v["score"])} for i, v in by_index.items()}
        value = mean_of(name, aggregated, "score")
        value.by_index = by_index
        return value

    def ratio(self, correct_loss: Any, wrong_losses: Any) -> float:
        """One row's ratio, from average losses in nats."""
        correct = float(np.exp(-np.mean(correct_loss)))
        losses = np.atleast_1d(wrong_losses)
        wrong = float(
            np.exp(-losses.mean()) if self.mean == "geometric" else np.exp(-losses).mean()
        )
        return (
            correct / (correct + wrong + 1e-10)
            if self.aggregator == "prob_mean"
            else wrong / (correct + 1e-10)
        )

    def _aggregated(self, ratio: float) -> float:
        if self.aggregator == "closer_to_1_better":
            return min(ratio, 1 / (ratio + 1e-10))
        return max(0.0, 1 - ratio) if self.aggregator == "true_better" else ratio
