"""How values moved while models were trained: from the evaluations made at checkpoints to that of
the final model."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach.json_files import read_json
from unteach.report.collect import RunResult, finite
from unteach.report.columns import Column
from unteach.report.judging import known_columns
from unteach.report.tradeoff import LOGARITHMIC, P_FLOOR
from unteach.run_dir import EVALS, read_last_metrics


@dataclass(frozen=True)
class Moved:
    """One metric: for each run that was measured more than once, its number in the list, its steps,
    its values."""

    column: Column
    lines: list[tuple[int, list[int], list[float]]]

    @property
    def log(self) -> bool:
        """Whether the axis is logarithmic, as in the picture of the trade; lower values are drawn
        at its floor."""
        return self.column.metric in LOGARITHMIC

    def drawn(self, values: list[float]) -> list[float]:
        return [max(value, P_FLOOR) for value in values] if self.log else values


def trajectories(runs: list[RunResult], suite: str) -> list[Moved]:
    """A picture for each column of the leaderboard that some run has at two steps or more."""
    looks = [_looks(run, suite) for run in runs]
    found = []
    for column in known_columns(runs):
        lines = []
        for number, of_run in enumerate(looks):
            line = {
                step: value
                for step, at in of_run
                if (value := finite(at.get(column.metric))) is not None
            }
            if len(line) > 1:
                lines.append((number, list(line), list(line.values())))
        if lines:
            found.append(Moved(column, lines))
    return found


def _looks(run: RunResult, suite: str) -> list[tuple[int, dict[str, Any]]]:
    """(step, values) of every evaluation of a run, in order: its start's at step 0, the final
    model's at its last."""
    looks = {}
    if run.before is not None:
        looks[0] = {metric: run.before.value(metric) for metric in run.before.metrics()}
    for file in Path(run.folder).glob(f"checkpoint-*/{EVALS}/{suite}_SUMMARY.json"):
        if step := re.fullmatch(r"checkpoint-(\d+)", file.parts[-3]):
            looks[int(step[1])] = read_json(file, f"run {run.name!r}")
    last = read_last_metrics(Path(run.folder))
    if looks and last:
        looks[int(last["step"])] = {metric: run.value(metric) for metric in run.metrics()}
    return sorted(looks.items())


def as_data(moved: list[Moved]) -> list[dict[str, Any]]:
    """The pictures as the page's script reads them."""
    return [
        {
            "label": one.column.label,
            "log": one.log,
            "lines": [
                [run, steps, [float(f"{y:.5g}") for y in one.drawn(values)]]
                for run, steps, values in one.lines
            ],
        }
        for one in moved
    ]
