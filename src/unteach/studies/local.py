"""Carry a plan out on this machine: in this process, or several runs at a time in forked children.

Either way the libraries are imported once. A run that diverged or failed holds the runs that wait
for it; the others go on. With children, what a run prints goes to <study>/logs/<run>.log and one
line a run shows how far it is. Asked to stop (SIGTERM, or Ctrl-C, which the children leave to it),
or killed, the parent takes its children with it: they save themselves between two steps. Asked
again, it waits for none of them. docs/decisions/local-executor.md says what else was tried.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

from unteach import console, owner
from unteach.distributed import launch_environment
from unteach.errors import EXIT_BUG, EXIT_DIVERGED, EXIT_PREEMPTED, Preempted
from unteach.studies import states
from unteach.studies.gpu_slots import Slots, limit_visible_gpus
from unteach.studies.plan import PlannedRun
from unteach.studies.status_board import Board, get_log_path, make_board
from unteach.studies.time_left import TimeLeft, describe_time_left
from unteach.wording import format_count

CarryOut = Callable[[PlannedRun], object]
EXIT_BUSY = 76
"""A child's exit code where another process carries its run out."""
STATES = {
    0: "done",
    EXIT_DIVERGED: "diverged",
    EXIT_BUSY: "busy",
    EXIT_PREEMPTED: "stopped",
}
"""By a child's exit code; any other is `failed`, or `stopped` by a signal."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOK_UP = 0.1
"""Seconds between two looks at requests to stop and at how far the runs are."""
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


@dataclass
class Child:
    """A run that is under way in a process of its own, and the GPUs that it has to itself."""

    run: PlannedRun
    process: ForkProcess
    gpus: list[str] | None


def execute(
    plan: list[PlannedRun],
    carry_out: CarryOut,
    slots: Slots | None = None,
    later: Sequence[str] = (),
    is_enough: Callable[[], bool] | None = None,
) -> list[Outcome]:
    """Carry a plan out, parents first, as many runs at a time as there are slots.

    Args:
        plan: the runs.
        carry_out: carries one out.
        slots: how many run at a time, and on which GPUs; None: one.
        later: the kinds of runs that follow on these, which count in the time that is left.
        is_enough: asked after each run, where one runs at a time: whether the rest is not needed.

    Returns:
        The outcomes in the order of the plan, of the runs that were needed.

    Raises:
        Preempted: where this process was asked to stop.
    """
    slots = slots or Slots(1)
    if slots.jobs > 1 or slots.per_run is not None:
        return ChildExecutor(plan, carry_out, slots).execute()
    outcomes: dict[str, Outcome] = {}
    time_left = TimeLeft(plan, later=later)
    for number, run in enumerate(plan, 1):
        outcome = hold_back(run, outcomes)
        started_at = time.monotonic()
        if outcome is None:
            console.say(f"[{number}/{len(plan)}] {run.name}{describe_time_left(time_left)}")
            outcome = _carry_out_here(run, carry_out)
        time_left.end(run, time.monotonic() - started_at)
        outcomes[run.name] = outcome
        if is_enough is not None and is_enough():
            break
    return list(outcomes.values())


def hold_back(run: PlannedRun, outcomes: dict[str, Outcome]) -> Outcome | None:
    """Hold a run back if a run that it waits for ended without being done."""
    lost = []
    for parent in run.after:
        if parent in outcomes and outcomes[parent].state != "done":
            lost.append(parent)
    if not lost:
        return None
    parents = ", ".join(lost)
    return Outcome(run, "held", f"waits for {parents}")


def _carry_out_here(run: PlannedRun, carry_out: CarryOut) -> Outcome:
    """Carry a run out in this process; a request to stop ends the study too."""
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


class ChildExecutor:
    """Several runs at a time, each in a child that is forked for it alone."""

    def __init__(
        self,
        plan: list[PlannedRun],
        carry_out: CarryOut,
        slots: Slots,
    ):
        self.plan = plan
        self.carry_out = carry_out
        self.slots = slots
        self.names = {run.name for run in plan}
        self.num_threads = share_threads(plan, slots.jobs)
        self.outcomes: dict[str, Outcome] = {}
        self.children: dict[str, Child] = {}
        self.num_requests_passed_on = 0

    def execute(self) -> list[Outcome]:
        """Carry the plan out.

        Asked to stop, it begins no more runs, and waits for those under way to save themselves.

        Returns:
            The outcomes in the order of the plan.
        """
        num_runs = len(self.plan)
        with _record_stop_requests() as requests, make_board(num_runs) as board:
            try:
                while len(self.outcomes) < num_runs:
                    if requests and not self.children:
                        break
                    if not requests:
                        self._start_what_may_start(board)
                    self._collect_what_ended(board)
                    self._pass_on(requests)
            finally:
                for child in self.children.values():
                    child.process.terminate()
        self._raise_if_stopped(requests)
        return [self.outcomes[run.name] for run in self.plan]

    def _start_what_may_start(self, board: Board) -> None:
        """Start runs, in the order of the plan, while there is room; hold back what cannot run."""
        for run in self.plan:
            if run.name in self.outcomes or run.name in self.children:
                continue
            outcome = hold_back(run, self.outcomes)
            if outcome is not None:
                self.outcomes[run.name] = outcome
            elif self.slots.has_room(len(self.children)) and self._is_ready(run):
                self._start(run)
                board.start(run)

    def _is_ready(self, run: PlannedRun) -> bool:
        """Say whether all runs of this plan that a run waits for are over."""
        waits_for = self.names.intersection(run.after)
        return waits_for <= self.outcomes.keys()

    def _start(self, run: PlannedRun) -> None:
        log_dir = get_log_path(run).parent
        log_dir.mkdir(parents=True, exist_ok=True)
        gpus = self.slots.take()
        num_threads = self.num_threads[run.name]
        # Forked, so that the libraries that this process has imported are there at once.
        fork = multiprocessing.get_context("fork")
        process = fork.Process(
            target=_carry_out_in_child,
            args=(run, self.carry_out, num_threads, os.getpid()),
        )
        with limit_visible_gpus(gpus):
            process.start()
        self.children[run.name] = Child(run, process, gpus)

    def _collect_what_ended(self, board: Board) -> None:
        """Wait a moment for a child to end; note how those ended that did."""
        sentinels = [child.process.sentinel for child in self.children.values()]
        wait(sentinels, LOOK_UP)
        for child in list(self.children.values()):
            if child.process.is_alive():
                continue
            run = child.run
            del self.children[run.name]
            self.slots.give_back(child.gpus)
            exit_code = child.process.exitcode
            assert exit_code is not None
            child.process.close()
            outcome = _judge(run, exit_code)
            self.outcomes[run.name] = outcome
            board.end(run, outcome.state)
        board.refresh()

    def _pass_on(self, requests: list[int]) -> None:
        """Pass a request to stop on to the children: the first asks them, the next ends them."""
        if len(requests) == self.num_requests_passed_on:
            return
        is_first = self.num_requests_passed_on == 0
        console.say(STOPPING if is_first else KILLING)
        for child in self.children.values():
            if is_first:
                child.process.terminate()
            else:
                child.process.kill()
        self.num_requests_passed_on = len(requests)

    def _raise_if_stopped(self, requests: list[int]) -> None:
        """End the study where it was asked to stop and something is left to do."""
        if requests.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt
        num_stopped = sum(outcome.state == "stopped" for outcome in self.outcomes.values())
        num_left = len(self.plan) - len(self.outcomes)
        if requests and (num_stopped or num_left):
            stopped = format_count(num_stopped, "run")
            left = format_count(num_left, "run")
            raise Preempted(
                f"asked to stop: {stopped} stopped, {left} not begun. The same command goes on"
            )


@contextlib.contextmanager
def _record_stop_requests() -> Iterator[list[int]]:
    """Record the requests to stop that come meanwhile: SIGTERM, or SIGINT of Ctrl-C."""
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, lambda number, _: requests.append(number))
    try:
        yield requests
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def share_threads(plan: list[PlannedRun], num_jobs: int) -> dict[str, int]:
    """Give each run its threads: the cores, shared by the runs of the same depth.

    By the plan alone, so that results do not depend on when a run happened to start.
    """
    depths: dict[str, int] = {}
    for run in plan:
        depth_above = 0
        for parent in run.after:
            depth_above = max(depth_above, depths.get(parent, 0))
        depths[run.name] = depth_above + 1
    all_depths = list(depths.values())
    num_cores = os.cpu_count() or 1
    threads = {}
    for name, depth in depths.items():
        num_together = min(num_jobs, all_depths.count(depth))
        threads[name] = max(1, num_cores // num_together)
    return threads


def _carry_out_in_child(
    run: PlannedRun,
    carry_out: CarryOut,
    num_threads: int,
    parent_pid: int,
) -> None:
    """Carry a run out in the process that was forked for it, and end with its exit code."""
    exit_code = EXIT_BUG
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # A terminal sends Ctrl-C to all; the parent asks each child by SIGTERM.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _die_with(parent_pid)
        _limit_threads(num_threads)
        _write_to_log(run)
        with states.claim(run):
            carry_out(run)
        exit_code = 0
    except owner.Busy as error:
        exit_code = EXIT_BUSY
        print(error, file=sys.stderr)
    except BaseException as error:
        exit_code = getattr(error, "exit_code", EXIT_BUG)
        is_known = hasattr(error, "exit_code")
        message = f"unteach: {error}" if is_known else traceback.format_exc()
        print(message, file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # At once: threads and handlers of the parent's, which were copied, are not for a child to
        # wait for or to run.
        os._exit(exit_code)


def _die_with(parent_pid: int) -> None:
    """Have Linux stop this process when its parent is gone, so that no run goes on unseen."""
    launch_environment.stop_with_parent()
    if os.getppid() != parent_pid:
        os._exit(EXIT_PREEMPTED)


def _limit_threads(num_threads: int) -> None:
    if "torch" in sys.modules:  # loaded before any child was forked
        sys.modules["torch"].set_num_threads(num_threads)
    else:
        os.environ["OMP_NUM_THREADS"] = str(num_threads)


def _write_to_log(run: PlannedRun) -> None:
    """Send all that this process prints, by whatever way, to the log of its run."""
    log = os.open(get_log_path(run), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)


def _judge(run: PlannedRun, exit_code: int) -> Outcome:
    """Judge a child by its exit code, and by the last line of its log."""
    if exit_code == 0:
        return Outcome(run, "done")
    log = get_log_path(run)
    content = log.read_text(encoding="utf-8", errors="replace")
    lines = content.strip().splitlines()
    reason = lines[-1] if lines else f"ended with code {exit_code}"
    state = STATES.get(exit_code, "failed")
    if exit_code < 0:
        number = signal.Signals(-exit_code)
        if number in (*STOP_SIGNALS, signal.SIGKILL):
            reason = f"was killed by {number.name}"
        state = "stopped" if number in STOP_SIGNALS else "failed"
    return Outcome(run, state, f"{reason} (see {log})")
