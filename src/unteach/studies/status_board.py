"""What is shown of a study while its runs are carried out in processes of their own.

A run's phase and how far it is are read from its metrics file and from its log, which has the plain
lines of the run.
"""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from unteach import console, run_dir
from unteach.studies.plan import PlannedRun

PASS_LINE = re.compile(r"(?P<what>.+): (?P<done>[\d,]+) of (?P<total>[\d,]+)(?:, .*)?")
"""A line of a pass of an evaluation or an audit, as `evals.run.PassLines` prints it."""
SAY_EVERY = 60.0
"""Seconds between two accounts of what is running, where the output cannot be redrawn."""
LOG_END = 4096
"""Bytes at the end of a log in which its last line is looked for."""


def get_log_path(run: PlannedRun) -> Path:
    return run.study_dir / "logs" / f"{run.name}.log"


@dataclass(frozen=True)
class Phase:
    """What a run is doing, and how much of that is done; total is None where nobody knows."""

    what: str
    done: int = 0
    total: int | None = None
    loss: float | None = None

    def __str__(self) -> str:
        text = self.what
        if self.total:
            text += f" {self.done}/{self.total}"
        if self.loss is not None:
            text += f", loss {self.loss:.3f}"
        return text


def read_phase(run: PlannedRun, log_start: int = 0) -> Phase:
    """Say what a run is doing: a pass of an evaluation, if its log ends in one; else by what its
    folder holds.

    Args:
        run: the run.
        log_start: where in its log this attempt begins; what is before it is of an earlier one.
    """
    last_line = _read_last_line(get_log_path(run), log_start)
    match = PASS_LINE.fullmatch(last_line)
    if match:
        what = console.neutralize(match["what"])
        done = int(match["done"].replace(",", ""))
        total = int(match["total"].replace(",", ""))
        return Phase(what, done, total)
    folder = Path(run.folder)
    metrics = run_dir.read_last_metrics(folder) or {}
    if not metrics.get("progress"):
        return Phase("starting")
    step = metrics["step"]
    num_steps = round(step / metrics["progress"])
    if (folder / run_dir.FINAL).exists():
        return Phase("evaluating", step, num_steps)
    return Phase("training", step, num_steps, metrics.get("loss"))


def _read_last_line(path: Path, start: int) -> str:
    """Read the last line of a file that is not empty; only what is after `start`."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(start, size - LOG_END))
            content = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    for line in reversed(content.splitlines()):
        if line.strip():
            return line
    return ""


@dataclass
class Attempt:
    """A run that is in work: when it was started, and where in its log it began."""

    run: PlannedRun
    started_at: float = field(default_factory=time.monotonic)
    log_start: int = 0

    def __post_init__(self) -> None:
        log = get_log_path(self.run)
        self.log_start = log.stat().st_size if log.exists() else 0

    def read_phase(self) -> Phase:
        return read_phase(self.run, self.log_start)


class Board(Protocol):
    """Show runs: an executor says when one starts and ends, and asks for a new look in between."""

    def __enter__(self) -> "Board": ...
    def start(self, run: PlannedRun) -> None: ...
    def refresh(self) -> None: ...
    def end(self, run: PlannedRun, state: str) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def make_board(num_runs: int) -> Board:
    """Build what shows some runs on this output."""
    return LiveBoard(num_runs) if console.is_live() else LineBoard(num_runs)


class LineBoard:
    """Print a line when a run begins and when it ends, and each minute one on what is running."""

    def __init__(self, num_runs: int):
        self.num_runs = num_runs
        self.num_ended = 0
        self.attempts: dict[str, Attempt] = {}
        self.printed_at = time.monotonic()

    def __enter__(self) -> "LineBoard":
        return self

    def start(self, run: PlannedRun) -> None:
        self.attempts[run.name] = Attempt(run)
        console.say(f"{run.name}: begins (its log: {get_log_path(run)})")

    def refresh(self) -> None:
        now = time.monotonic()
        if now - self.printed_at <= SAY_EVERY:
            return
        self.printed_at = now
        phases = []
        for name, attempt in self.attempts.items():
            phases.append(f"{name} {attempt.read_phase()}")
        running = "; ".join(phases)
        console.say(f"{self.num_ended} of {self.num_runs} runs ended; {running}")

    def end(self, run: PlannedRun, state: str) -> None:
        self.num_ended += 1
        attempt = self.attempts.pop(run.name)
        seconds = time.monotonic() - attempt.started_at
        took = console.format_duration(seconds)
        console.say(
            f"{run.name}: {state}, took {took} ({self.num_ended} of {self.num_runs} runs ended)"
        )

    def __exit__(self, *_: object) -> None:
        pass


class LiveBoard:
    """Draw one live line for each run in work: what it is doing, how far it is, and the time that
    this will still take.

    It is drawn by `refresh`, by no thread of its own: a child that is forked while a thread draws
    would wait without end for what that thread had locked.
    """

    def __init__(self, num_runs: int):
        self.num_runs = num_runs
        self.num_ended = 0
        self.attempts: dict[str, Attempt] = {}
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "LiveBoard":
        self.bars = Progress(
            # A name is no markup, though it may look like some.
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[phase]}", markup=False),
            auto_refresh=False,
            speed_estimate_period=console.EARLIEST_SPEED,
        )
        self.all_runs = self.bars.add_task("runs", total=self.num_runs, phase="")
        self.bars.start()
        return self

    def start(self, run: PlannedRun) -> None:
        self.attempts[run.name] = Attempt(run)
        self.tasks[run.name] = self.bars.add_task(
            run.name,
            total=None,
            phase="starting",
        )

    def refresh(self) -> None:
        for name, attempt in self.attempts.items():
            task = self.tasks[name]
            phase = attempt.read_phase()
            text = phase.what
            if phase.loss is not None:
                text += f" loss {phase.loss:.3f}"
            self.bars.update(task, total=phase.total, phase=text)
            self._advance_to(task, phase.done)
        self.bars.refresh()

    def end(self, run: PlannedRun, state: str) -> None:
        self.refresh()
        self.attempts.pop(run.name)
        task = self.tasks.pop(run.name)
        if state == "done":
            # The last line that was read need not be the run's last.
            total = self._find_bar(task).total or 1
            self.bars.update(task, completed=total, total=total)
        self.bars.update(task, phase=state)
        self.bars.stop_task(task)
        self.num_ended += 1
        self._advance_to(self.all_runs, self.num_ended)

    def _advance_to(self, task: TaskID, num_done: int) -> None:
        """Tell a bar how far it is, if it has moved: each update is a sample of its speed."""
        if self._find_bar(task).completed != num_done:
            self.bars.update(task, completed=num_done)

    def _find_bar(self, task: TaskID) -> Task:
        return next(bar for bar in self.bars.tasks if bar.id == task)

    def __exit__(self, *_: object) -> None:
        self.bars.stop()
