"""How each run of a study stands: read from its folder and <study>/states, so that whoever started
it may be gone.

<study>/states/<run>.lock is held, by the operating system, by the process that carries the run out;
<study>/states/<run>.json says how it began and ended.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import atomic, json_files, owner, run_dir
from unteach.errors import EXIT_DIVERGED, EXIT_PREEMPTED, UserError, describe_machine_failure
from unteach.studies.plan import PlannedRun

FOLDER = "states"
STATES = (
    "done",
    "running",
    "queued",
    "stopped",
    "failed",
    "diverged",
    "cancelled",
    "held",
    "to do",
)
LOST = ("failed", "diverged", "held")
"""States that hold a run's children until it is tried again."""
HOLDABLE = ("to do", "queued", "cancelled", "stopped")
"""States of a run that cannot go on where a parent is lost."""
RECORDED_ENDS = ("failed", "diverged", "cancelled", "stopped")
"""Ends that a run's own record knows best."""


@dataclass
class Standing:
    """A run's state, one of STATES, why, its Slurm job, and how far it is (0 to 1)."""

    state: str
    reason: str = ""
    job: str = ""
    progress: float | None = None


def get_state_file(run: PlannedRun) -> Path:
    return run.study_dir / FOLDER / f"{run.name}.json"


def read_record(run: PlannedRun) -> dict[str, Any]:
    """Read what the last process that carried the run out wrote of it."""
    try:
        value = json_files.read_json(get_state_file(run), "a run's state")
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def write_record(run: PlannedRun, state: str, reason: str = "", **facts: object) -> None:
    """Write how a run stands, and which process carries it out."""
    record: dict[str, object] = {
        "state": state,
        "reason": reason,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "job": read_job_id(),
        "at": time.time(),
        **facts,
    }
    atomic.write_json(get_state_file(run), record)


def read_job_id() -> str:
    """Give the Slurm job that this process is in; "" outside of any."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID", "")


@contextlib.contextmanager
def claim(run: PlannedRun) -> Iterator[None]:
    """Hold a run while it is carried out, and record how it ended.

    Raises:
        owner.Busy: another process holds it.
    """
    with owner.hold(_get_lock(run), "another process carries it out"):
        write_record(run, "running")
        try:
            yield
        except owner.Busy:
            # Whoever holds the run's folder is at work: this process did nothing to the run.
            raise
        except BaseException as error:
            state, reason = classify_error(error)
            write_record(run, state, reason)
            raise
        write_record(run, "done")


def _get_lock(run: PlannedRun) -> Path:
    return get_state_file(run).with_suffix(".lock")


def classify_error(error: BaseException) -> tuple[str, str]:
    """Give the state that an error leaves a run in, and the reason in one line."""
    code = getattr(error, "exit_code", None)
    reason = str(error) or type(error).__name__
    # An error of the library inside our work has no code of its own.
    if not hasattr(error, "exit_code") and isinstance(error, Exception):
        library_error = describe_machine_failure(error)
        if library_error:
            reason, code = library_error
    if code == EXIT_DIVERGED:
        return "diverged", reason
    if code == EXIT_PREEMPTED or isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped", reason
    return "failed", reason


def is_held(run: PlannedRun) -> bool:
    """Say whether some process holds the run at this moment."""
    return owner.is_held(_get_lock(run)) or owner.is_held(owner.find_lock(Path(run.folder)))


def has_begun(run: PlannedRun) -> bool:
    """Say whether anything would be lost: the run has learned or measured something, or a process
    is at it now."""
    return run_dir.has_begun(Path(run.folder)) or is_held(run)


def read_standings(
    plan: list[PlannedRun],
    queue: dict[str, Standing] | None = None,
) -> dict[str, Standing]:
    """Read how each run stands.

    Args:
        plan: the runs, parents before children.
        queue: what Slurm knows of the runs that have a job, by name.
    """
    queue = queue or {}
    standings: dict[str, Standing] = {}
    for run in plan:
        standing = _read_standing(run, queue.get(run.name))
        lost_parents = []
        for name in run.after:
            parent_state = standings[name].state
            if parent_state in LOST:
                lost_parents.append(f"{name} ({parent_state})")
        if lost_parents and standing.state in HOLDABLE:
            parents = ", ".join(lost_parents)
            standing = Standing("held", f"waits for {parents}", standing.job)
        standings[run.name] = standing
    return standings


def _read_standing(run: PlannedRun, queued: Standing | None) -> Standing:
    """Read how one run stands, from what is surest to what is least sure."""
    folder = Path(run.folder)
    if run_dir.is_done(folder):
        return Standing("done")
    record = read_record(run)
    job = queued.job if queued else str(record.get("job") or "")
    queue_state = queued.state if queued else None

    # Its locks and the queue know what goes on now.
    if is_held(run) or queue_state == "running":
        metrics = run_dir.read_last_metrics(folder) or {}
        process = _name_process(record) if record else ""
        return Standing("running", process, job, metrics.get("progress"))
    if queued and queue_state == "queued":
        return Standing("queued", queued.reason, job)

    # Nothing does: its own record says how it ended, unless Slurm cancelled it.
    if record.get("state") in RECORDED_ENDS:
        if queued and queue_state == "cancelled":
            return Standing("cancelled", queued.reason, job)
        return Standing(record["state"], str(record.get("reason", "")), job)
    if queued:
        return Standing(queued.state, queued.reason, job)
    if record.get("state") == "running" or (folder / run_dir.CONFIG).exists():
        return Standing(
            "stopped",
            "its process is gone; the same command goes on from its last whole checkpoint",
            job,
        )
    return Standing("to do")


def _name_process(record: dict[str, Any]) -> str:
    """Name the process that a record is of."""
    pid = record.get("pid", "?")
    host = record.get("host", "?")
    job = record.get("job")
    if job:
        return f"process {pid} on {host}, job {job}"
    return f"process {pid} on {host}"


def stop(plan: list[PlannedRun]) -> list[str]:
    """Ask the processes on this machine that carry runs out to save and end.

    Returns:
        The names of those runs.
    """
    stopped = []
    for run in plan:
        record = read_record(run)
        is_of_this_host = record.get("host") == socket.gethostname()
        is_of_slurm = bool(record.get("job"))
        if is_held(run) and is_of_this_host and not is_of_slurm:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(record["pid"]), signal.SIGTERM)
                stopped.append(run.name)
    return stopped
