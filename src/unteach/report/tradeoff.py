"""What was forgotten against what was kept: the views of it that some runs give, and their
pictures."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.colours import Tints, get_colour
from unteach.report.columns import (
    FORGET,
    HIGHER,
    LOWER,
    NEAR_BEFORE,
    NEAR_RETAIN,
    NEAR_ZERO,
    RETAIN,
    Column,
)
from unteach.report.fronts import TradePoint, find_front
from unteach.report.judging import (
    find_gone,
    list_aims,
    list_headline_columns,
    list_values,
    measure_shortfall,
)
from unteach.report.labels import CROWD
from unteach.report.pictures import Axis, Guide, Marker, Picture, Point, Series
from unteach.report.sets import are_comparable
from unteach.wording import format_value

P_FLOOR = 1e-20
"""Where a p-value is drawn that is lower. They run down to 1e-300; below this all say the same, and
a longer axis would hide every other point."""
P_LINE = 0.05
MOST_NAMED = 60
"""Points of a picture that may all have their names beside them; of more, some of the front."""
P_RANGE = (P_FLOOR / 3, 5.0)
ARROWS = {
    (-1, 1): "↖",
    (0, 1): "↑",
    (1, 1): "↗",
    (-1, -1): "↙",
    (0, -1): "↓",
    (1, -1): "↘",
    (-1, 0): "←",
    (1, 0): "→",
}
"""By where good is: left or right, below or above."""
KINDS: dict[str, tuple[str, Marker]] = {
    "base": ("base", "ring"),
    "start": ("before", "ring"),
    "full": ("full", "circle"),
    "retain": ("retain", "diamond"),
    "forget": ("unlearned", "circle"),
    "eval": ("evaluated", "square"),
    "": ("other", "square"),
}
"""By kind: the word in the legend, and the marker."""


@dataclass(frozen=True)
class View:
    """One forget metric against one retain metric.

    Attributes:
        gold_x: the retain models' values along x, where these are what is aimed at.
        left_out: the runs that have no place in it.
        comparable: whether all forget the same: what forgets one set is no better or worse than
            what forgets another.
        gone: the runs, by their places, that have lost what they were to keep.
    """

    x: Column
    y: Column
    points: list[TradePoint]
    gold_x: list[float]
    gold_y: list[float]
    left_out: list[str]
    comparable: bool
    gone: set[int] = field(default_factory=set)

    @property
    def is_crowded(self) -> bool:
        """Whether there are too many points for a name beside each."""
        return len(self.points) > MOST_NAMED

    @property
    def better(self) -> str:
        """Which way is good, in words that need no legend."""
        up, upward = self._find_good_up()
        along, sideways = self._find_good_along()
        arrow = ARROWS.get((along, up), "")
        return f"{arrow} better: {upward}{sideways}".strip()

    def _find_good_up(self) -> tuple[int, str]:
        if self.y.better == LOWER:
            return -1, "down"
        if self.y.better == NEAR_BEFORE:
            return 1, f"{get_short_name(self.y)} near what it was before"
        return 1, "up"

    def _find_good_along(self) -> tuple[int, str]:
        if self.x.better == HIGHER:
            return 1, " and to the right"
        if self.x.better == LOWER:
            return -1, " and to the left"
        if self.x.better == NEAR_ZERO:
            return 0, ", and nearer 0"
        if self.x.better == NEAR_BEFORE:
            return 0, f", and {get_short_name(self.x)} near what it was before"
        if not self.gold_x:
            return 0, "; only a retain model shows how far to forget"
        is_left = min(self.gold_x) < sum(self.x_range) / 2
        return -1 if is_left else 1, ", and nearer the gold line"

    @property
    def front(self) -> list[TradePoint]:
        """Pareto's front of the unlearned models, from left to right: no other is as good at both
        and better at one.

        A model whose utility is gone is not on it. Empty where they forget different sets.
        """
        if not self.comparable:
            return []
        judged = []
        for point in self.points:
            is_reference = point.kind in REFERENCES
            if not is_reference and point.run_index not in self.gone:
                judged.append(point)
        return find_front(judged)

    @property
    def x_range(self) -> tuple[float, float]:
        """Where the x axis begins and ends."""
        if self.x.has_p_value_scale:
            return P_RANGE
        values = [point.x for point in self.points]
        return _find_range([*values, *self.gold_x])

    @property
    def y_range(self) -> tuple[float, float]:
        """Where the y axis begins and ends."""
        values = [point.y for point in self.points]
        return _find_range([*values, *self.gold_y])


def get_short_name(column: Column) -> str:
    """Get what a metric is called on a button and beside a point."""
    return column.axis.short or column.label


def list_views(runs: list[RunResult]) -> list[View]:
    """List every view that these runs can give, the default first.

    x is any headline metric of the forget rows, y any of the retain rows. There is none where no
    run has both.
    """
    gone = find_gone(runs)
    views = []
    for y in _list_axes(runs, RETAIN):
        for x in _list_axes(runs, FORGET):
            view = _build_view(runs, x, y, gone)
            if view.points:
                views.append(view)
    return views


def _list_axes(runs: list[RunResult], role: str) -> list[Column]:
    """List the metrics of one role: those that say their rank, then the rest as the table has
    them."""
    ranked = []
    others = []
    for column in list_headline_columns(runs):
        if column.role != role:
            continue
        if column.axis.rank is None:
            others.append(column)
        else:
            ranked.append(column)
    ranked.sort(key=lambda column: column.axis.rank or 0)
    return [*ranked, *others]


def _build_view(
    runs: list[RunResult],
    x: Column,
    y: Column,
    gone: set[int],
) -> View:
    """Build the view of x against y, with a point for each run that has both."""
    points = []
    left_out = []
    aims_x, aims_y = list_aims(runs, x), list_aims(runs, y)
    for run_index, run in enumerate(runs):
        point = _build_point(run, run_index, x, y, aims_x, aims_y)
        if point is None:
            left_out.append(run.name)
        else:
            points.append(point)
    gold_x = []
    if x.better == NEAR_RETAIN:
        gold_x = list_values(runs, x.metric, "retain")
    return View(
        x=x,
        y=y,
        points=points,
        gold_x=gold_x,
        gold_y=list_values(runs, y.metric, "retain"),
        left_out=left_out,
        comparable=are_comparable(runs),
        gone=gone,
    )


def _build_point(
    run: RunResult,
    run_index: int,
    x: Column,
    y: Column,
    aims_x: list[float],
    aims_y: list[float],
) -> TradePoint | None:
    """Place one run in a view; None where it lacks one of the values."""
    x_value = run.value(x.metric)
    y_value = run.value(y.metric)
    if x_value is None or y_value is None:
        return None
    # With nothing to be near to, less is more forgotten, and more is more kept.
    remembered = measure_shortfall(run, x, aims_x)
    if remembered is None:
        remembered = x_value
    lost = measure_shortfall(run, y, aims_y)
    if lost is None:
        lost = -y_value
    return TradePoint(
        run_index=run_index,
        name=run.name,
        kind=run.kind,
        x=max(x_value, P_FLOOR) if x.has_p_value_scale else x_value,
        y=y_value,
        true_x=x_value,
        remembered=remembered,
        lost=lost,
    )


def _find_range(values: list[float]) -> tuple[float, float]:
    """Go from zero, so that distances are honest, to a little beyond the largest value."""
    low = min(0.0, *values)
    high = max(0.0, *values)
    length = (high - low) or 1.0
    margin = 0.08 * length
    return low - margin, high + margin


def build_picture(view: View, runs: list[RunResult], tints: Tints) -> Picture:
    """Describe the picture of a view."""
    x_axis = Axis(
        label=view.x.axis.label or view.x.label,
        is_log=view.x.has_p_value_scale,
        limits=view.x_range,
    )
    y_axis = Axis(view.y.axis.label or view.y.label, limits=view.y_range)
    return Picture(
        choices=(get_short_name(view.x), get_short_name(view.y)),
        x=x_axis,
        y=y_axis,
        series=[
            *_build_front(view),
            *_build_points(view, runs, tints),
            *_build_legend(view),
        ],
        guides=tuple(_build_guides(view)),
        better=view.better,
        note=_write_note(view),
    )


def _build_front(view: View) -> list[Series]:
    front = [Point(point.x, point.y) for point in view.front]
    if len(front) < 2:
        return []
    return [Series("Pareto front", "accent", front, line="dashed")]


def _build_points(view: View, runs: list[RunResult], tints: Tints) -> Iterator[Series]:
    """Describe each run's point, with its name beside it; of many, those without a name are drawn
    together, one series a colour and marker."""
    num_by_kind = Counter(point.kind for point in view.points)
    named = _choose_named(view) if view.is_crowded else set()
    together: dict[tuple[str, Marker], list[Point]] = {}
    for point in view.points:
        x = f"{get_short_name(view.x)} {format_value(point.true_x)}"
        y = f"{get_short_name(view.y)} {format_value(point.y)}"
        hover = f"{point.name}\n{x}\n{y}"
        _, marker = KINDS[point.kind]
        colour = get_colour(runs[point.run_index], tints)
        drawn = Point(point.x, point.y, hover=hover)
        must_label = point.kind in REFERENCES and num_by_kind[point.kind] == 1
        if view.is_crowded and not must_label and point.run_index not in named:
            together.setdefault((colour, marker), []).append(drawn)
            continue
        yield Series(
            name=point.name,
            colour=colour,
            points=[drawn],
            marker=marker,
            label=point.name,
            must_label=must_label,
            in_legend=False,
        )
    for (colour, marker), points in together.items():
        yield Series("", colour, points, marker=marker, in_legend=False)


def _choose_named(view: View) -> set[int]:
    """Choose the runs of a crowded view that have their names beside them: of the front, one at
    each place and no more than there is room for."""
    by_place: dict[tuple[float, float], int] = {}
    for point in view.front:
        by_place.setdefault((point.x, point.y), point.run_index)
    stride = math.ceil(len(by_place) / CROWD) or 1
    return set(list(by_place.values())[::stride])


def _build_legend(view: View) -> Iterator[Series]:
    """Say what each marker means: runs have colours of their own, references that of their
    kind."""
    present = {point.kind for point in view.points}
    for kind, (word, marker) in KINDS.items():
        if kind in present:
            colour = kind if kind in REFERENCES else "soft"
            yield Series(word, colour, [], marker=marker)


def _build_guides(view: View) -> Iterator[Guide]:
    """Describe the lines of what is aimed at: the retain models' values, and p = 0.05."""
    for x_index, x in enumerate(sorted(view.gold_x)):
        label = "" if x_index else "gold standard: the retain model"
        yield Guide("x", x, "gold", label=label)
    for y in view.gold_y:
        yield Guide("y", y, "gold", "dotted")
    if view.x.has_p_value_scale:
        yield Guide("x", P_LINE, "soft", "dotted", f"p = {P_LINE}")


def _write_note(view: View) -> str:
    """Say what a reader of the picture must know beside it."""
    sentences = []
    if not view.comparable:
        sentences.append(
            "These models forget different sets: fronts, distributions and answers are under each "
            "set's own tab."
        )
    if view.gold_y:
        name = get_short_name(view.y)
        sentences.append(f"The dotted line is the retain model's {name}.")
    if len(view.front) > 1:
        sentences.append(
            "On the dashed line are the models that no other beats on both sides, apart from "
            "references and those whose utility is gone."
        )
    if view.is_crowded:
        sentences.append(
            f"Of {len(view.points):,} models, some of the front have their names beside them; each "
            "other says its name where the pointer is."
        )
    if view.left_out:
        names = ", ".join(view.left_out)
        sentences.append(f"Not in the picture, as a value is missing: {names}.")
    if any(point.x != point.true_x for point in view.points):
        sentences.append(f"Values below {P_FLOOR:.0e} are drawn at {P_FLOOR:.0e}.")
    return " ".join(sentences)
