"""Values made of other values: model utility, and how far the model is from one that never saw the forget set."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unteach.errors import UserError
from unteach.evals import stats
from unteach.evals.base import Metric, Need, Result, Retain, Value
from unteach.registry import metric


@metric("hm_aggregate")
@dataclass
class HarmonicMean(Metric):
    """The harmonic mean of other metrics' values; 0 as soon as one of them is 0."""

    of: list[str]

    def needs(self) -> dict[str, Need]:
        return {part: Result(part) for part in self.of}

    def compute(self, name: str, **measured: Any) -> Value:
        parts: list[Value] = [measured[part] for part in self.of]
        values = np.array([part.agg for part in parts], dtype=float)
        replicates = np.stack([part.replicates for part in parts if part.replicates is not None], axis=-1)
        return Value(float(stats.harmonic_mean(values)), None, sum(p.n for p in parts), stats.harmonic_mean(replicates))


@metric("ks_test")
@dataclass
class ForgetQuality(Metric):
    """The p-value of the two-sample Kolmogorov-Smirnov test between this model's and the retain model's per-row values.

    Large: the two cannot be told apart. log_p stands beside it, because p underflows. Source: TOFU, arXiv:2401.06121.
    """

    forget: str

    def needs(self) -> dict[str, Need]:
        return {"value": Result(self.forget), "retain": Retain(self.forget)}

    def compute(self, name: str, value: Value, retain: dict[str, Any], **_: Any) -> Value:
        from scipy.stats import ks_2samp

        logged = retain.get("value_by_index") or {}
        own = np.array([v["score"] for v in (value.by_index or {}).values()])
        other = np.array([v["score"] for v in logged.values()])
        if not len(other):
            raise UserError(f"{name}: the retain log's {self.forget} has no values per example; make it again")
        p = float(ks_2samp(own, other).pvalue)
        replicates = stats.of_two(own, other, name, lambda a, b: float(ks_2samp(a, b, method="asymp").pvalue))
        log_p = float(np.log(p)) if p > 0 else None
        return Value(p, None, len(own), replicates, {"log_p": log_p})
