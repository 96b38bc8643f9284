"""How much of an answer the model can still produce token by token.

Both leave EOS out, by its id. Sources: exact memorisation, arXiv:2212.10947; extraction strength,
arXiv:2202.07646.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unteach.engines.base import Score
from unteach.evals.base import Metric, Need, ScoredRow, Scores, Value, mean_of
from unteach.registry import metric


def without_eos(score: Score, eos: int, drop_last_label: bool = False) -> np.ndarray:
    """Which of the answer's tokens count: all but EOS; or, as published, all but the last one,
    whatever it is."""
    if drop_last_label:
        return np.arange(len(score.token)) < len(score.token) - 1
    return score.token != eos


@metric("exact_memorization")
@dataclass
class ExactMemorization(Metric):
    """The share of answer tokens that the argmax hits."""

    QUIRKS: ClassVar[dict[str, Any]] = {"drop_last_label": True}

    answers: str
    drop_last_label: bool = False

    def needs(self) -> dict[str, Need]:
        return {"rows": Scores(self.answers)}

    def compute(self, name: str, rows: list[ScoredRow], eos: int, **_: object) -> Value:
        hits = {row.index: _hits(row, eos, self.drop_last_label) for row in rows}
        by_index = {
            index: {"score": float(hit.mean()) if len(hit) else None} for index, hit in hits.items()
        }
        return mean_of(name, by_index, "score")


@metric("extraction_strength")
@dataclass
class ExtractionStrength(Metric):
    """1 - k/L, k the smallest start from which every argmax hits; 0 where even the last token is
    missed.

    es_floor: as published, k is at most L - 1, so the value never falls below 1/L.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {"drop_last_label": True, "es_floor": True}

    answers: str
    drop_last_label: bool = False
    es_floor: bool = False

    def needs(self) -> dict[str, Need]:
        return {"rows": Scores(self.answers)}

    def compute(self, name: str, rows: list[ScoredRow], eos: int, **_: object) -> Value:
        by_index = {
            row.index: {"score": self.strength(_hits(row, eos, self.drop_last_label))}
            for row in rows
        }
        return mean_of(name, by_index, "score")

    def strength(self, hits: np.ndarray) -> float | None:
        """Of one answer: hits [L] -> 1 - k/L."""
        length = len(hits)
        if not length:
            return 0.0 if self.es_floor else None
        missed = np.flatnonzero(~hits)
        k = missed[-1] + 1 if len(missed) else 0
        return 1 - (min(k, length - 1) if self.es_floor else k) / length


def _hits(row: ScoredRow, eos: int, drop_last_label: bool) -> np.ndarray:
    score = row.scores[0]
    return score.hit[without_eos(score, eos, drop_last_label)]
