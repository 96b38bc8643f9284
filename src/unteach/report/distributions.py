"""How examples are spread, model by model: truth ratios against the retain model's, and membership
attacks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unteach.evals import bootstrap
from unteach.report.collect import RunResult, scores_of

RATIOS = ("forget_truth_ratio", "forget_mean_tr")
"""The first of these that some run has: TOFU's, ARC's."""
RATIO_RANGE = 1e-4, 1e4
"""Beyond these every ratio says the same; a longer axis would squeeze what lies between."""
MOST_POINTS = 2000
"""Points of a line in a page."""
ATTACKS = {
    "mia_loss": "loss",
    "mia_zlib": "zlib",
    "mia_min_k": "min-k",
    "mia_min_k_plus_plus": "min-k++",
    "mia_gradnorm": "gradient norm",
    "mia_reference": "reference",
}


@dataclass(frozen=True)
class Curve:
    """One run's line. `figure`: the number that sums it up, None where there is nothing to compare
    with."""

    run: int
    x: list[float]
    y: list[float]
    figure: float | None


@dataclass(frozen=True)
class Curves:
    """One picture: a line a run, and the runs that have none. `figure` is what the curves' numbers
    are called."""

    title: str
    figure: str
    curves: list[Curve]
    left_out: list[str]


def truth_ratios(runs: list[RunResult]) -> Curves | None:
    """Each run's empirical CDF of the forget rows' truth ratios, with its largest distance to the
    retain model's."""
    ratio = next(
        (name for name in RATIOS if any(scores_of(run.results.get(name)) for run in runs)),
        RATIOS[0],
    )
    scores = [np.array(list(scores_of(run.results.get(ratio)).values())) for run in runs]
    gold = next(
        (
            found
            for run, found in zip(runs, scores, strict=True)
            if run.kind == "retain" and len(found)
        ),
        None,
    )
    curves = [
        Curve(n, *cdf(found), distance(found, gold)) for n, found in enumerate(scores) if len(found)
    ]
    left_out = [run.name for run, found in zip(runs, scores, strict=True) if not len(found)]
    return Curves("truth ratio", "D", curves, left_out) if curves else None


def cdf(values: np.ndarray) -> tuple[list[float], list[float]]:
    """The corners of the empirical distribution function, from one end of the shown range to the
    other."""
    low, high = RATIO_RANGE
    at, counts = np.unique(values, return_counts=True)
    share = np.cumsum(counts) / len(values)
    inside = (at > low) & (at < high)
    ends = float((values <= low).mean()), float((values < high).mean())
    return [low, *at[inside].tolist(), high], [ends[0], *share[inside].tolist(), ends[1]]


def distance(values: np.ndarray, gold: np.ndarray | None) -> float | None:
    """Kolmogorov and Smirnov's D: the largest gap between the two distribution functions."""
    if gold is None or gold is values:
        return None
    from scipy.stats import ks_2samp

    return float(ks_2samp(values, gold).statistic)


def attacks(runs: list[RunResult]) -> list[Curves]:
    """For each membership attack that some run has scores of: ROC curves, the forget rows as the
    members."""
    found = []
    for metric, title in ATTACKS.items():
        curves, left_out = [], []
        for number, run in enumerate(runs):
            forget, holdout = halves(run.results.get(metric))
            if len(forget) and len(holdout):
                curves.append(Curve(number, *roc(forget, holdout), bootstrap.auc(forget, holdout)))
            else:
                left_out.append(run.name)
        if curves:
            found.append(Curves(title, "AUC", curves, left_out))
    return sorted(found, key=lambda one: len(one.left_out))


def halves(entry: object) -> tuple[np.ndarray, np.ndarray]:
    """An attack's scores of the forget and of the holdout rows; empty where the log has none."""
    parts = [entry.get(half) if isinstance(entry, dict) else None for half in ("forget", "holdout")]
    forget, holdout = (np.array(list(scores_of(part).values())) for part in parts)
    return forget, holdout


def roc(forget: np.ndarray, holdout: np.ndarray) -> tuple[list[float], list[float]]:
    """(holdout rows taken for members, members recognised) at each threshold: a low score says
    member.

    Equal scores make a slanted piece, so that the area is the AUC with ties half. Only the corners
    are kept.
    """
    thresholds = np.unique(np.concatenate([forget, holdout]))
    x, y = (
        np.searchsorted(np.sort(half), thresholds, "right") / len(half)
        for half in (holdout, forget)
    )
    points = np.array([[0.0, *x], [0.0, *y]])
    steps = np.diff(points)
    turns = steps[0, 1:] * steps[1, :-1] != steps[0, :-1] * steps[1, 1:]
    corners = points[:, np.concatenate([[True], turns, [True]])]
    return corners[0].tolist(), corners[1].tolist()


def as_data(shown: Curves) -> dict[str, Any]:
    """The picture as the page's script reads it."""
    curves = []
    for curve in shown.curves:
        kept = _keep_points(len(curve.x))
        x = _short([curve.x[place] for place in kept])
        y = _short([curve.y[place] for place in kept])
        curves.append([curve.run, x, y, None if curve.figure is None else round(curve.figure, 4)])
    return {
        "title": shown.title,
        "figure": shown.figure,
        "curves": curves,
        "leftOut": shown.left_out,
    }


def _keep_points(num_points: int) -> list[int]:
    """The points of a line that a page draws: all or, of more than a screen can show, some evenly
    and the last."""
    stride = -(-num_points // MOST_POINTS)
    return sorted({*range(0, num_points, stride), num_points - 1})


def _short(values: list[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
