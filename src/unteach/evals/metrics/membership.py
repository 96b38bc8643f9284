"""Membership inference: can a score tell what was trained on from what never was?

Each attack scores every example, higher meaning less a member; its value is the ROC AUC with forget
as 0 and holdout as 1, so 1 says that the forget set is plainly remembered. Sources: loss,
arXiv:1709.01604; zlib, arXiv:2012.07805; min-k, arXiv:2310.16789; min-k++, arXiv:2404.02936;
PrivLeak, arXiv:2407.06460.
"""

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

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
    average_rows,
)
from unteach.evals.metrics.memorization import select_scored_tokens
from unteach.registry import metric

VARIANCE_FLOOR = 1e-6
Number = TypeVar("Number", float, np.ndarray)


def build_attack_value(
    name: str,
    forget: dict[int, float],
    holdout: dict[int, float],
) -> Value:
    """Build an attack's value: the AUC of its scores, with both halves' scores in the entry.

    Args:
        name: the metric's.
        forget: scores of the forget rows, by the row's number.
        holdout: scores of the holdout rows.
    """
    extra: dict[str, Any] = {
        "forget": _describe_half(f"{name}/forget", forget),
        "holdout": _describe_half(f"{name}/holdout", holdout),
    }
    forget_scores = np.array(list(forget.values()))  # [n]
    holdout_scores = np.array(list(holdout.values()))  # [m]
    area = bootstrap.auc(forget_scores, holdout_scores)
    extra["auc"] = area
    replicates = bootstrap.resample_two_samples(
        forget_scores,
        holdout_scores,
        name,
        statistic=bootstrap.auc,
    )
    return Value(
        area,
        n=len(forget) + len(holdout),
        replicates=replicates,
        extra=extra,
    )


def _describe_half(name: str, scores: dict[int, float]) -> dict[str, Any]:
    by_index = {index: {"score": score} for index, score in scores.items()}
    entry = average_rows(name, by_index, "score").to_json()
    return {
        "agg_value": entry["agg_value"],
        "value_by_index": entry["value_by_index"],
    }


@dataclass
class Attack(Metric):
    """An attack on the answers in two columns, of members and of non-members."""

    forget: str
    holdout: str

    def needs(self) -> dict[str, Need]:
        return {
            "forget_rows": Scores(self.forget),
            "holdout_rows": Scores(self.holdout),
        }

    def score(self, row: ScoredRow, eos: int) -> float:
        """Score one row, higher meaning less a member; `eos` is the end-of-sequence token's id."""
        raise NotImplementedError

    def compute(
        self,
        name: str,
        forget_rows: list[ScoredRow],
        holdout_rows: list[ScoredRow],
        eos: int,
        **_: object,
    ) -> Value:
        forget = {row.index: self.score(row, eos) for row in forget_rows}
        holdout = {row.index: self.score(row, eos) for row in holdout_rows}
        return build_attack_value(name, forget, holdout)


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
        compressed = zlib.compress(row.texts[0].encode())
        return row.scores[0].avg_loss / len(compressed)


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
        forget = _subtract_losses(forget_rows, forget_reference)
        holdout = _subtract_losses(holdout_rows, holdout_reference)
        return build_attack_value(name, forget, holdout)


def _subtract_losses(rows: list[ScoredRow], reference_rows: list[ScoredRow]) -> dict[int, float]:
    """Subtract the reference's losses over the same tokens, by row number."""
    differences = {}
    for row, reference_row in zip(rows, reference_rows, strict=True):
        loss = row.scores[0].avg_loss
        reference_loss = reference_row.scores[0].avg_loss
        differences[row.index] = loss - reference_loss
    return differences


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
        self,
        name: str,
        forget_rows: list[NormedRow],
        holdout_rows: list[NormedRow],
        **_: object,
    ) -> Value:
        forget = {row.index: row.norm for row in forget_rows}
        holdout = {row.index: row.norm for row in holdout_rows}
        return build_attack_value(name, forget, holdout)


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
        """Give a value for each token of the row's answer: [L]."""
        raise NotImplementedError

    def score(self, row: ScoredRow, eos: int) -> float:
        is_scored = select_scored_tokens(row.scores[0], eos, self.drop_last_label)
        values = self.values(row)[is_scored]
        # Sorting would put what is not finite last, where nothing looks.
        if not np.isfinite(values).all():
            return float("nan")
        if not len(values):
            return 0.0
        num_lowest = max(1, int(self.k * len(values)))
        lowest = np.sort(values)[:num_lowest]
        return float(-lowest.mean())


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
        variance = np.maximum(score.variance, VARIANCE_FLOOR)
        deviation = np.sqrt(variance)
        return (score.logprob - score.mean) / deviation


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
        return {
            "attack_value": Result(self.attack),
            "retain": Retain(self.attack, optional),
        }

    def compute(
        self,
        name: str,
        attack_value: Value,
        retain: dict[str, Any] | None,
        **_: object,
    ) -> Value:
        area = retain["agg_value"] if retain else self.privleak_default
        assert area is not None
        assert attack_value.agg is not None
        assert attack_value.replicates is not None
        percent = self.compute_percent(attack_value.agg, area)
        replicates = self.compute_percent(attack_value.replicates, area)
        return Value(
            float(percent),
            n=attack_value.n,
            replicates=replicates,
        )

    def compute_percent(self, auc: Number, retain: float) -> Number:
        """Compare an AUC, or replicates of one, with the retain model's."""
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

    def compute_percent(self, auc: Number, retain: float) -> Number:
        return ((1 - auc) - (1 - retain)) / ((1 - retain) + 1e-10) * 100


@metric("rel_diff")
@dataclass
class RelativeDifference(AgainstRetain):
    """(AUC - AUC_retain) / AUC_retain * 100."""

    def compute_percent(self, auc: Number, retain: float) -> Number:
        return (auc - retain) / (retain + 1e-10) * 100
