"""Carries a plan out on this machine: in this process, or several runs at a time in forked
children.

Either way the libraries are imported once. A run that diverged or failed holds the runs that wait
for it; the others go on. With children, each run's words go to <study>/logs/<run>.log and one line
a run shows how far it is. Asked to stop (SIGTERM, or Ctrl-C, which the children leave to it), or
killed, the parent takes its children with it: they save themselves between two steps. Asked again,
it waits for none of them.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unteach import console, owner
from unteach.distributed import launch_environment
from unteach.errors import EXIT_BUG, EXIT_DIVERGED, EXIT_PREEMPTED, Preempted
from unteach.studies import states
from unteach.studies.gpu_slots import Slots, seen
from unteach.studies.plan import PlannedRun
from unteach.studies.status_board import Board, get_log_path, make_board
from unteach.wording import counted

CarryOut = Callable[[PlannedRun], object]
BUSY = 76
"""A child's exit code where another process carries its run out."""
STOPPING = (
    "stopping: each run saves itself after the step it is at. Ctrl-C again ends them now, "
    "without saving"
)
KILLING = "ending all runs now"


@dataclass
class Outcome:
    """How a run ended: `done`, `diverged`, `failed`, `stopped` (asked to, and saved), `busy`
    (another process has it), or `held` because a run it waits for did not finish."""

    run: PlannedRun
    state: str
    reason: str = ""


def execute(
    plan: list[PlannedRun], carry_out: CarryOut, slots: Slots | None = None
) -> list[Outcome]:
    """Runs a plan, parents first, as many at a time as there are slots; the outcomes in the order
    of the plan.

    Raises Preempted where this process was asked to stop.
    """
    slots = slots or Slots(1)
    outcomes: dict[str, Outcome] = {}
    if slots.jobs == 1 and slots.per_run is None:
        for number, run in enumerate(plan, 1):
            if not _held(run, outcomes):
                print(f"[{number}/{len(plan)}] {run.name}", flush=True)
                outcomes[run.name] = _here(run, carry_out)
    else:
        _in_children(plan, carry_out, slots, outcomes)
    return [outcomes[run.name] for run in plan]


def _held(run: PlannedRun, outcomes: dict[str, Outcome]) -> bool:
    lost = [
        parent for parent in run.after if parent in outcomes and outcomes[parent].state != "done"
    ]
    if lost:
        outcomes[run.name] = Outcome(run, "held", f"waits for {', '.join(lost)}")
    return bool(lost)


def _here(run: PlannedRun, carry_out: CarryOut) -> Outcome:
    try:
        with states.claim(run):
            carry_out(run)
    except owner.Busy as error:
        return Outcome(run, "busy", str(error))
    except Preempted:
        raise
    except Exception as error:
        state, reason = states.classify_error(error)
        if not hasattr(error, "exit_code"):
            traceback.print_exc()
        print(f"  {state}: {reason}")
        return Outcome(run, state, reason)
    return Outcome(run, "done")


def _in_children(
    plan: list[PlannedRun], carry_out: CarryOut, slots: Slots, outcomes: dict[str, Outcome]
) -> None:
    running: dict[int, tuple[PlannedRun, list[str] | None]] = {}
    threads, told = _threads(plan, slots.jobs), 0
    with _asked_to_stop() as asked, make_board(len(plan)) as board:
        try:
            while len(outcomes) < len(plan) and (running or not asked):
                if not asked:
                    _start(plan, carry_out, slots, outcomes, running, threads, board)
                pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
                if pid in running:
                    run, taken = running.pop(pid)
                    slots.give_back(taken)
                    outcomes[run.name] = _outcome(run, os.waitstatus_to_exitcode(status))
                    board.end(run, outcomes[run.name].state)
                elif running:
                    board.refresh()
                    time.sleep(0.1)
                times = len(asked)
                if times > told:
                    console.say(KILLING if told else STOPPING)
                for pid in running if times > told else ():
                    os.kill(pid, signal.SIGKILL if told else signal.SIGTERM)
                told = times
        finally:
            for pid in running:
                os.kill(pid, signal.SIGTERM)
    if asked.count(signal.SIGINT) > 1:
        raise KeyboardInterrupt
    stopped = sum(outcome.state == "stopped" for outcome in outcomes.values())
    if asked and (stopped or len(outcomes) < len(plan)):
        waiting = counted(len(plan) - len(outcomes), "run")
        ended = counted(stopped, "run")
        raise Preempted(
            f"asked to stop: {ended} stopped, {waiting} not begun. The same command goes on"
        )


