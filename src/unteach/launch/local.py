"""Carries a plan out on this machine: in this process, or several runs at a time in forked children.

Either way the libraries are imported once. A run that diverged or failed holds the runs that wait for it; the others go
on. With children, each run's words go to <study>/logs/<run>.log and one line a run shows how far it is.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import runs
from unteach.errors import EXIT_BUG, EXIT_DIVERGED, Diverged
from unteach.launch.plan import PlannedRun

CarryOut = Callable[[PlannedRun], object]


@dataclass
class Outcome:
    """How a run ended: `done`, `diverged`, `failed`, or `held` because a run it waits for did not finish."""

    run: PlannedRun
    state: str
    reason: str = ""


def execute(plan: list[PlannedRun], carry_out: CarryOut, jobs: int = 1) -> list[Outcome]:
    """Runs a plan, parents first, `jobs` at a time; the outcomes in the order of the plan."""
    outcomes: dict[str, Outcome] = {}
    if jobs == 1:
        for number, run in enumerate(plan, 1):
            if not _held(run, outcomes):
                print(f"[{number}/{len(plan)}] {run.name}", flush=True)
                outcomes[run.name] = _here(run, carry_out)
    else:
        _in_children(plan, carry_out, jobs, outcomes)
    return [outcomes[run.name] for run in plan]


def _held(run: PlannedRun, outcomes: dict[str, Outcome]) -> bool:
    lost = [parent for parent in run.after if parent in outcomes and outcomes[parent].state != "done"]
    if lost:
        outcomes[run.name] = Outcome(run, "held", f"waits for {', '.join(lost)}")
    return bool(lost)


def _here(run: PlannedRun, carry_out: CarryOut) -> Outcome:
    try:
        carry_out(run)
    except Diverged as error:
        print(f"  diverged: {error}")
        return Outcome(run, "diverged", str(error))
    return Outcome(run, "done")


def _in_children(plan: list[PlannedRun], carry_out: CarryOut, jobs: int, outcomes: dict[str, Outcome]) -> None:
    running: dict[int, PlannedRun] = {}
    threads = _threads(plan, jobs)
    with Board(len(plan)) as board:
        try:
            while len(outcomes) < len(plan):
                started = {run.name for run in running.values()}
                for run in plan:
                    if run.name in outcomes or run.name in started or _held(run, outcomes):
                        continue
                    if len(running) < jobs and all(parent in outcomes for parent in run.after):
                        running[_fork(run, carry_out, threads[run.name])] = run
                        board.started(run)
                pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
                if pid in running:
                    run = running.pop(pid)
                    outcomes[run.name] = _outcome(run, os.waitstatus_to_exitcode(status))
                    board.ended(run, outcomes[run.name].state)
                elif running:
                    board.look()
                    time.sleep(0.1)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGTERM)


def _threads(plan: list[PlannedRun], jobs: int) -> dict[str, int]:
    """Threads of each run, by the plan alone so that results do not depend on timing: the cores, shared by the runs of
    the same depth."""
    depth: dict[str, int] = {}
    for run in plan:
        depth[run.name] = 1 + max((depth[parent] for parent in run.after), default=0)
    together = {name: sum(other == level for other in depth.values()) for name, level in depth.items()}
    return {name: max(1, (os.cpu_count() or 1) // min(jobs, size)) for name, size in together.items()}


def log_of(run: PlannedRun) -> Path:
    folder = Path(run.folder)
    return folder.parent / "logs" / f"{folder.name}.log"


def _fork(run: PlannedRun, carry_out: CarryOut, threads: int) -> int:
    log_of(run).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = EXIT_BUG
    try:
        import torch

        torch.set_num_threads(threads)
        log = os.open(log_of(run), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        carry_out(run)
        code = 0
    except BaseException as error:
        code = getattr(error, "exit_code", EXIT_BUG)
        print(f"unteach: {error}" if hasattr(error, "exit_code") else traceback.format_exc(), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _outcome(run: PlannedRun, code: int) -> Outcome:
    if code == 0:
        return Outcome(run, "done")
    words = log_of(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = words[-1] if words else f"ended with code {code}"
    return Outcome(run, "diverged" if code == EXIT_DIVERGED else "failed", f"{reason} (see {log_of(run)})")


class Board:
    """One live line for each run in work: its step and loss, read from its metrics file."""

    def __init__(self, total: int):
        self.total = total
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "Board":
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
        )  # fmt: skip
        self.all = self.bars.add_task("runs", total=self.total, said="")
        self.bars.start()
        return self

    def started(self, run: PlannedRun) -> None:
        self.tasks[run.name] = (run, self.bars.add_task(run.name, total=None, said=""))

    def look(self) -> None:
        for run, task in self.tasks.values():
            line = runs.last_metrics(Path(run.folder))
            if line and "loss" in line:
                total = round(line["step"] / line["progress"]) if line.get("progress") else None
                self.bars.update(task, completed=line["step"], total=total, said=f"loss {line['loss']:.3f}")

    def ended(self, run: PlannedRun, state: str) -> None:
        _, task = self.tasks.pop(run.name)
        self.bars.update(task, said=state)
        self.bars.stop_task(task)
        self.bars.advance(self.all)

    def __exit__(self, *_: object) -> None:
        self.bars.stop()
