"""How much of an answer the model can still produce token by token.

Both leave EOS out, by its id. Sources: exact memorisation, arXiv:2212.10947; extraction strength,
arXiv:2202.07646.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unteach.engines.base import Score
from unteach.evals.base import Metric, Need, ScoredRow, Scores, Value, average_rows
from unteach.registry import metric


def select_scored_tokens(
    score: Score,
    eos: int,
    drop_last_label: bool = False,
) -> np.ndarray:
    """Mark the answer tokens that count, [L]: all but EOS; or, as published, all but the last one,
    whatever it is."""
    if drop_last_label:
        num_tokens = len(score.token)
        return np.arange(num_tokens) < num_tokens - 1
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
        by_index = {}
        for row in rows:
            hits = _select_hits(row, eos, self.drop_last_label)
            share = float(hits.mean()) if len(hits) else None
            by_index[row.index] = {"score": share}
        return average_rows(name, by_index, "score")


@metric("extraction_strength")
@dataclass
class ExtractionStrength(Metric):
    """1 - k/L, k the smallest start from which every argmax hits; 0 where even the last token is
    missed.

    es_floor: as published, k is at most L - 1, so the value never falls below 1/L.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {
        "drop_last_label": True,
        "es_floor": True,
    }

    answers: str
    drop_last_label: bool = False
    es_floor: bool = False

    def needs(self) -> dict[str, Need]:
        return {"rows": Scores(self.answers)}

    def compute(self, name: str, rows: list[ScoredRow], eos: int, **_: object) -> Value:
        by_index = {}
        for row in rows:
            hits = _select_hits(row, eos, self.drop_last_label)
            by_index[row.index] = {"score": self.strength(hits)}
        return average_rows(name, by_index, "score")

    def strength(self, hits: np.ndarray) -> float | None:
        """Compute the strength of one answer: hits [L] -> 1 - k/L."""
        length = len(hits)
        if not length:
            return 0.0 if self.es_floor else None
        missed = np.flatnonzero(~hits)
        k = missed[-1] + 1 if len(missed) else 0
        if self.es_floor:
            k = min(k, length - 1)
        return 1 - k / length


def _select_hits(
    row: ScoredRow,
    eos: int,
    drop_last_label: bool,
) -> np.ndarray:
    """Select where the argmax hits the tokens that count, [L]."""
    score = row.scores[0]
    is_scored = select_scored_tokens(score, eos, drop_last_label)
    return score.hit[is_scored]
