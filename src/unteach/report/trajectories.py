"""How values moved while models were trained: from the evaluations made at checkpoints to that of
the final model."""

import re
from dataclasses import dataclass
from typing import Any

from unteach.json_files import read_json
from unteach.report.collect import RunResult, to_finite
from unteach.report.colours import Tints, get_colour, get_dash
from unteach.report.columns import Column
from unteach.report.judging import list_headline_columns
from unteach.report.pictures import Axis, Picture, Point, Series
from unteach.report.sets import choose_drawn, note_drawn
from unteach.report.tradeoff import P_FLOOR
from unteach.run_dir import EVALS, read_last_metrics
from unteach.wording import format_value

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
STEPS = "optimiser step"
NOTE = (
    "Each point is an evaluation: of what the run started from (step 0) where that was measured, "
    "at checkpoints, and of the final model."
)


Values = dict[str, Any]
"""One evaluation's, by metric."""


@dataclass(frozen=True)
class Line:
    """The values of one run, which is given by its place in the list of runs."""

    run_index: int
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Trajectory:
    """One metric: a line for each run that was measured more than once."""

    column: Column
    lines: list[Line]


def collect_trajectories(runs: list[RunResult], suite: str) -> list[Trajectory]:
    """Collect how each column of the table moved that some run has at two steps or more."""
    evaluations = {index: _read_evaluations(runs[index], suite) for index in choose_drawn(runs)}
    trajectories = []
    for column in list_headline_columns(runs):
        lines = []
        for run_index, by_step in evaluations.items():
            line = _collect_line(run_index, by_step, column.metric)
            if len(line.steps) > 1:
                lines.append(line)
        if lines:
            trajectories.append(Trajectory(column, lines))
    return trajectories


def _collect_line(run_index: int, by_step: dict[int, Values], metric: str) -> Line:
    """Collect one run's values of a metric, at the steps that have one."""
    line = Line(run_index, [], [])
    for step, values in by_step.items():
        value = to_finite(values.get(metric))
        if value is not None:
            line.steps.append(step)
            line.values.append(value)
    return line


def _read_evaluations(run: RunResult, suite: str) -> dict[int, Values]:
    """Read the values of every evaluation of a run, by step and in order: its start's at step 0,
    the final model's at its last."""
    by_step: dict[int, Values] = {}
    if run.before is not None:
        by_step[0] = _list_values(run.before)
    for file in run.folder.glob(f"checkpoint-*/{EVALS}/{suite}_SUMMARY.json"):
        match = CHECKPOINT.fullmatch(file.parts[-3])
        if match:
            step = int(match[1])
            by_step[step] = read_json(file, f"run {run.name!r}")
    last = read_last_metrics(run.folder)
    if by_step and last:
        last_step = int(last["step"])
        by_step[last_step] = _list_values(run)
    return dict(sorted(by_step.items()))


def _list_values(run: RunResult) -> Values:
    return {metric: run.value(metric) for metric in run.metrics()}


def build_picture(
    trajectory: Trajectory,
    runs: list[RunResult],
    tints: Tints,
) -> Picture:
    """Describe the picture of a metric over the steps."""
    column = trajectory.column
    floor = P_FLOOR if column.has_p_value_scale else None
    return Picture(
        choices=(column.label,),
        x=Axis(STEPS),
        y=Axis(column.label, is_log=column.has_p_value_scale),
        series=[build_line(line, runs, tints, floor) for line in trajectory.lines],
        note=NOTE + note_drawn(runs, choose_drawn(runs)),
    )


def build_line(
    line: Line,
    runs: list[RunResult],
    tints: Tints,
    floor: float | None = None,
    has_markers: bool = True,
) -> Series:
    """Describe a run's line over the steps.

    Args:
        floor: where values are drawn that lie below it.
        has_markers: whether each point is marked and says its value, or the line alone.
    """
    run = runs[line.run_index]
    points = []
    for step, value in zip(line.steps, line.values, strict=True):
        y = value if floor is None else max(value, floor)
        hover = ""
        if has_markers:
            hover = f"{run.name}\nstep {step}: {format_value(value)}"
        points.append(Point(step, y, hover=hover))
    last_value = format_value(line.values[-1])
    last = f"step {line.steps[-1]}: {last_value}"
    return Series(
        name=run.name,
        colour=get_colour(run, tints),
        points=points,
        line=get_dash(run, tints),
        marker="circle" if has_markers else None,
        hover=f"{run.name}\n{last}",
    )
