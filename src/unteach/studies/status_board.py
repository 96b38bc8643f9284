"""What is shown of a study while its runs are carried out in processes of their own.

A run's phase and how far it is are read from its metrics file and from its log, which has the plain
lines of the run.
"""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unteach import console, run_dir
from unteach.studies.plan import PlannedRun

PASS = re.compile(r"(?P<what>[^:]+): (?P<done>[\d,]+) of (?P<total>[\d,]+)(?:, .*)?")
"""A line of a pass of an evaluation, as `evals.run.PassLines` says it."""
SAY_EVERY = 60.0
"""Seconds between two accounts of what is running, where the output cannot be redrawn."""


def log_of(run: PlannedRun) -> Path:
    folder = Path(run.folder)
    return folder.parent / "logs" / f"{folder.name}.log"


@dataclass(frozen=True)
class Phase:
    """What a run is doing, and how much of that is done; None where it cannot be said."""

    what: str
    done: int = 0
    total: int | None = None
    loss: float | None = None

    def __str__(self) -> str:
        counts = f" {self.done}/{self.total}" if self.total else ""
        return f"{self.what}{counts}{f', loss {self.loss:.3f}' if self.loss is not None else ''}"


def read_phase(run: PlannedRun, log_start: int = 0) -> Phase:
    """Say what a run is doing: a pass of an evaluation, if its log ends in one; else by what its
    folder holds.

    log_start: where in its log this attempt begins; what is before it is of an earlier one.
    """
    if found := PASS.fullmatch(_last_line(log_of(run), log_start)):
        done, total = (int(found[name].replace(",", "")) for name in ("done", "total"))
        return Phase(console.neutralize(found["what"]), done, total)
    line = run_dir.read_last_metrics(Path(run.folder)) or {}
    if not line.get("progress"):
        return Phase("starting")
    steps = line["step"], round(line["step"] / line["progress"])
    if (Path(run.folder) / run_dir.FINAL).exists():
        return Phase("evaluating", *steps)
    return Phase("training", *steps, line.get("loss"))


def _last_line(path: Path, start: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")


@dataclass
class Attempt:
    """A run that is in work: when it was started, and where in its log it began."""

    run: PlannedRun
    task: Any = None
    began: float = field(default_factory=time.monotonic)
    log_start: int = 0

    def __post_init__(self) -> None:
        self.log_start = log_of(self.run).stat().st_size if log_of(self.run).exists() else 0

    def read_phase(self) -> Phase:
        return read_phase(self.run, self.log_start)


class Board(Protocol):
    """What an executor tells of its runs, and what it asks to be shown now and then."""

    def __enter__(self) -> "Board": ...
    def started(self, run: PlannedRun) -> None: ...
    def look(self) -> None: ...
    def ended(self, run: PlannedRun, state: str) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def make_board(total: int) -> Board:
    """Build what shows `total` runs on this output."""
    return LiveBoard(total) if console.is_live() else LineBoard(total)


class LineBoard:
    """A line when a run begins and when it ends, and each minute one on what is running."""

    def __init__(self, total: int):
        self.total, self.num_ended = total, 0
        self.attempts: dict[str, Attempt] = {}
        self.said = time.monotonic()

    def __enter__(self) -> "LineBoard":
        return self

    def started(self, run: PlannedRun) -> None:
        self.attempts[run.name] = Attempt(run)
        console.say(f"{run.name}: begins (its log: {log_of(run)})")

    def look(self) -> None:
        if time.monotonic() - self.said > SAY_EVERY:
            self.said = time.monotonic()
            running = [f"{name} {attempt.read_phase()}" for name, attempt in self.attempts.items()]
            console.say(f"{self.num_ended} of {self.total} runs ended; {'; '.join(running)}")

    def ended(self, run: PlannedRun, state: str) -> None:
        self.num_ended += 1
        took = console.format_duration(time.monotonic() - self.attempts.pop(run.name).began)
        console.say(
            f"{run.name}: {state}, took {took} ({self.num_ended} of {self.total} runs ended)"
        )

    def __exit__(self, *_: object) -> None:
        pass


class LiveBoard:
    """One live line for each run in work: what it is doing, how far it is, and the time that this
    will still take.

    It is drawn when it is looked at, by no thread of its own: a child that is forked while a thread
    draws would wait without end for what that thread had locked.
    """

    def __init__(self, total: int):
        self.total = total
        self.attempts: dict[str, Attempt] = {}
        self.num_ended = 0

    def __enter__(self) -> "LiveBoard":
        self.bars = Progress(
            # A name is no markup, though it may look like some.
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[said]}", markup=False),
            auto_refresh=False,
            speed_estimate_period=console.EARLIEST_SPEED,
        )
        self.all = self.bars.add_task("runs", total=self.total, said="")
        self.bars.start()
        return self

    def started(self, run: PlannedRun) -> None:
        self.attempts[run.name] = Attempt(
            run, self.bars.add_task(run.name, total=None, said="starting")
        )

    def look(self) -> None:
        for attempt in self.attempts.values():
            phase = attempt.read_phase()
            loss = f" loss {phase.loss:.3f}" if phase.loss is not None else ""
            self.bars.update(attempt.task, total=phase.total, said=f"{phase.what}{loss}")
            self._move(attempt.task, phase.done)
        self.bars.refresh()

    def ended(self, run: PlannedRun, state: str) -> None:
        self.look()
        task = self.attempts.pop(run.name).task
        if state == "done":  # the last line that was read need not be the run's last
            total = next(one.total for one in self.bars.tasks if one.id == task) or 1
            self.bars.update(task, completed=total, total=total)
        self.bars.update(task, said=state)
        self.bars.stop_task(task)
        self.num_ended += 1
        self._move(self.all, self.num_ended)

    def _move(self, task: Any, done: int) -> None:
        """Tell a bar how far it is, if it has moved: each telling is a sample of its speed."""
        if next(one.completed for one in self.bars.tasks if one.id == task) != done:
            self.bars.update(task, completed=done)

    def __exit__(self, *_: object) -> None:
        self.bars.stop()
