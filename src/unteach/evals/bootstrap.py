"""Bootstrap intervals: every value keeps replicates, and composites are computed on those of their
parts."""

from collections.abc import Callable

import numpy as np

from unteach.seeds import subseed

REPLICATES = 500


def resamples(name: str, size: int) -> np.ndarray:
    """REPLICATES seeded draws with replacement from range(size): [R, size]."""
    return np.random.default_rng(subseed(0, "bootstrap", name)).integers(
        0, size, (REPLICATES, size)
    )


def of_mean(values: np.ndarray, name: str) -> np.ndarray:
    """Replicates of the mean of per-example values: [n] -> [R]."""
    return values[resamples(name, len(values))].mean(-1)


def of_two(
    first: np.ndarray,
    second: np.ndarray,
    name: str,
    statistic: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """Replicates of a statistic of two independent samples: [n], [m] -> [R]."""
    a, b = resamples(f"{name}/first", len(first)), resamples(f"{name}/second", len(second))
    return np.array([statistic(first[i], second[j]) for i, j in zip(a, b, strict=True)])


def interval(replicates: np.ndarray | None, value: float | None = None) -> list[float] | None:
    """Take the 95 % percentile interval of replicates, widened where needed to hold `value`.

    Resampling moves a value that stands at a bound of what it can be (a distance of zero, a perfect
    agreement) to one side only: every replicate may then lie below a value that is itself the best
    estimate.
    """
    if replicates is None or not np.isfinite(replicates).any():
        return None
    low, high = np.nanpercentile(replicates, [2.5, 97.5])
    if value is not None and np.isfinite(value):
        low, high = min(low, value), max(high, value)
    return [float(low), float(high)]


def auc(forget: np.ndarray, holdout: np.ndarray) -> float:
    """Area under the ROC curve with holdout as the positive class: P(score_holdout > score_forget),
    ties half."""
    order = np.sort(forget)
    below, upto = np.searchsorted(order, holdout, "left"), np.searchsorted(order, holdout, "right")
    return float(((below + upto) / 2).mean() / len(forget))


def harmonic_mean(values: np.ndarray) -> np.ndarray:
    """Harmonic mean over the last axis; 0 where any value is 0, NaN where any is NaN."""
    with np.errstate(divide="ignore"):
        return values.shape[-1] / (1 / values).sum(-1)
