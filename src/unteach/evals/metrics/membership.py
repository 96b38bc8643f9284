"""Membership inference: can a score tell what was trained on from what never was?

Each attack scores every example, higher meaning less a member; its value is the ROC AUC with forget
as 0 and holdout as 1, so 1 says that the forget set is plainly remembered. Sources: loss,
arXiv:1709.01604; zlib, arXiv:2012.07805; min-k, arXiv:2310.16789; min-k++, arXiv:2404.02936;
PrivLeak, arXiv:2407.06460.
"""

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unteach.errors import UserError
from unteach.evals import bootstrap
from unteach.evals.base import (
    GradNorms,
    Metric,
    Need,
    NormedRow,
    ReferenceScores,
    Result,
    Retain,
    ScoredRow,
    Scores,
    Value,
    mean_of,
)
from unteach.evals.metrics.memorization import without_eos
from unteach.registry import metric

VARIANCE_FLOOR = 1e-6


def area_of(name: str, forget: dict[int, float], holdout: dict[int, float]) -> Value:
    """An attack's value from its scores by row: the AUC, with both halves beside it."""
    shown: dict[str, Any] = {}
    for half, scores in (("forget", forget), ("holdout", holdout)):
        value = mean_of(
            f"{name}/{half}", {index: {"score": score} for index, score in scores.items()}, "score"
        )
        shown[half] = {key: value.to_json()[key] for key in ("agg_value", "value_by_index")}
    first, second = (np.array(list(scores.values())) for scores in (forget, holdout))
    area = bootstrap.auc(first, second)
    replicates = bootstrap.of_two(first, second, name, bootstrap.auc)
    return Value(area, None, len(first) + len(second), replicates, {**shown, "auc": area})


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
        self,
        name: str,
        forget_rows: list[ScoredRow],
        holdout_rows: list[ScoredRow],
        eos: int,
        **_: object,
    ) -> Value:
        halves = (
            {row.index: self.score(row, eos) for row in rows}
            for rows in (forget_rows, holdout_rows)
        )
        return area_of(name, *halves)


@metric("mia_loss", examples={"show": "membership", "title": "loss"})
@dataclass
class LossAttack(Attack):
    """Score: avg_loss."""

    def score(self, row: ScoredRow, eos: int) -> float:
        return row.scores[0].avg_loss


@metric("mia_zlib", examples={"show": "membership", "title": "zlib"})
@dataclass
class ZlibAttack(Attack):
    """Score: avg_loss / len(zlib(answer)), which sets a text's loss against how compressible it
    is."""

    def score(self, row: ScoredRow, eos: int) -> float:
        return row.scores[0].avg_loss / len(zlib.compress(row.texts[0].encode()))


@metric("mia_reference", examples={"show": "membership", "title": "reference"})
@dataclass
class ReferenceAttack(Metric):
    """Score: avg_loss minus that of the suite's reference model. Source: arXiv:2012.07805."""

    forget: str
    holdout: str

    def needs(self) -> dict[str, Need]:
        return {
            "forget_rows": Scores(self.forget),
            "holdout_rows": Scores(self.holdout),
            "forget_reference": ReferenceScores(self.forget),
            "holdout_reference": ReferenceScores(self.holdout),
        }

    def compute(
        self,
        name: str,
        forget_rows: list[ScoredRow],
        holdout_rows: list[ScoredRow],
        forget_reference: list[ScoredRow],
        holdout_reference: list[ScoredRow],
        **_: object,
    ) -> Value:
        halves = (
            {
                row.index: row.scores[0].avg_loss - ref.scores[0].avg_loss
                for row, ref in zip(rows, refs, strict=True)
            }
            for rows, refs in ((forget_rows, forget_reference), (holdout_rows, holdout_reference))
        )
        return area_of(name, *halves)


@metric("mia_gradnorm", examples={"show": "membership", "title": "gradient norm"})
@dataclass
class GradNormAttack(Metric):
    """Score: the mean over parameter tensors of the gradient's p-norm; members lie flat. Source:
    arXiv:2402.17012."""

    QUIRKS: ClassVar[dict[str, Any]] = {"drop_last_label": True}

    forget: str
    holdout: str
    p: float = 2.0
    drop_last_label: bool = False

    def needs(self) -> dict[str, Need]:
        return {
            "forget_rows": GradNorms(self.forget, self.p, self.drop_last_label),
            "holdout_rows": GradNorms(self.holdout, self.p, self.drop_last_label),
        }

    def compute(
        self, name: str, forget_rows: list[NormedRow], holdout_rows: list[NormedRow], **_: object
    ) -> Value:
        return area_of(
            name, *({row.index: row.norm for row in rows} for rows in (forget_rows, holdout_rows))
        )


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
        if not np.isfinite(values).all():  # sorting would put them last, where nothing looks
            return float("nan")
        lowest = np.sort(values)[: max(1, int(self.k * len(values)))]
        return float(-lowest.mean()) if len(values) else 0.0


@metric("mia_min_k", examples={"show": "membership", "title": "min-k"})
@dataclass
class MinK(LowestTokens):
    """Score: minus the mean of the lowest share k of token log-probs."""

    def values(self, row: ScoredRow) -> np.ndarray:
        return row.scores[0].logprob


@metric("mia_min_k_plus_plus", examples={"show": "membership", "title": "min-k++"})
@dataclass
class MinKPlusPlus(LowestTokens):
    """As min-k, of (log p - mu) / sigma, with the vocabulary's mean and deviation at each
    position."""

    def values(self, row: ScoredRow) -> np.ndarray:
        score = row.scores[0]
        return (score.logprob - score.mean) / np.sqrt(np.maximum(score.variance, VARIANCE_FLOOR))


@dataclass
class AgainstRetain(Metric):
    """An attack's AUC against that of the retain model.

    privleak_default: the AUC assumed where there is no retain log; null, and the metric is absent
    without one.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {"privleak_default": 0.5}

    attack: str
    privleak_default: float | None = None

    def needs(self) -> dict[str, Need]:
        optional = self.privleak_default is not None
        return {"attack_value": Result(self.attack), "retain": Retain(self.attack, optional)}

    def compute(
        self, name: str, attack_value: Value, retain: dict[str, Any] | None, **_: object
    ) -> Value:
        area = retain["agg_value"] if retain else self.privleak_default
        assert (
            attack_value.agg is not None
            and attack_value.replicates is not None
            and area is not None
        )
        replicates = self.percent(attack_value.replicates, area)
        return Value(float(self.percent(attack_value.agg, area)), None, attack_value.n, replicates)

    def percent(self, auc: Any, retain: float) -> Any:
        raise NotImplementedError


@metric(
    "privleak",
    label="privleak",
    role="forget",
    better="near 0",
    meaning="Membership inference against the retain model's, in percent",
    decimals=1,
)
@dataclass
class PrivLeak(AgainstRetain):
    """((1 - AUC) - (1 - AUC_retain)) / (1 - AUC_retain) * 100: 0 is the retain model, below it
    under-unlearned."""

    def percent(self, auc: Any, retain: float) -> Any:
        return ((1 - auc) - (1 - retain)) / ((1 - retain) + 1e-10) * 100


@metric("rel_diff")
@dataclass
class RelativeDifference(AgainstRetain):
    """(AUC - AUC_retain) / AUC_retain * 100."""

    def percent(self, auc: Any, retain: float) -> Any:
        return (auc - retain) / (retain + 1e-10) * 100
