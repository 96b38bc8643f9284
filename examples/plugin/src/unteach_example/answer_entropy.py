"""How unsure the model is while it is led through given answers."""

from dataclasses import dataclass
from typing import Any

from unteach.evals.base import Metric, Need, ScoredRow, Scores, Value, average_rows
from unteach.registry import metric


# What reports call it and which way is good. Whose rows it is measured on, a suite says.
@metric(
    "answer_entropy",
    label="answer entropy",
    better="higher",
    meaning="how unsure the model is of each token of the true answers",
    decimals=2,
)
@dataclass
class AnswerEntropy(Metric):
    """Mean entropy, in nats, of the next-token distribution over the answer's positions."""

    answers: str

    def needs(self) -> dict[str, Need]:
        return {"rows": Scores(self.answers)}

    def compute(self, name: str, rows: list[ScoredRow], **_: Any) -> Value:
        by_index = {row.index: {"entropy": float(-row.scores[0].mean.mean())} for row in rows}
        return average_rows(name, by_index, "entropy")
