"""How examples are spread, model by model: truth ratios against the retain model's, and membership
attacks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unteach.evals import bootstrap
from unteach.lazy import scipy_stats
from unteach.report.collect import REFERENCES, RunResult, read_scores
from unteach.report.colours import Tints, get_colour, get_dash
from unteach.report.columns import Column, load_known_columns
from unteach.report.pictures import Axis, Guide, Picture, Point, Series
from unteach.report.sets import choose_drawn, note_drawn
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
        run_index: its place in the list of runs.
        x, y: its points.
        figure: the number that sums it up, None where there is nothing to compare with.
    """

    run_index: int
    x: list[float]
    y: list[float]
    figure: float | None


@dataclass(frozen=True)
class Curves:
    """A line a run.

    Attributes:
        figure: what the curves' numbers are called.
        left_out: the runs that have no line.
    """

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
        scores = {}
        for run_index in choose_drawn(runs):
            entry = runs[run_index].results.get(column.metric)
            scores[run_index] = _read_array(entry)
        if any(map(len, scores.values())):
            return _build_truth_ratios(runs, scores)
    return None


def _build_truth_ratios(runs: list[RunResult], scores: dict[int, np.ndarray]) -> Curves:
    """Build the curves of runs from their examples' truth ratios, none of a run without."""
    gold = None  # of the first retain model that has any
    for run_index, values in scores.items():
        if gold is None and runs[run_index].kind == "retain" and len(values):
            gold = values
    curves = Curves(
        title="truth ratio",
        figure="D",
        curves=[],
        left_out=[],
    )
    for run_index, values in scores.items():
        if not len(values):
            curves.left_out.append(runs[run_index].name)
            continue
        x, y = build_cdf(values)
        curve = Curve(
            run_index=run_index,
            x=x,
            y=y,
            figure=measure_distance(values, gold),
        )
        curves.curves.append(curve)
    return curves


def _list_columns(runs: list[RunResult], shown_as: str) -> Iterator[Column]:
    """List the metrics whose examples are shown in one way: as described, else as known."""
    described: dict[str, Column] = {}
    for run in runs:
        for metric, column in run.described.items():
            described.setdefault(metric, column)
    columns = {**load_known_columns(), **described}
    for column in columns.values():
        if column.examples is not None and column.examples.show == shown_as:
            yield column


def _read_array(entry: object) -> np.ndarray:
    scores = read_scores(entry)
    return np.array(list(scores.values()))


def build_cdf(values: np.ndarray) -> tuple[list[float], list[float]]:
    """Build the corners of the empirical distribution function, from one end of the shown range to
    the other.

    Returns:
        The values, and the share of all that is no larger than each.
    """
    low, high = RATIO_RANGE
    distinct, counts = np.unique(values, return_counts=True)
    shares = np.cumsum(counts) / len(values)
    inside = (distinct > low) & (distinct < high)
    share_at_low = float((values <= low).mean())
    share_at_high = float((values < high).mean())
    x = [low, *distinct[inside].tolist(), high]
    y = [share_at_low, *shares[inside].tolist(), share_at_high]
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
        attack = _build_attack(runs, column)
        if attack.curves:
            attacks.append(attack)
    return sorted(attacks, key=lambda attack: len(attack.left_out))


def _build_attack(runs: list[RunResult], column: Column) -> Curves:
    """Build one attack's ROC curves, none of a run without its scores."""
    title = column.examples.title if column.examples else None
    attack = Curves(
        title=title or column.label,
        figure="AUC",
        curves=[],
        left_out=[],
    )
    for run_index in choose_drawn(runs):
        run = runs[run_index]
        entry = run.results.get(column.metric)
        forget, holdout = read_halves(entry)
        if not len(forget) or not len(holdout):
            attack.left_out.append(run.name)
            continue
        x, y = build_roc(forget, holdout)
        curve = Curve(
            run_index=run_index,
            x=x,
            y=y,
            figure=bootstrap.auc(forget, holdout),
        )
        attack.curves.append(curve)
    return attack


def read_halves(entry: object) -> tuple[np.ndarray, np.ndarray]:
    """Read an attack's scores of the forget and of the holdout rows; empty where the log has
    none."""
    if not isinstance(entry, dict):
        return np.array([]), np.array([])
    forget = _read_array(entry.get("forget"))
    holdout = _read_array(entry.get("holdout"))
    return forget, holdout


