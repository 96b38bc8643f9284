"""The page's line charts as PNGs: by what is forgotten, while training, the spread of truth
ratios."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from unteach.atomic import atomic_write
from unteach.report import crossed, distributions, trajectories
from unteach.report.collect import REFERENCES, RunResult
from unteach.report.colours import REFERENCE_TINTS, TINTS, assign_tints, tint_of
from unteach.report.plots import GRID, MARKS, SOFT, logarithmic
from unteach.report.sets import comparable, forgotten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL, DPI, MOST = (6.0, 4.2), 100, 6
"""Inches of one panel; panels of one picture at most."""


def write(suites: dict[str, list[RunResult]], folder: Path, stem: str) -> None:
    """Every chart that the suites have: <stem>-forgotten.png, -training.png, -ratios.png of the
    first suite that has it; an earlier report's is removed where there is none now."""
    drawn = {"forgotten": _forgotten, "training": _training, "ratios": _ratios}
    tints = assign_tints(suites)
    for name, draw in drawn.items():
        file = folder / f"{stem}-{name}.png"
        if not any(draw(runs, suite, file, tints) for suite, runs in suites.items()):
            file.unlink(missing_ok=True)


def _forgotten(runs: list[RunResult], suite: str, file: Path, tints: dict[str, int]) -> bool:
    """Each method's mean and deviation over the forget sets, a panel a metric."""
    tables = crossed.crossed(runs)[:MOST]
    if not tables:
        return False
    with _panels(len(tables), file) as panels:
        for axes, table in zip(panels, tables, strict=True):
            turns = itertools.cycle(TINTS)
            for method, kind, cells in table.rows:
                there = [(place, *cell) for place, cell in enumerate(cells) if cell is not None]
                bars = [spread or 0 for _, _, spread in there]
                axes.errorbar(
                    [place for place, *_ in there],
                    [centre for _, centre, _ in there],
                    bars,
                    label=method,
                    capsize=4,
                    marker=MARKS[kind][1],
                    linestyle=":" if kind in REFERENCES else "-",
                    linewidth=1.4,
                    color=REFERENCE_TINTS[kind] if kind in REFERENCES else next(turns),
                )
            axes.set_xticks(range(len(table.data)), table.data, rotation=20, ha="right")
            axes.set_title(table.column.label, loc="left", fontsize=12)
    return True


def _training(runs: list[RunResult], suite: str, file: Path, tints: dict[str, int]) -> bool:
    """Each run's values over its steps, a panel a metric."""
    moved = trajectories.trajectories(runs, suite)[:MOST]
    if not moved:
        return False
    with _panels(len(moved), file) as panels:
        for axes, one in zip(panels, moved, strict=True):
            for run, steps, values in one.lines:
                axes.plot(
                    steps,
                    one.drawn(values),
                    marker="o",
                    markersize=4,
                    linewidth=1.4,
                    color=tint_of(runs[run], tints),
                    label=runs[run].name,
                )
            if one.log:
                logarithmic(axes, "y")
            axes.set_title(one.column.label, loc="left", fontsize=12)
            axes.set_xlabel("optimiser step", color=SOFT)
    return True


def _ratios(runs: list[RunResult], suite: str, file: Path, tints: dict[str, int]) -> bool:
    """The distribution functions of the forget rows' truth ratios."""
    shown = distributions.truth_ratios(runs) if comparable(runs) else None
    if shown is None:
        return False
    with _panels(1, file) as [axes]:
        for curve in shown.curves:
            known = runs[curve.run].kind in REFERENCES
            axes.step(
                curve.x,
                curve.y,
                where="post",
                linewidth=2 if known else 1.4,
                label=runs[curve.run].name,
                color=tint_of(runs[curve.run], tints),
            )
        logarithmic(axes)
        axes.set_xlabel("truth ratio", color=SOFT)
        axes.set_title(
            ", ".join(["share of forget rows below", *forgotten(runs)]), loc="left", fontsize=12
        )
    return True


@contextlib.contextmanager
def _panels(count: int, file: Path) -> Iterator[list[Axes]]:
    """So many panels, at most two beside each other, with one legend below; written whole at the
    end."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(2, count)
    down = math.ceil(count / across)
    with rc_context({"font.family": "sans-serif", "font.size": 11, "text.parse_math": False}):
        figure = Figure(
            figsize=(PANEL[0] * across, PANEL[1] * down),
            dpi=DPI,
            facecolor="white",
            layout="constrained",
        )
        FigureCanvasAgg(figure)
        every = figure.subplots(down, across, squeeze=False).flatten().tolist()
        for axes in every[count:]:
            axes.set_axis_off()
        panels = every[:count]
        for axes in panels:
            axes.grid(color=GRID)
            axes.set_axisbelow(True)
            axes.tick_params(colors=SOFT, length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
        yield panels
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(
            lines,
            names,
            loc="outside lower center",
            ncols=min(4, len(names)),
            frameon=False,
            labelcolor=SOFT,
        )
        with atomic_write(file) as temporary:
            figure.savefig(temporary, format="png")
