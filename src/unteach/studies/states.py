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


@dataclass
class Standing:
    """A run's state, one of STATES, why, its Slurm job, and how far it is (0 to 1)."""

    state: str
    reason: str = ""
    job: str = ""
    progress: float | None = None


def state_file(run: PlannedRun) -> Path:
    folder = Path(run.folder)
    return folder.parent / FOLDER / f"{folder.name}.json"


def noted(run: PlannedRun) -> dict[str, Any]:
    """What the last process that carried the run out wrote of it."""
    try:
        value = json_files.read_json(state_file(run), "a run's state")
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def note(run: PlannedRun, state: str, reason: str = "", **facts: object) -> None:
    here = {"pid": os.getpid(), "host": socket.gethostname(), "job": job_id(), "at": time.time()}
    atomic.write_json(state_file(run), {"state": state, "reason": reason, **here, **facts})


def job_id() -> str:
    """The Slurm job that this process is in."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


@contextlib.contextmanager
def claim(run: PlannedRun) -> Iterator[None]:
    """Holds a run while it is carried out, and notes how it ended. Raises owner.Busy where another
    process holds it."""
    with owner.hold(_lock(run), "another process carries it out"):
        note(run, "running")
        try:
            yield
        except owner.Busy:
            raise  # whoever holds the run's folder is at work: this process did nothing to the run
        except BaseException as error:
            state, reason = ended(error)
            note(run, state, reason)
            raise
        note(run, "done")


def _lock(run: PlannedRun) -> Path:
    return state_file(run).with_suffix(".lock")


def ended(error: BaseException) -> tuple[str, str]:
    """The state that an error leaves a run in, and the reason in one line."""
    known = describe_machine_failure(error) if isinstance(error, Exception) else None
    code = getattr(error, "exit_code", known[1] if known else None)
    said = (
        known[0]
        if known and not hasattr(error, "exit_code")
        else str(error) or type(error).__name__
    )
    if code == EXIT_DIVERGED:
        return "diverged", said
    if code == EXIT_PREEMPTED or isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped", said
    return "failed", said


def held_now(run: PlannedRun) -> bool:
    """Whether some process holds the run at this moment."""
    return owner.is_held(_lock(run)) or owner.is_held(owner.find_lock(Path(run.folder)))


def begun(run: PlannedRun) -> bool:
    """Whether anything would be lost: the run has learned or measured something, or a process is at
    it now."""
    return run_dir.has_begun(Path(run.folder)) or held_now(run)


def _where(known: dict[str, Any]) -> str:
    job = f", job {known['job']}" if known.get("job") else ""
    return f"process {known.get('pid', '?')} on {known.get('host', '?')}{job}"


def standings(
    plan: list[PlannedRun], queue: dict[str, Standing] | None = None
) -> dict[str, Standing]:
    """Run -> how it stands. `queue` says what Slurm knows of the runs that have a job."""
    found: dict[str, Standing] = {}
    for run in plan:
        found[run.name] = _standing(run, (queue or {}).get(run.name))
        lost = [parent for parent in run.after if found[parent].state in LOST]
        if lost and found[run.name].state in ("to do", "queued", "cancelled", "stopped"):
            told = ", ".join(f"{parent} ({found[parent].state})" for parent in lost)
            found[run.name] = Standing("held", f"waits for {told}", found[run.name].job)
    return found


def _standing(run: PlannedRun, queued: Standing | None) -> Standing:
    if run_dir.is_done(Path(run.folder)):
        return Standing("done")
    known = noted(run)
    job = queued.job if queued else str(known.get("job") or "")
    if held_now(run) or (queued and queued.state == "running"):
        line = run_dir.read_last_metrics(Path(run.folder)) or {}
        return Standing("running", _where(known) if known else "", job, line.get("progress"))
    if queued and queued.state == "queued":
        return Standing("queued", queued.reason, job)
    if known.get("state") in ("failed", "diverged", "cancelled", "stopped"):
        if queued and queued.state == "cancelled":
            return Standing("cancelled", queued.reason, job)
        return Standing(known["state"], str(known.get("reason", "")), job)
    if queued:
        return Standing(queued.state, queued.reason, job)
    if known.get("state") == "running" or (Path(run.folder) / run_dir.CONFIG).exists():
        return Standing(
            "stopped",
            "its process is gone; the same command goes on from its last whole checkpoint",
            job,
        )
    return Standing("to do")


def stop(plan: list[PlannedRun]) -> list[str]:
    """Asks the processes on this machine that carry runs out to save and end; gives the names of
    those runs."""
    asked = []
    for run in plan:
        known = noted(run)
        if held_now(run) and known.get("host") == socket.gethostname() and not known.get("job"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(known["pid"]), signal.SIGTERM)
                asked.append(run.name)
    return asked
