"""How probable the model finds given answers. Source: TOFU, arXiv:2401.06121."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unteach.evals.base import Metric, Need, Result, ScoredRow, Scores, Value, average_rows
from unteach.registry import metric


@metric("probability")
@dataclass
class Probability(Metric):
    """prob = exp(-avg_loss), the geometric mean of the answer tokens' probabilities; of several
    answers, the mean."""

    key: ClassVar[str] = "prob"

    answers: str

    def needs(self) -> dict[str, Need]:
        return {"rows": Scores(self.answers)}

    def compute(self, name: str, rows: list[ScoredRow], **_: object) -> Value:
        by_index: dict[int, dict[str, Any]] = {}
        for row in rows:
            losses = row.losses
            probs = np.exp(-losses)
            if row.has_alternatives:
                by_index[row.index] = {
                    "prob": probs.tolist(),
                    "avg_loss": losses.tolist(),
                }
            else:
                by_index[row.index] = {
                    "prob": float(probs[0]),
                    "avg_loss": float(losses[0]),
                }
        return average_rows(name, by_index, self.key)


@metric("loss")
@dataclass
class Loss(Probability):
    """avg_loss, the mean of -log p over an answer's tokens, in nats; of several answers, the
    mean."""

    key: ClassVar[str] = "avg_loss"


@metric("token_probability")
@dataclass
class TokenProbability(Metric):
    """The mean of p over an answer's tokens, with each token's id, p and loss. Source: ARC
    selective forgetting."""

    answers: str

    def needs(self) -> dict[str, Need]:
        return {"rows": Scores(self.answers)}

    def compute(self, name: str, rows: list[ScoredRow], **_: object) -> Value:
        by_index = {}
        for row in rows:
            score = row.scores[0]
            probs = np.exp(score.logprob)
            by_index[row.index] = {
                "score": float(probs.mean()),
                "token": score.token.tolist(),
                "prob": probs.tolist(),
                "loss": (-score.logprob).tolist(),
            }
        return average_rows(name, by_index, "score")


@metric("probability_w_options")
@dataclass
class ProbabilityWithOptions(Metric):
    """The true answer's share among the options: p / (p + sum of the wrong answers' p)."""

    correct: str
    wrong: str

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
        by_index = {}
        for index, row in correct_rows.items():
            if index not in wrong_rows:
                continue
            correct = row["prob"]
            wrong = float(np.sum(wrong_rows[index]["prob"]))
            share = correct / (correct + wrong + 1e-10)
            by_index[index] = {"prob": share}
        return average_rows(name, by_index, "prob")
