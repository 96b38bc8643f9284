"""What runs logged while they were trained: a picture for each loss."""

import math
from pathlib import Path

from unteach import run_dir
from unteach.json_files import read_log
from unteach.report.collect import RunResult, to_finite
from unteach.report.colours import Tints
from unteach.report.origin import read_config
from unteach.report.pictures import Axis, Picture
from unteach.report.recipes import find_training_folder
from unteach.report.sets import choose_drawn, note_drawn
from unteach.report.trajectories import STEPS, Line, build_line

MOST_POINTS = 200
"""Of one curve; more would only make the page larger."""
NOTE = "What each run logged while it was trained."


LinesByLoss = dict[str, list[Line]]
"""By a loss's name, a line for each run that logged it."""


def collect_losses(runs: list[RunResult]) -> LinesByLoss:
    """Collect every loss that the drawn runs logged, by its name: the whole loss first, then its
    terms."""
    losses: LinesByLoss = {}
    for run_index in choose_drawn(runs):
        run = runs[run_index]
        if run.kind == "start":  # its folder is another run's
            continue
        config = read_config(run.folder)
        folder = find_training_folder(run.folder, config)
        for name, line in _read_losses(run_index, folder).items():
            lines = losses.setdefault(name, [])
            lines.append(_thin(line))
    names = sorted(losses, key=lambda name: (name != "loss", name))
    return {name: losses[name] for name in names}


def _read_losses(run_index: int, folder: Path) -> dict[str, Line]:
    """Read the losses of one run that were logged at two steps or more."""
    try:
        logged, _ = read_log(folder / run_dir.METRICS)
    except OSError:
        return {}
    lines: dict[str, Line] = {}
    for entry in logged:
        step = entry.get("step")
        if step is None:
            continue
        for name, value in entry.items():
            if name != "loss" and not name.endswith("_loss"):
                continue
            number = to_finite(value)
            if number is not None:
                line = lines.setdefault(name, Line(run_index, [], []))
                line.steps.append(int(step))
                line.values.append(number)
    return {name: line for name, line in lines.items() if len(line.steps) > 1}


def _thin(line: Line) -> Line:
    """Keep at most MOST_POINTS points of a line, evenly, and its last.

    What lies between is left out, not averaged: a point is a value that was logged.
    """
    count = len(line.steps)
    stride = math.ceil(count / MOST_POINTS)
    kept = {*range(0, count, stride), count - 1}
    thinned = Line(line.run_index, [], [])
    for index in sorted(kept):
        thinned.steps.append(line.steps[index])
        thinned.values.append(line.values[index])
    return thinned


def build_pictures(runs: list[RunResult], tints: Tints) -> list[Picture]:
    """Describe the picture of each loss over the steps."""
    pictures = []
    for name, lines in collect_losses(runs).items():
        label = name.replace("_", " ")
        picture = Picture(
            choices=(label,),
            x=Axis(STEPS),
            y=Axis(label),
            series=[],
            note=NOTE + note_drawn(runs, choose_drawn(runs)),
        )
        for line in lines:
            series = build_line(line, runs, tints, has_markers=False)
            picture.series.append(series)
        pictures.append(picture)
    return pictures