def _start(
    plan: list[PlannedRun],
    carry_out: CarryOut,
    slots: Slots,
    outcomes: dict[str, Outcome],
    running: dict[int, tuple[PlannedRun, list[str] | None]],
    threads: dict[str, int],
    board: Board,
) -> None:
    """Starts whatever may start now."""
    started = {run.name for run, _ in running.values()}
    for run in plan:
        if run.name in outcomes or run.name in started or _held(run, outcomes):
            continue
        if slots.room(len(running)) and all(
            parent in outcomes or not _of(plan, parent) for parent in run.after
        ):
            taken = slots.take()
            with seen(taken):
                running[_fork(run, carry_out, threads[run.name])] = (run, taken)
            board.start(run)


def _of(plan: list[PlannedRun], name: str) -> bool:
    return any(run.name == name for run in plan)


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list of the requests to stop that came: SIGTERM, or SIGINT of Ctrl-C."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _threads(plan: list[PlannedRun], jobs: int) -> dict[str, int]:
    """Threads of each run, by the plan alone so that results do not depend on timing: the cores,
    shared by the runs of the same depth."""
    depth: dict[str, int] = {}
    for run in plan:
        depth[run.name] = 1 + max((depth.get(parent, 0) for parent in run.after), default=0)
    together = {
        name: sum(other == level for other in depth.values()) for name, level in depth.items()
    }
    return {
        name: max(1, (os.cpu_count() or 1) // min(jobs, size)) for name, size in together.items()
    }


def _fork(run: PlannedRun, carry_out: CarryOut, threads: int) -> int:
    get_log_path(run).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = EXIT_BUG
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # a terminal sends it to all; the parent asks each by SIGTERM
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _die_with(parent)
        if "torch" in sys.modules:  # loaded before any child was forked
            sys.modules["torch"].set_num_threads(threads)
        else:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        log = os.open(get_log_path(run), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        with states.claim(run):
            carry_out(run)
        code = 0
    except owner.Busy as error:
        code = BUSY
        print(error, file=sys.stderr)
    except BaseException as error:
        code = getattr(error, "exit_code", EXIT_BUG)
        print(
            f"unteach: {error}" if hasattr(error, "exit_code") else traceback.format_exc(),
            file=sys.stderr,
        )
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_with(parent: int) -> None:
    """Has Linux ask this process to stop when its parent is gone, so that no run is ever carried
    out unseen."""
    launch_environment.stop_with_parent()
    if os.getppid() != parent:
        os._exit(EXIT_PREEMPTED)


def _outcome(run: PlannedRun, code: int) -> Outcome:
    if code == 0:
        return Outcome(run, "done")
    words = get_log_path(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = words[-1] if words else f"ended with code {code}"
    if code in (-signal.SIGTERM, -signal.SIGKILL, -signal.SIGINT):
        reason = f"was killed by {signal.Signals(-code).name}"
    stopped = EXIT_PREEMPTED, -signal.SIGTERM, -signal.SIGINT
    state = {EXIT_DIVERGED: "diverged", BUSY: "busy"}.get(
        code, "stopped" if code in stopped else "failed"
    )
    return Outcome(run, state, f"{reason} (see {get_log_path(run)})")
