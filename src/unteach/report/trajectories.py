"""How values moved while models were trained: from the evaluations made at checkpoints to that of
the final model."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach.json_files import read_json
from unteach.report.collect import RunResult, to_finite
from unteach.report.colours import Tints, get_colour, get_dash
from unteach.report.columns import Column
from unteach.report.judging import list_headline_columns
from unteach.report.pictures import Axis, Picture, Point, Series
from unteach.report.tradeoff import P_FLOOR
from unteach.run_dir import EVALS, read_last_metrics
from unteach.wording import format_value

STEPS = "optimiser step"
NOTE = (
    "Each point is an evaluation: of what the run started from (step 0) where that was measured, "
    "at checkpoints, and of the final model."
)


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
    evaluations = [_read_evaluations(run, suite) for run in runs]
    trajectories = []
    for column in list_headline_columns(runs):
        lines = []
        for run_index, by_step in enumerate(evaluations):
            line = Line(run_index, [], [])
            for step, summary in by_step:
                value = to_finite(summary.get(column.metric))
                if value is not None:
                    line.steps.append(step)
                    line.values.append(value)
            if len(line.steps) > 1:
                lines.append(line)
        if lines:
            trajectories.append(Trajectory(column, lines))
    return trajectories


def _read_evaluations(run: RunResult, suite: str) -> list[tuple[int, dict[str, Any]]]:
    """Read (step, values) of every evaluation of a run, in order: its start's at step 0, the final
    model's at its last."""
    by_step: dict[int, dict[str, Any]] = {}
    if run.before is not None:
        by_step[0] = {metric: run.before.value(metric) for metric in run.before.metrics()}
    for file in Path(run.folder).glob(f"checkpoint-*/{EVALS}/{suite}_SUMMARY.json"):
        if step := re.fullmatch(r"checkpoint-(\d+)", file.parts[-3]):
            by_step[int(step[1])] = read_json(file, f"run {run.name!r}")
    last = read_last_metrics(Path(run.folder))
    if by_step and last:
        by_step[int(last["step"])] = {metric: run.value(metric) for metric in run.metrics()}
    return sorted(by_step.items())


def build_picture(trajectory: Trajectory, runs: list[RunResult], tints: Tints) -> Picture:
    """Describe the picture of a metric over the steps."""
    column = trajectory.column
    floor = P_FLOOR if column.has_p_value_scale else None
    return Picture(
        choices=(column.label,),
        x=Axis(STEPS),
        y=Axis(column.label, is_log=column.has_p_value_scale),
        series=[build_line(line, runs, tints, floor) for line in trajectory.lines],
        note=NOTE,
    )


def build_line(
    line: Line,
    runs: list[RunResult],
    tints: Tints,
    floor: float | None = None,
    has_markers: bool = True,
) -> Series:
    """Describe a run's line over the steps; values below a floor are drawn at it."""
    run = runs[line.run_index]
    points = []
    for step, value in zip(line.steps, line.values, strict=True):
        y = value if floor is None else max(value, floor)
        hover = f"{run.name}\nstep {step}: {format_value(value)}" if has_markers else ""
        points.append(Point(step, y, hover=hover))
    last = f"step {line.steps[-1]}: {format_value(line.values[-1])}"
    return Series(
        name=run.name,
        colour=get_colour(run, tints),
        points=points,
        line=get_dash(run, tints),
        marker="circle" if has_markers else None,
        hover=f"{run.name}\n{last}",
    )
