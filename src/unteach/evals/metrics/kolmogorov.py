"""Whether two models' values per row can be told apart: the two-sample Kolmogorov-Smirnov test."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unteach.errors import UserError
from unteach.evals.base import Metric, Need, Result, Retain, Value
from unteach.lazy import scipy_stats
from unteach.registry import metric


# A p-value has no interval: rows drawn anew always differ more than the rows themselves.
@metric("ks_test", interval=False)
@dataclass
class ForgetQuality(Metric):
    """The p-value of the two-sample Kolmogorov-Smirnov test between this model's and the retain
    model's per-row values.

    Large: the two cannot be told apart. The log has ln p as `log_p` too, because p underflows; with
    `log`, it is the value. There is no interval: two resampled samples differ more than the samples
    themselves, so that replicates of a p-value all lie below it, and say nothing of where it would
    fall on other rows.
    alternative: `greater` tests only whether this model's values are the smaller. Source: TOFU,
    arXiv:2401.06121; the one-sided test and ln p, ARC selective forgetting.
    """

    forget: str
    alternative: Literal["two-sided", "greater", "less"] = "two-sided"
    log: bool = False

    def needs(self) -> dict[str, Need]:
        return {
            "value": Result(self.forget),
            "retain": Retain(self.forget),
        }

    def compute(
        self,
        name: str,
        value: Value,
        retain: dict[str, Any],
        **_: object,
    ) -> Value:
        own_rows = value.by_index or {}
        retain_rows = retain.get("value_by_index") or {}
        if not retain_rows:
            raise UserError(
                f"{name}: the retain log's {self.forget} has no values per example; make it again"
            )
        own = np.array([row["score"] for row in own_rows.values()])  # [n]
        other = np.array([row["score"] for row in retain_rows.values()])  # [m]
        p, log_p = self.test(own, other)
        if self.log:
            return Value(log_p, n=len(own), extra={"p": p})
        return Value(p, n=len(own), extra={"log_p": log_p})

    def test(
        self,
        own: np.ndarray,
        other: np.ndarray,
        method: Literal["auto", "exact", "asymp"] = "auto",
    ) -> tuple[float, float]:
        """Compute p and ln p of two samples, [n] and [m].

        Where p underflows, ln p is that of the leading term for large samples: -2 N D^2, with N =
        nm / (n + m) and D the statistic, and ln 2 more for two sides.
        """
        result = scipy_stats.ks_2samp(
            own,
            other,
            alternative=self.alternative,
            method=method,
        )
        p = float(result.pvalue)
        if p > 0:
            return p, float(np.log(p))
        effective_size = len(own) * len(other) / (len(own) + len(other))
        log_p = float(-2 * effective_size * result.statistic**2)
        if self.alternative == "two-sided":
            log_p += float(np.log(2))
        return p, log_p
