"""Whether two models' values per row can be told apart: the two-sample Kolmogorov-Smirnov test."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unteach.errors import UserError
from unteach.evals.base import Metric, Need, Result, Retain, Value
from unteach.registry import metric


# A p-value has no interval: rows drawn anew always differ more than the rows themselves.
@metric("ks_test", interval=False)
@dataclass
class ForgetQuality(Metric):
    """The p-value of the two-sample Kolmogorov-Smirnov test between this model's and the retain
    model's per-row values.

    Large: the two cannot be told apart. log_p stands beside it, because p underflows; with `log`,
    it is the value. There is no interval: two resampled samples differ more than the samples
    themselves, so that replicates of a p-value all lie below it, and say nothing of where it would
    fall on other rows.
    alternative: `greater` tests only whether this model's values are the smaller. Source: TOFU,
    arXiv:2401.06121; the one-sided test and ln p, ARC selective forgetting.
    """

    forget: str
    alternative: Literal["two-sided", "greater", "less"] = "two-sided"
    log: bool = False

    def needs(self) -> dict[str, Need]:
        return {"value": Result(self.forget), "retain": Retain(self.forget)}

    def compute(self, name: str, value: Value, retain: dict[str, Any], **_: object) -> Value:
        logged = retain.get("value_by_index") or {}
        own = np.array([v["score"] for v in (value.by_index or {}).values()])
        other = np.array([v["score"] for v in logged.values()])
        if not len(other):
            raise UserError(
                f"{name}: the retain log's {self.forget} has no values per example; make it again"
            )
        p, log_p = self.test(own, other)
        extra = {"p": p} if self.log else {"log_p": log_p}
        return Value(log_p if self.log else p, None, len(own), extra=extra)

    def test(self, own: np.ndarray, other: np.ndarray, method: Any = "auto") -> tuple[float, float]:
        """(p, ln p) of two samples; where p underflows, ln p is that of the leading term for large
        samples."""
        from scipy.stats import ks_2samp

        found = ks_2samp(own, other, alternative=self.alternative, method=method)
        p, size = float(found.pvalue), len(own) * len(other) / (len(own) + len(other))
        tail = float(-2 * size * found.statistic**2) + (
            np.log(2) if self.alternative == "two-sided" else 0.0
        )
        return p, float(np.log(p)) if p > 0 else float(tail)
