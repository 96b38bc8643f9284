"""Membership inference: can a score tell what was trained on from what never was?

Each attack scores every example, higher meaning less a member; its value is the ROC AUC with forget as 0 and holdout
as 1, so 1 says that the forget set is plainly remembered. Sources: loss, arXiv:1709.01604; zlib, arXiv:2012.07805;
min-k, arXiv:2310.16789; min-k++, arXiv:2404.02936; PrivLeak, arXiv:2407.06460.
"""

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unteach.errors import UserError
from unteach.evals import stats
from unteach.evals.base import Metric, Need, Result, Retain, ScoredRow, Scores, Value, mean_of
from unteach.evals.metrics.memorization import without_eos
from unteach.registry import metric

VARIANCE_FLOOR = 1e-6


@dataclass
class Attack(Metric):
    """An attack on the answers in two columns, of members and of non-members."""

    forget: str
    holdout: str

    def needs(self) -> dict[str, Need]:
        return {"forget_rows": Scores(self.forget), "holdout_rows": Scores(self.holdout)}

    def score(self, row: ScoredRow, eos: int) -> float:
        raise NotImplementedError

    def compute(
        self, name: str, forget_rows: list[ScoredRow], holdout_rows: list[ScoredRow], eos: int, **_: Any
    ) -> Value:
        halves = {}
        for half, rows in (("forget", forget_rows), ("holdout", holdout_rows)):
            halves[half] = mean_of(f"{name}/{half}", {r.index: {"score": self.score(r, eos)} for r in rows}, "score")
        forget, holdout = (np.array([v["score"] for v in (half.by_index or {}).values()]) for half in halves.values())
        area = stats.auc(forget, holdout)
        shown = {
            half: {k: v for k, v in value.to_json().items() if k in ("agg_value", "value_by_index")}
            for half, value in halves.items()
        }
        replicates = stats.of_two(forget, holdout, name, stats.auc)
        return Value(area, None, len(forget) + len(holdout), replicates, {**shown, "auc": area})


@metric("mia_loss")
@dataclass
class LossAttack(Attack):
    """Score: avg_loss."""

    def score(self, row: ScoredRow, eos: int) -> float:
        return row.scores[0].avg_loss


@metric("mia_zlib")
@dataclass
class ZlibAttack(Attack):
    """Score: avg_loss / len(zlib(answer)), which sets a text's loss against how compressible it is."""

    def score(self, row: ScoredRow, eos: int) -> float:
        return row.scores[0].avg_loss / len(zlib.compress(row.texts[0].encode()))


@dataclass
class LowestTokens(Attack):
    """Score: minus the mean of the lowest share k of per-token values; EOS is left out."""

    QUIRKS: ClassVar[dict[str, Any]] = {"drop_last_label": True}

    k: float = 0.4
    drop_last_label: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.k <= 1:
            raise UserError(f"k must be above 0 and at most 1, got {self.k}")

    def values(self, row: ScoredRow) -> np.ndarray:
        raise NotImplementedError

    def score(self, row: ScoredRow, eos: int) -> float:
        values = self.values(row)[without_eos(row.scores[0], eos, self.drop_last_label)]
        lowest = np.sort(values)[: max(1, int(self.k * len(values)))]
        return float(-lowest.mean()) if len(values) else 0.0


@metric("mia_min_k")
@dataclass
class MinK(LowestTokens):
    """Score: minus the mean of the lowest share k of token log-probs."""

    def values(self, row: ScoredRow) -> np.ndarray:
        return row.scores[0].logprob


@metric("mia_min_k_plus_plus")
@dataclass
class MinKPlusPlus(LowestTokens):
    """As min-k, of (log p - mu) / sigma, with the vocabulary's mean and deviation at each position."""

    def values(self, row: ScoredRow) -> np.ndarray:
        score = row.scores[0]
        return (score.logprob - score.mean) / np.sqrt(np.maximum(score.variance, VARIANCE_FLOOR))


@metric("privleak")
@dataclass
class PrivLeak(Metric):
    """((1 - AUC) - (1 - AUC_retain)) / (1 - AUC_retain) * 100: 0 is the retain model, below it under-unlearned.

    privleak_default: the AUC assumed where there is no retain log; null, and the metric is absent without one.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {"privleak_default": 0.5}

    attack: str
    privleak_default: float | None = None

    def needs(self) -> dict[str, Need]:
        optional = self.privleak_default is not None
        return {"attack_value": Result(self.attack), "retain": Retain(self.attack, optional)}

    def compute(self, name: str, attack_value: Value, retain: dict[str, Any] | None, **_: Any) -> Value:
        area = retain["agg_value"] if retain else self.privleak_default
        assert attack_value.agg is not None and area is not None

        def leak(auc: Any) -> Any:
            return ((1 - auc) - (1 - area)) / ((1 - area) + 1e-10) * 100

        return Value(float(leak(attack_value.agg)), None, attack_value.n, leak(attack_value.replicates))
