"""Bootstrap intervals: every value keeps replicates of itself, and a value made of others is
computed on the replicates of its parts."""

from collections.abc import Callable

import numpy as np

from unteach.seeds import derive_seed

NUM_REPLICATES = 500


def draw_resamples(name: str, size: int) -> np.ndarray:
    """Draw the indices of seeded resamples with replacement.

    Args:
        name: what is resampled; the same name gives the same draws.
        size: number of examples.

    Returns:
        Indices below `size`, [R, size].
    """
    generator = np.random.default_rng(derive_seed(0, "bootstrap", name))
    return generator.integers(0, size, (NUM_REPLICATES, size))


def resample_mean(values: np.ndarray, name: str) -> np.ndarray:
    """Compute replicates of the mean of per-example values: [n] -> [R]."""
    indices = draw_resamples(name, len(values))  # [R, n]
    return values[indices].mean(-1)


def resample_two_samples(
    first: np.ndarray,
    second: np.ndarray,
    name: str,
    statistic: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """Compute replicates of a statistic of two independent samples: [n], [m] -> [R]."""
    first_indices = draw_resamples(f"{name}/first", len(first))  # [R, n]
    second_indices = draw_resamples(f"{name}/second", len(second))  # [R, m]
    replicates = np.empty(NUM_REPLICATES)
    for index in range(NUM_REPLICATES):
        first_resample = first[first_indices[index]]
        second_resample = second[second_indices[index]]
        replicates[index] = statistic(first_resample, second_resample)
    return replicates


def compute_interval(
    replicates: np.ndarray | None, value: float | None = None
) -> list[float] | None:
    """Take the 95 % percentile interval of replicates, widened where needed to hold `value`.

    Resampling moves a value at a bound of its range (a distance of zero, a perfect agreement) to
    one side only: every replicate may then lie below a value that is itself the best estimate.

    Returns:
        The lower and the upper bound; None without finite replicates.
    """
    if replicates is None or not np.isfinite(replicates).any():
        return None
    low, high = np.nanpercentile(replicates, [2.5, 97.5])
    if value is not None and np.isfinite(value):
        low = min(low, value)
        high = max(high, value)
    return [float(low), float(high)]


def auc(forget: np.ndarray, holdout: np.ndarray) -> float:
    """Compute the area under the ROC curve with holdout as the positive class.

    It is P(score_holdout > score_forget), a tie counting one half: [n], [m] -> scalar.
    """
    sorted_forget = np.sort(forget)
    num_below = np.searchsorted(sorted_forget, holdout, "left")
    num_up_to = np.searchsorted(sorted_forget, holdout, "right")
    # Between the two lie the ties, half of which are counted.
    num_beaten = (num_below + num_up_to) / 2
    return float(num_beaten.mean() / len(forget))


def harmonic_mean(values: np.ndarray) -> np.ndarray:
    """Take the harmonic mean over the last axis: 0 where any value is 0, NaN where any is NaN."""
    num_values = values.shape[-1]
    with np.errstate(divide="ignore"):
        return num_values / (1 / values).sum(-1)
