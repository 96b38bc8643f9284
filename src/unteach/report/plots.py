"""The trade-off picture as a PNG, for a README or a paper's draft."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unteach.atomic import atomic_write
from unteach.errors import UserError
from unteach.report.collect import REFERENCES, RunResult
from unteach.report.colours import assign_tints, tint_of
from unteach.report.tradeoff import P_LINE, Point, View, views

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]

INK, SOFT, GRID, GOLD, ACCENT = "#22262b", "#6a7178", "#efece6", "#b07d12", "#0f766e"
# kind: (word in the legend, marker)
MARKS = {
    "base": ("base", "o"),
    "start": ("before", "o"),
    "full": ("full", "o"),
    "retain": ("retain", "D"),
    "forget": ("unlearned", "o"),
    "eval": ("evaluated", "s"),
    "": ("other", "s"),
}
HOLLOW = ("base", "start")
INCHES, DPI = (12.0, 7.0), 100
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LONGEST_NAME, MANY, LEADER_FROM = 30, 16, 4


def tradeoff_png(runs: list[RunResult], path: Path, tints: dict[str, int] | None = None) -> Path:
    """Draws what was forgotten against what was kept, 1200 by 700 pixels, and gives `path` back.

    x is the first forget metric that the runs have, with the retain model's value as a line; y is
    what they kept.
    tints: the runs' numbers of colours, where other pictures show the same runs.
    Raises UserError where no run has both.
    """
    drawable = views(runs)
    tints = tints or assign_tints({"": runs})
    if not drawable:
        raise UserError(
            "there is no trade-off to draw: no run has both a metric of role forget (such as "
            "forget_Q_A_Prob) and one of role retain (such as model_utility); evaluate the runs "
            "with them, or say the roles of your own metrics"
        )
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    view = drawable[0]
    with rc_context({"font.family": "sans-serif", "font.size": 13, "text.parse_math": False}):
        # a figure of its own, not pyplot's: a caller's figures and backend stay as they are
        figure = Figure(figsize=INCHES, dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.075, 0.105, 0.895, 0.775))
        _frame(axes, view)
        _points(axes, view, runs, tints)
        _labels(axes, view)
        with atomic_write(Path(path)) as temporary:
            figure.savefig(temporary, format="png")
    return Path(path)


def _frame(axes: Axes, view: View) -> None:
    if view.x.log:
        logarithmic(axes)
    axes.set_xlim(*view.x_range)
    axes.set_ylim(*view.y_range)
    axes.set_xlabel(view.x.label, color=SOFT, labelpad=10)
    axes.set_ylabel(view.y.label, color=SOFT, labelpad=10)
    axes.grid(color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, length=0, labelsize=11.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for value in view.gold_x:
        axes.axvline(value, color=GOLD, linewidth=1.6, zorder=1.5)
    for value in view.gold_y:
        axes.axhline(value, color=GOLD, linewidth=1.2, linestyle=(0, (1, 3)), zorder=1.5)
    above: dict[str, Any] = {
        "va": "bottom",
        "annotation_clip": False,
        "textcoords": "offset points",
        "fontsize": 12,
    }
    left = bool(view.gold_x) and min(view.gold_x) < sum(view.x_range) / 2
    if view.gold_x:
        axes.annotate(
            "gold standard: the retain model",
            (min(view.gold_x), 1),
            (-2 if left else 2, 5),
            color=GOLD,
            xycoords=axes.get_xaxis_transform(),
            ha="left" if left else "right",
            **above,
        )
    if view.x.log:
        axes.axvline(P_LINE, color=SOFT, linewidth=1.2, linestyle=(0, (1, 3)), zorder=1.5)
        axes.annotate(
            f"p = {P_LINE}",
            (P_LINE, 1),
            (0, 5),
            color=SOFT,
            xycoords=axes.get_xaxis_transform(),
            ha="center",
            **above,
        )
    axes.annotate(
        view.better, (1, 1), (0, 26), color=ACCENT, xycoords="axes fraction", ha="right", **above
    )


def logarithmic(axes: Axes, along: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis, whose powers of ten are written without the library's markup, which names
    may contain."""
    axes.set(**{f"{along}scale": "log"})
    getattr(axes, f"{along}axis").set_major_formatter(
        lambda value, _: f"10{str(round(math.log10(value))).translate(SUPERSCRIPT)}"
    )
    axes.minorticks_off()


def _points(axes: Axes, view: View, runs: list[RunResult], tints: dict[str, int]) -> None:
    for kind, (word, marker) in MARKS.items():
        points = [point for point in view.points if point.kind == kind]
        if points:
            colours = [tint_of(runs[point.run], tints) for point in points]
            hollow = kind in HOLLOW
            axes.scatter(
                [point.x for point in points],
                [point.y for point in points],
                marker=marker,
                s=95,
                zorder=3,
                facecolors="white" if hollow else colours,
                edgecolors=colours,
                clip_on=False,
                linewidths=2 if hollow else 0,
            )
            # runs have colours of their own: the legend says what the marker means, in the kind's
            # colour if it has one
            key = colours[0] if kind in REFERENCES else SOFT
            axes.scatter(
                [],
                [],
                label=word,
                marker=marker,
                s=95,
                facecolors="white" if hollow else key,
                edgecolors=key,
                linewidths=2 if hollow else 0,
            )
    front = view.front
    if len(front) > 1:
        axes.plot(
            [point.x for point in front],
            [point.y for point in front],
            color=ACCENT,
            linewidth=1.3,
            alpha=0.55,
            linestyle=(0, (4, 3)),
            zorder=2.5,
            label=" Pareto front",
        )
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.008, 1.035),
        ncols=len(MARKS) + 1,
        frameon=False,
        labelcolor=SOFT,
        fontsize=12,
        handletextpad=0.1,
        columnspacing=1.2,
    )