def build_roc(
    forget: np.ndarray,
    holdout: np.ndarray,
) -> tuple[list[float], list[float]]:
    """Build (holdout rows taken for members, members recognised) at each threshold: a low score
    says member.

    Equal scores make a slanted piece, so that the area is the AUC with ties half. Only the corners
    are kept.
    """
    thresholds = np.unique(np.concatenate([forget, holdout]))
    x = np.searchsorted(np.sort(holdout), thresholds, "right") / len(holdout)
    y = np.searchsorted(np.sort(forget), thresholds, "right") / len(forget)
    x = np.concatenate([[0.0], x])
    y = np.concatenate([[0.0], y])

    # A corner is where a step goes another way than the one before it.
    x_steps = np.diff(x)
    y_steps = np.diff(y)
    left_turn = x_steps[:-1] * y_steps[1:]
    right_turn = x_steps[1:] * y_steps[:-1]
    is_turn = left_turn != right_turn
    is_corner = np.concatenate([[True], is_turn, [True]])
    return x[is_corner].tolist(), y[is_corner].tolist()


def build_ratio_picture(ratios: Curves, runs: list[RunResult], tints: Tints) -> Picture:
    """Describe the picture of the truth ratios."""
    # The axis is as long as the values need; a curve's first and last point are the range's ends.
    low, high = 0.1, 10.0
    for curve in ratios.curves:
        inner = curve.x[1:-1]
        low = min([low, *inner])
        high = max([high, *inner])
    least, most = RATIO_RANGE
    limits = (max(least, low / 1.5), min(most, high * 1.5))

    note = "Left of 1 the true answer is still the likelier."
    if any(curve.figure is not None for curve in ratios.curves):
        note += (
            " The number is the largest gap to the retain model's curve: near 0, the two cannot be "
            "told apart."
        )
    return Picture(
        choices=("truth ratios",),
        x=Axis(
            "truth ratio: how likely false answers are beside the true one",
            is_log=True,
            limits=limits,
        ),
        y=Axis("share of forget rows below", limits=SHARES),
        series=_build_series(ratios, runs, tints, is_stepped=True),
        guides=(Guide("x", 1.0, "soft", "dotted"),),
        note=note + _name_left_out(ratios) + note_drawn(runs, choose_drawn(runs)),
    )


def build_attack_picture(
    attack: Curves,
    runs: list[RunResult],
    tints: Tints,
) -> Picture:
    """Describe the picture of one attack."""
    chance = [Point(0.0, 0.0), Point(1.0, 1.0)]
    guess = Series(
        "a guess",
        "soft",
        chance,
        line="dotted",
        width=1,
        in_legend=False,
    )
    note = (
        "The number is the area: 0.5 is a guess, 1 says that the forget rows are plainly "
        "remembered, 0 that they stick out as unlearned."
    )
    return Picture(
        choices=(attack.title,),
        x=Axis("held-out rows taken for members", limits=SHARES),
        y=Axis("forget rows recognised", limits=SHARES),
        series=[guess, *_build_series(attack, runs, tints)],
        note=note + _name_left_out(attack) + note_drawn(runs, choose_drawn(runs)),
    )


def _build_series(
    curves: Curves,
    runs: list[RunResult],
    tints: Tints,
    is_stepped: bool = False,
) -> list[Series]:
    series = []
    for curve in curves.curves:
        run = runs[curve.run_index]
        name = hover = run.name
        if curve.figure is not None:
            figure = format_value(curve.figure)
            name = f"{run.name}  {figure}"
            hover = f"{run.name}\n{curves.figure} {figure}"
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
    count = len(curve.x)
    stride = math.ceil(count / MOST_POINTS)
    kept = {*range(0, count, stride), count - 1}
    for index in sorted(kept):
        yield Point(curve.x[index], curve.y[index])


def _name_left_out(curves: Curves) -> str:
    """Name the runs without a curve, in a sentence of a picture's note."""
    if not curves.left_out:
        return ""
    names = ", ".join(curves.left_out)
    return f" Without it: {names}."
