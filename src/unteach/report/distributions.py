"""How examples are spread, model by model: truth ratios against the retain model's, and membership
attacks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unteach.evals import bootstrap
from unteach.lazy import scipy_stats
from unteach.report.collect import REFERENCES, RunResult, read_scores
from unteach.report.colours import Tints, get_colour, get_dash
from unteach.report.columns import Column, load_known_columns
from unteach.report.pictures import Axis, Guide, Picture, Point, Series
from unteach.wording import format_value

RATIO_RANGE = 1e-4, 1e4
"""Beyond these every ratio says the same; a longer axis would squeeze what lies between."""
SHARES = -0.02, 1.02
MOST_POINTS = 2000
"""Points of a line in a page."""


@dataclass(frozen=True)
class Curve:
    """One run's line.

    Attributes:
        figure: the number that sums it up, None where there is nothing to compare with.
    """

    run_index: int
    x: list[float]
    y: list[float]
    figure: float | None


@dataclass(frozen=True)
class Curves:
    """A line a run, and the runs that have none; `figure` is what the curves' numbers are
    called."""

    title: str
    figure: str
    curves: list[Curve]
    left_out: list[str]


def collect_truth_ratios(runs: list[RunResult]) -> Curves | None:
    """Give each run's empirical CDF of the forget rows' truth ratios, with its largest distance to
    the retain model's.

    They are those of the first metric that is described so and that some run has examples of.
    """
    for column in _list_columns(runs, "truth_ratios"):
        scores = [_read_array(run.results.get(column.metric)) for run in runs]
        if any(len(values) for values in scores):
            return _build_truth_ratios(runs, scores)
    return None


def _build_truth_ratios(runs: list[RunResult], scores: list[np.ndarray]) -> Curves:
    gold = None
    for run, values in zip(runs, scores, strict=True):
        if gold is None and run.kind == "retain" and len(values):
            gold = values
    curves, left_out = [], []
    for run_index, (run, values) in enumerate(zip(runs, scores, strict=True)):
        if len(values):
            curves.append(Curve(run_index, *build_cdf(values), measure_distance(values, gold)))
        else:
            left_out.append(run.name)
    return Curves("truth ratio", "D", curves, left_out)


def _list_columns(runs: list[RunResult], shown_as: str) -> Iterator[Column]:
    """List the metrics whose examples are shown in one way: as described, else as known."""
    described: dict[str, Column] = {}
    for run in runs:
        for metric, column in run.described.items():
            described.setdefault(metric, column)
    for column in {**load_known_columns(), **described}.values():
        if column.examples is not None and column.examples.show == shown_as:
            yield column


def _read_array(entry: object) -> np.ndarray:
    return np.array(list(read_scores(entry).values()))


def build_cdf(values: np.ndarray) -> tuple[list[float], list[float]]:
    """Build the corners of the empirical distribution function, from one end of the shown range to
    the other."""
    low, high = RATIO_RANGE
    distinct, counts = np.unique(values, return_counts=True)
    shares = np.cumsum(counts) / len(values)
    inside = (distinct > low) & (distinct < high)
    x = [low, *distinct[inside].tolist(), high]
    y = [float((values <= low).mean()), *shares[inside].tolist(), float((values < high).mean())]
    return x, y


def measure_distance(values: np.ndarray, gold: np.ndarray | None) -> float | None:
    """Measure Kolmogorov and Smirnov's D: the largest gap between the two distribution
    functions."""
    if gold is None or gold is values:
        return None
    return float(scipy_stats.ks_2samp(values, gold).statistic)


def collect_attacks(runs: list[RunResult]) -> list[Curves]:
    """Give the ROC curves of each membership attack that some run has scores of, the forget rows as
    the members; those that most runs have come first."""
    attacks = []
    for column in _list_columns(runs, "membership"):
        curves, left_out = [], []
        for run_index, run in enumerate(runs):
            forget, holdout = read_halves(run.results.get(column.metric))
            if len(forget) and len(holdout):
                auc = bootstrap.auc(forget, holdout)
                curves.append(Curve(run_index, *build_roc(forget, holdout), auc))
            else:
                left_out.append(run.name)
        if curves:
            title = column.examples.title if column.examples else None
            attacks.append(Curves(title or column.label, "AUC", curves, left_out))
    return sorted(attacks, key=lambda attack: len(attack.left_out))


def read_halves(entry: object) -> tuple[np.ndarray, np.ndarray]:
    """Read an attack's scores of the forget and of the holdout rows; empty where the log has
    none."""
    if not isinstance(entry, dict):
        return np.array([]), np.array([])
    return _read_array(entry.get("forget")), _read_array(entry.get("holdout"))


def build_roc(forget: np.ndarray, holdout: np.ndarray) -> tuple[list[float], list[float]]:
    """Build (holdout rows taken for members, members recognised) at each threshold: a low score
    says member.

    Equal scores make a slanted piece, so that the area is the AUC with ties half. Only the corners
    are kept.
    """
    thresholds = np.unique(np.concatenate([forget, holdout]))
    x = np.searchsorted(np.sort(holdout), thresholds, "right") / len(holdout)
    y = np.searchsorted(np.sort(forget), thresholds, "right") / len(forget)
    points = np.array([[0.0, *x], [0.0, *y]])
    # A corner is where a step goes another way than the one before it.
    steps = np.diff(points)
    is_turn = steps[0, 1:] * steps[1, :-1] != steps[0, :-1] * steps[1, 1:]
    corners = points[:, np.concatenate([[True], is_turn, [True]])]
    return corners[0].tolist(), corners[1].tolist()


def build_ratio_picture(ratios: Curves, runs: list[RunResult], tints: Tints) -> Picture:
    """Describe the picture of the truth ratios."""
    inner = [x for curve in ratios.curves for x in curve.x[1:-1]]
    low, high = min([0.1, *inner]) / 1.5, max([10.0, *inner]) * 1.5
    limits = max(RATIO_RANGE[0], low), min(RATIO_RANGE[1], high)
    note = "Left of 1 the true answer is still the likelier."
    if any(curve.figure is not None for curve in ratios.curves):
        note += (
            " The number is the largest gap to the retain model's curve: near 0, the two cannot be "
            "told apart."
        )
    return Picture(
        choices=("truth ratios",),
        x=Axis("truth ratio: how likely false answers are beside the true one", True, limits),
        y=Axis("share of forget rows below", limits=SHARES),
        series=_build_series(ratios, runs, tints, is_stepped=True),
        guides=(Guide("x", 1.0, "soft", "dotted"),),
        note=note + _name_left_out(ratios),
    )


def build_attack_picture(attack: Curves, runs: list[RunResult], tints: Tints) -> Picture:
    """Describe the picture of one attack."""
    chance = [Point(0.0, 0.0), Point(1.0, 1.0)]
    guess = Series("a guess", "soft", chance, line="dotted", width=1, in_legend=False)
    note = (
        "The number is the area: 0.5 is a guess, 1 says that the forget rows are plainly "
        "remembered, 0 that they stick out as unlearned."
    )
    return Picture(
        choices=(attack.title,),
        x=Axis("held-out rows taken for members", limits=SHARES),
        y=Axis("forget rows recognised", limits=SHARES),
        series=[guess, *_build_series(attack, runs, tints)],
        note=note + _name_left_out(attack),
    )


def _build_series(
    curves: Curves, runs: list[RunResult], tints: Tints, is_stepped: bool = False
) -> list[Series]:
    series = []
    for curve in curves.curves:
        run = runs[curve.run_index]
        name = hover = run.name
        if curve.figure is not None:
            name = f"{run.name}  {format_value(curve.figure)}"
            hover = f"{run.name}\n{curves.figure} {format_value(curve.figure)}"
        series.append(
            Series(
                name=name,
                colour=get_colour(run, tints),
                points=list(_thin(curve)),
                line=get_dash(run, tints),
                width=2.2 if run.kind in REFERENCES else 1.5,
                hover=hover,
                is_stepped=is_stepped,
            )
        )
    return series


def _thin(curve: Curve) -> Iterator[Point]:
    """List the points of a curve that are drawn: all or, of more than a screen can show, some
    evenly and the last."""
    stride = -(-len(curve.x) // MOST_POINTS)
    last = len(curve.x) - 1
    for index in sorted({*range(0, len(curve.x), stride), last}):
        yield Point(curve.x[index], curve.y[index])


def _name_left_out(curves: Curves) -> str:
    return f" Without it: {', '.join(curves.left_out)}." if curves.left_out else ""
