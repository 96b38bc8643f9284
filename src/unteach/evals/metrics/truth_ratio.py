"""Whether wrong answers have become as likely as the true one. Source: TOFU, arXiv:2401.06121."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unteach.evals.base import Metric, Need, Result, Value, average_rows
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
        return {
            "correct_value": Result(self.correct),
            "wrong_value": Result(self.wrong),
        }

    def compute(
        self,
        name: str,
        correct_value: Value,
        wrong_value: Value,
        **_: object,
    ) -> Value:
        correct_rows = correct_value.by_index or {}
        wrong_rows = wrong_value.by_index or {}
        ratios = {}
        aggregated = {}
        for index, row in correct_rows.items():
            if index not in wrong_rows:
                continue
            correct_loss = row["avg_loss"]
            wrong_losses = wrong_rows[index]["avg_loss"]
            ratio = self.ratio(correct_loss, wrong_losses)
            ratios[index] = {"score": ratio}
            aggregated[index] = {"score": self._aggregate(ratio)}
        value = average_rows(name, aggregated, "score")
        # The mean is that of the aggregated ratios; a row's own value is its bare ratio.
        value.by_index = ratios
        return value

    def ratio(
        self,
        correct_loss: float | list[float],
        wrong_losses: float | list[float],
    ) -> float:
        """Compute one row's ratio, from average losses in nats.

        Args:
            correct_loss: of the true answer; of several, their mean counts.
            wrong_losses: of the wrong answers, one or several.
        """
        mean_correct_loss = np.mean(correct_loss)
        correct = float(np.exp(-mean_correct_loss))
        losses = np.atleast_1d(wrong_losses)  # [W]
        if self.mean == "geometric":
            wrong = float(np.exp(-losses.mean()))
        else:
            wrong = float(np.exp(-losses).mean())
        if self.aggregator == "prob_mean":
            return correct / (correct + wrong + 1e-10)
        return wrong / (correct + 1e-10)

    def _aggregate(self, ratio: float) -> float:
        """Turn a row's ratio into the value that is averaged."""
        if self.aggregator == "closer_to_1_better":
            inverse = 1 / (ratio + 1e-10)
            return min(ratio, inverse)
        if self.aggregator == "true_better":
            return max(0.0, 1 - ratio)
        return ratio
