"""What Slurm knows: squeue of jobs that wait or run, sacct or scontrol of those that ended."""

import re
import shutil
import subprocess
from collections.abc import Iterable

from unteach.errors import UserError
from unteach.studies.states import Standing

WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING = (
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESIZING",
)
TOLD = {
    "NODE_FAIL": "its node died",
    "OUT_OF_MEMORY": "out of memory: ask for more (slurm.mem), or see what `unteach check` says of "
    "the run's memory",
    "TIMEOUT": "it reached its time without saving itself: give it more slurm.time or slurm.grace",
    "DEADLINE": "its deadline passed",
    "BOOT_FAIL": "its node did not start",
}


def run(*command: str) -> str:
    """A Slurm command's output; UserError with its own words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{command[0]}: {' '.join((done.stderr or done.stdout).split())}")
    return done.stdout


def there() -> bool:
    return shutil.which("squeue") is not None


def needed() -> None:
    """Raises UserError where there is no Slurm."""
    if not there():
        raise UserError(
            "there is no Slurm here (no squeue): `unteach study run` carries a study out on this "
            "machine"
        )


def standings(jobs: Iterable[str]) -> dict[str, Standing]:
    """Job -> how it stands; jobs that Slurm has forgotten are not in it."""
    asked = set(jobs)
    if not asked:
        return {}
    found = {
        job: _standing(job, state, reason) for job, state, reason in _in_queue() if job in asked
    }
    for job, state, reason in _ended(asked - found.keys()):
        found.setdefault(job, _standing(job, state, reason))
    return found


def named(name: str) -> list[str]:
    """The jobs of a name that are in the queue, arrays by their own id."""
    lines = run("squeue", "--me", "-h", "-n", name, "-o", "%F").split()
    return list(dict.fromkeys(lines))


def _in_queue() -> list[tuple[str, str, str]]:
    lines = run("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r").splitlines()
    return [tuple(line.split("|", 2)) for line in lines if line.count("|") >= 2]  # type: ignore[misc]


def _ended(jobs: set[str]) -> list[tuple[str, str, str]]:
    """From the accounts where the cluster keeps them, else from the controller, which soon
    forgets."""
    if not jobs:
        return []
    arrays = sorted({job.split("_")[0] for job in jobs})
    told = subprocess.run(
        ["sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ",".join(arrays)],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode == 0:
        pairs = [line.split("|") for line in told.stdout.splitlines() if "|" in line]
        return [(job, state.split()[0], state) for job, state in pairs if job in jobs and state]
    found = []
    for array in arrays:
        shown = subprocess.run(
            ["scontrol", "show", "job", "-o", array], capture_output=True, text=True, check=False
        )
        for line in shown.stdout.splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            task = fields.get("ArrayTaskId", "")
            job = f"{fields['ArrayJobId']}_{task}" if task.isdigit() else fields.get("JobId", "")
            found.append((job, fields.get("JobState", ""), fields.get("Reason", "")))
    return [one for one in found if one[0] in jobs]


def _standing(job: str, state: str, reason: str) -> Standing:
    reason = "" if reason in ("None", "", state) else reason
    if state in WAITING:
        return Standing("queued", reason, job)
    if state in RUNNING:
        return Standing("running", "", job)
    if state.startswith("CANCELLED"):
        return Standing("cancelled", reason, job)
    if state == "COMPLETED":
        return Standing("stopped", "its job ended, and the run is not done", job)
    return Standing(
        "failed",
        TOLD.get(state, f"its job ended as {state}" + (f" ({reason})" if reason else "")),
        job,
    )


def largest_array() -> int:
    """How many tasks an array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run("scontrol", "show", "config"), re.MULTILINE)
    return int(found[1]) if found else 1001
