"""What a trade-off picture shows, before anyone draws it: what was forgotten against what was
kept."""

from dataclasses import dataclass
from typing import Any

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.columns import (
    BUILT_IN,
    FORGET,
    HIGHER,
    LOWER,
    NEAR_BEFORE,
    NEAR_RETAIN,
    NEAR_ZERO,
    RETAIN,
    Column,
)
from unteach.report.judging import find_gone, known_columns, shortfall, values_of
from unteach.report.sets import comparable

# p-values run down to 1e-300; below this they all say the same, and a longer axis would hide every
# other point
P_FLOOR = 1e-20
P_LINE = 0.05
LOGARITHMIC = ("forget_quality",)
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


@dataclass(frozen=True)
class Axis:
    """One metric that can be an axis: its whole name, a short one, and its column, which knows
    which way is good."""

    column: Column
    label: str
    short: str

    @property
    def metric(self) -> str:
        return self.column.metric

    @property
    def better(self) -> str:
        return self.column.better

    @property
    def log(self) -> bool:
        return self.metric in LOGARITHMIC


@dataclass(frozen=True)
class Point:
    """One run where the picture has it.

    run: its place in the list that was given; x: where it is drawn; remembered, lost: how far it is
    from what is good along x and along y, less is better.
    """

    run: int
    name: str
    kind: str
    x: float
    y: float
    true_x: float
    remembered: float
    lost: float


@dataclass(frozen=True)
class View:
    """One picture: its axes, its points, the retain models' values, and the runs that have no place
    on it."""

    x: Axis
    y: Axis
    points: list[Point]
    gold_x: list[float]
    gold_y: list[float]
    left_out: list[str]
    comparable: bool
    """whether all forget the same: what forgets one set is no better or worse than what forgets
    another"""
    gone: frozenset[int] = frozenset()
    """the runs, by their places, that have lost what they were to keep"""

    @property
    def better(self) -> str:
        """Which way is good, in words that need no legend."""
        up, upward = self._upward()
        along, sideways = self._sideways()
        arrow = ARROWS.get((along, up), "")
        return f"{arrow} better: {upward}{sideways}".strip()

    def _upward(self) -> tuple[int, str]:
        if self.y.better == LOWER:
            return -1, "down"
        if self.y.better == NEAR_BEFORE:
            return 1, f"{self.y.short} near what it was before"
        return 1, "up"

    def _sideways(self) -> tuple[int, str]:
        if self.x.better == HIGHER:
            return 1, " and to the right"
        if self.x.better == LOWER:
            return -1, " and to the left"
        if self.x.better == NEAR_ZERO:
            return 0, ", and nearer 0"
        if self.x.better == NEAR_BEFORE:
            return 0, f", and {self.x.short} near what it was before"
        if not self.gold_x:
            return 0, "; only a retain model shows how far to forget"
        left = min(self.gold_x) < sum(self.x_range) / 2
        return -1 if left else 1, ", and nearer the gold line"

    @property
    def front(self) -> list[Point]:
        """Pareto's front of the unlearned models, from left to right: no other is as good at both
        and better at one.

        A model whose utility is gone stands beside it. Empty where they forget different sets.
        """
        if not self.comparable:
            return []
        judged = [
            point
            for point in self.points
            if point.kind not in REFERENCES and point.run not in self.gone
        ]
        best = [point for point in judged if not any(_beats(other, point) for other in judged)]
        return sorted(best, key=lambda point: (point.x, point.y))

    @property
    def x_range(self) -> tuple[float, float]:
        """Where the x axis begins and ends; powers of ten on a logarithmic one."""
        if self.x.log:
            return P_FLOOR / 3, 5.0
        return _range([*(point.x for point in self.points), *self.gold_x])

    @property
    def y_range(self) -> tuple[float, float]:
        """Where the y axis begins and ends."""
        return _range([*(point.y for point in self.points), *self.gold_y])


