"""What a trade-off picture shows, before anyone draws it: what was forgotten against what was kept."""

from dataclasses import dataclass
from typing import Any

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.sets import comparable

# p-values run down to 1e-300; below this they all say the same, and a longer axis would hide every other point
P_FLOOR = 1e-20
P_LINE = 0.05


@dataclass(frozen=True)
class Axis:
    """One choosable metric. `to_gold`: good is near the retain model's value; otherwise more is better."""

    metric: str
    label: str
    short: str
    to_gold: bool = True
    log: bool = False


@dataclass(frozen=True)
class Point:
    """One run where the picture has it. `run` counts in the list that was given; `x` is where it is drawn."""

    run: int
    name: str
    kind: str
    x: float
    y: float
    true_x: float


@dataclass(frozen=True)
class View:
    """One picture: its axes, its points, the retain models' values, and the runs that have no place on it."""

    x: Axis
    y: Axis
    points: list[Point]
    gold_x: list[float]
    gold_y: list[float]
    left_out: list[str]
    comparable: bool
    """whether all forget the same: what forgets one set is no better or worse than what forgets another"""

    @property
    def better(self) -> str:
        """Which way is good, in words that need no legend."""
        if not self.x.to_gold:
            return "↗ better: up and to the right"
        if not self.gold_x:
            return "↑ better: up; only a retain model shows how far to forget"
        left = min(self.gold_x) < sum(self.x_range) / 2
        return f"{'↖' if left else '↗'} better: up, and nearer the gold line"

    @property
    def front(self) -> list[Point]:
        """Pareto's front of the unlearned models, from left to right: no other is as good at both and better at one.

        Empty where they forget different sets.
        """
        if not self.comparable:
            return []
        judged = [(point, self._remembered(point), point.y) for point in self.points if point.kind not in REFERENCES]
        best = [
            point
            for point, known, kept in judged
            if not any(k <= known and y >= kept and (k, y) != (known, kept) for _, k, y in judged)
        ]
        return sorted(best, key=lambda point: (point.x, point.y))

    def _remembered(self, point: Point) -> float:
        """How far a model is from having forgotten: from the retain model, or from nothing where there is none."""
        if not self.x.to_gold:
            return -point.true_x
        return min((abs(point.x - gold) for gold in self.gold_x), default=point.x)

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


X_AXES = (
    Axis("forget_Q_A_Prob", "probability of the true forget answers", "forget probability"),
    Axis("forget_quality", "forget quality (p-value, logarithmic)", "forget quality", to_gold=False, log=True),
    Axis("forget_mean_probability_gt", "probability of the true forget answers, phrased anew", "forget probability"),
    Axis("forget_mean_tr", "mean truth ratio of the forget rows", "forget truth ratio"),
    Axis("forget_quality_2", "forget quality (ln p of the two-sided KS test)", "forget quality", to_gold=False),
    Axis("forget_Q_A_ROUGE", "ROUGE-L recall on the forget set", "forget ROUGE"),
    Axis("forget_verbmem_ROUGE", "verbatim memory of the forget texts", "forget verbmem"),
    Axis("forget_knowmem_ROUGE", "knowledge of the forget texts", "forget knowmem"),
    Axis("extraction_strength", "extraction strength on the forget set", "extraction strength"),
)
Y_AXES = (
    Axis("model_utility", "model utility", "utility", to_gold=False),
    Axis("retain_Q_A_Prob", "probability of the true retain answers", "retain probability", to_gold=False),
    Axis("retain_knowmem_ROUGE", "knowledge of the retain texts", "retain knowmem", to_gold=False),
    Axis("retain_model_utility_3", "utility on the retain rows", "retain utility", to_gold=False),
)


def views(runs: list[RunResult]) -> list[View]:
    """Every picture that these runs can give, the default first; none where no run has both sides of the trade."""
    y = next((axis for axis in Y_AXES if any(run.value(axis.metric) is not None for run in runs)), None)
    if y is None:
        return []
    return [view for x in X_AXES if (view := _view(runs, x, y)).points]


def _view(runs: list[RunResult], x: Axis, y: Axis) -> View:
    points, left_out = [], []
    for number, run in enumerate(runs):
        at_x, at_y = run.value(x.metric), run.value(y.metric)
        if at_x is None or at_y is None:
            left_out.append(run.name)
            continue
        points.append(Point(number, run.name, run.kind, max(at_x, P_FLOOR) if x.log else at_x, at_y, at_x))
    retain = [run for run in runs if run.kind == "retain"]
    gold_x = [value for run in retain if x.to_gold and (value := run.value(x.metric)) is not None]
    gold_y = [value for run in retain if (value := run.value(y.metric)) is not None]
    return View(x, y, points, gold_x, gold_y, left_out, comparable(runs))


def as_data(view: View) -> dict[str, Any]:
    """The view as the page's script reads it."""
    return {
        "x": {"label": view.x.label, "short": view.x.short, "log": view.x.log, "range": view.x_range},
        "y": {"label": view.y.label, "short": view.y.short, "range": view.y_range},
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