def _labels(axes: Axes, view: View) -> None:
    """Writes each run's name where it covers no other name, no point, no gold line and not the
    front.

    Among many points, a name for which there is no room beside its point is left out, if it is not
    the only one of its kind.
    """
    bounds = axes.get_window_extent()
    frame: Box = (bounds.x0, bounds.y0, bounds.x1, bounds.y1)
    taken = [_around(*_pixels(axes, point.x, point.y), 9, 9) for point in view.points]
    for value in [*view.gold_x, *([P_LINE] if view.x.log else [])]:
        x = _pixels(axes, value, 0)[0]
        taken.append((x - 2, bounds.y0, x + 2, bounds.y1))
    for value in view.gold_y:
        y = _pixels(axes, 1, value)[1]
        taken.append((bounds.x0, y - 2, bounds.x1, y + 2))
    taken += _along_front(axes, view.front)
    for point in sorted(view.points, key=lambda point: point.kind not in REFERENCES):
        only = (
            point.kind in REFERENCES and sum(other.kind == point.kind for other in view.points) == 1
        )
        _label(axes, point, frame, taken, len(view.points) > MANY and not only)


def _along_front(axes: Axes, front: list[Point]) -> list[Box]:
    """Small boxes along the dashed line, a few pixels apart."""
    corners = [_pixels(axes, point.x, point.y) for point in front]
    boxes = []
    for start, end in itertools.pairwise(corners):
        steps = math.ceil(math.dist(start, end) / 6)
        for share in (step / steps for step in range(steps)):
            x, y = ((1 - share) * a + share * b for a, b in zip(start, end, strict=True))
            boxes.append(_around(x, y, 3, 3))
    return boxes


def _label(axes: Axes, point: Point, frame: Box, taken: list[Box], may_go: bool) -> None:
    name = point.name if len(point.name) <= LONGEST_NAME else point.name[: LONGEST_NAME - 1] + "…"
    text = axes.annotate(
        name,
        (point.x, point.y),
        (0, 0),
        textcoords="offset pixels",
        ha="center",
        va="center",
        color=INK,
        zorder=4,
        annotation_clip=False,
    )
    size = text.get_window_extent()
    half_wide, half_high = size.width / 2 + 3, size.height / 2 + 2
    x, y = _pixels(axes, point.x, point.y)

    def cost(rank: int, shift: tuple[float, float]) -> float:
        box = _around(x + shift[0], y + shift[1], half_wide, half_high)
        covered = sum(_overlap(box, other) for other in taken)
        beyond = (frame[0] - box[0], frame[1] - box[1], box[2] - frame[2], box[3] - frame[3])
        outside = sum(max(0.0, over) for over in beyond)
        crossed = _crossings((x, y), shift, taken) if rank >= LEADER_FROM else 0
        return covered * 4 + outside * 60 + 2 * rank + math.hypot(*shift) / 10 + crossed * 40

    shifts = _shifts(half_wide)
    rank, shift = min(enumerate(shifts), key=lambda numbered: cost(*numbered))
    placed = _around(x + shift[0], y + shift[1], half_wide, half_high)
    if may_go and (rank >= LEADER_FROM or any(_overlap(placed, other) for other in taken)):
        text.remove()
        return
    taken.append(placed)
    text.set_position(shift)
    if rank >= LEADER_FROM:
        taken.extend(_around(*place, 4, 4) for place in _along((x, y), shift))
        # the leader ends at the label's edge, not in the middle of its letters
        halves = zip((half_wide, half_high), shift, strict=True)
        inside = min(half / abs(along) if along else 1.0 for half, along in halves)
        end = (shift[0] * (1 - inside), shift[1] * (1 - inside))
        axes.annotate(
            "",
            (point.x, point.y),
            end,
            textcoords="offset pixels",
            annotation_clip=False,
            zorder=2,
            arrowprops={
                "arrowstyle": "-",
                "color": SOFT,
                "linewidth": 0.8,
                "shrinkA": 0,
                "shrinkB": 6,
            },
        )


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    at_x, at_y = axes.transData.transform((x, y))
    return float(at_x), float(at_y)


def _shifts(half_wide: float) -> list[tuple[float, float]]:
    """Where a label may stand, the best places first: beside the point, above, below, then ever
    farther around it."""
    near = [(13 + half_wide, 0.0), (-13 - half_wide, 0.0), (0.0, 21.0), (0.0, -21.0)]
    around = [
        (math.cos(turn * math.pi / 6) * (far + half_wide), math.sin(turn * math.pi / 6) * far)
        for far in (38, 64, 92, 122, 156)
        for turn in range(12)
    ]
    return near + around


def _crossings(start: tuple[float, float], shift: tuple[float, float], taken: list[Box]) -> int:
    """How far a leader from a point to its label runs over other things, in steps along it."""
    others = [
        box for box in taken if not (box[0] < start[0] < box[2] and box[1] < start[1] < box[3])
    ]
    return sum(
        any(box[0] < x < box[2] and box[1] < y < box[3] for box in others)
        for x, y in _along(start, shift)
    )


def _along(start: tuple[float, float], shift: tuple[float, float]) -> list[tuple[float, float]]:
    return [
        (start[0] + shift[0] * step / 10, start[1] + shift[1] * step / 10) for step in range(2, 9)
    ]


def _around(x: float, y: float, half_wide: float, half_high: float) -> Box:
    return x - half_wide, y - half_high, x + half_wide, y + half_high


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0