WORDS = {
    "forget_Q_A_Prob": ("probability of the true forget answers", "forget probability"),
    "forget_quality": ("forget quality (p-value, logarithmic)", "forget quality"),
    "forget_mean_probability_gt": (
        "probability of the true forget answers, phrased anew",
        "forget probability",
    ),
    "forget_mean_tr": ("mean truth ratio of the forget rows", "forget truth ratio"),
    "forget_quality_2": ("forget quality (ln p of the two-sided KS test)", "forget quality"),
    "forget_Q_A_ROUGE": ("ROUGE-L recall on the forget set", "forget ROUGE"),
    "forget_verbmem_ROUGE": ("verbatim memory of the forget texts", "forget verbmem"),
    "forget_knowmem_ROUGE": ("knowledge of the forget texts", "forget knowmem"),
    "extraction_strength": ("extraction strength on the forget set", "extraction strength"),
    "model_utility": ("model utility", "utility"),
    "retain_Q_A_Prob": ("probability of the true retain answers", "retain probability"),
    "retain_knowmem_ROUGE": ("knowledge of the retain texts", "retain knowmem"),
    "retain_model_utility_3": ("utility on the retain rows", "retain utility"),
}
"""Names of the metrics that come first as axes, in this order: whole, and short."""


def views(runs: list[RunResult]) -> list[View]:
    """Every picture that these runs can give, the default first; none where no run has both sides
    of the trade.

    x is any metric of the forget rows, y any of the retain rows.
    """
    gone = frozenset(find_gone(runs))
    pairs = [(x, y) for y in _axes(runs, RETAIN) for x in _axes(runs, FORGET)]
    return [view for x, y in pairs if (view := _view(runs, x, y, gone)).points]


def _axes(runs: list[RunResult], role: str) -> list[Axis]:
    """The axes of one role: those that have words of their own first, then the rest as the table
    has them."""
    columns = {column.metric: column for column in known_columns(runs) if column.role == role}
    ordered = [metric for metric in WORDS if metric in columns] + [
        metric for metric in columns if metric not in WORDS
    ]
    axes = []
    for metric in ordered:
        column = columns[metric]
        # what a suite describes itself is called as it says
        words = WORDS.get(metric) if column in BUILT_IN else None
        axes.append(Axis(column, *(words or (column.label, column.label))))
    return axes


def _view(runs: list[RunResult], x: Axis, y: Axis, gone: frozenset[int]) -> View:
    points, left_out = [], []
    for number, run in enumerate(runs):
        at_x, at_y = run.value(x.metric), run.value(y.metric)
        if at_x is None or at_y is None:
            left_out.append(run.name)
            continue
        remembered, lost = shortfall(run, x.column, runs), shortfall(run, y.column, runs)
        points.append(
            Point(
                run=number,
                name=run.name,
                kind=run.kind,
                x=max(at_x, P_FLOOR) if x.log else at_x,
                y=at_y,
                true_x=at_x,
                # with nothing to be near to, less is more forgotten, and more is more kept
                remembered=at_x if remembered is None else remembered,
                lost=-at_y if lost is None else lost,
            )
        )
    gold_x = values_of(runs, x.metric, "retain") if x.better == NEAR_RETAIN else []
    return View(
        x, y, points, gold_x, values_of(runs, y.metric, "retain"), left_out, comparable(runs), gone
    )


def _beats(other: Point, point: Point) -> bool:
    """Whether another point is as good on both sides, and better on one."""
    as_good = other.remembered <= point.remembered and other.lost <= point.lost
    return as_good and (other.remembered, other.lost) != (point.remembered, point.lost)


def as_data(view: View) -> dict[str, Any]:
    """The view as the page's script reads it."""
    return {
        "x": {
            "metric": view.x.metric,
            "label": view.x.label,
            "short": view.x.short,
            "log": view.x.log,
            "range": view.x_range,
        },
        "y": {
            "metric": view.y.metric,
            "label": view.y.label,
            "short": view.y.short,
            "range": view.y_range,
        },
        "points": [[point.run, point.x, point.y, point.true_x] for point in view.points],
        "front": [point.run for point in view.front],
        "goldX": view.gold_x,
        "goldY": view.gold_y,
        "pLine": P_LINE if view.x.log else None,
        "leftOut": view.left_out,
        "better": view.better,
        "comparable": view.comparable,
    }


def _range(values: list[float]) -> tuple[float, float]:
    """From zero, so that distances are honest, to a little beyond the largest value."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.08 * ((high - low) or 1.0)
    return low - room, high + room
