"""What Slurm knows: squeue of jobs that wait or run, sacct or scontrol of those that ended."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

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
REASONS = {
    "NODE_FAIL": "its node died",
    "OUT_OF_MEMORY": "out of memory: ask for more (slurm.mem), or see what `unteach check` says "
    "of the run's memory",
    "TIMEOUT": "it reached its time without saving itself: give it more slurm.time or slurm.grace",
    "DEADLINE": "its deadline passed",
    "BOOT_FAIL": "its node did not start",
}


def run_command(*command: str) -> str:
    """Run a command of Slurm and give its output.

    Raises:
        UserError: it failed; the message is its own.
    """
    done = _run(*command)
    if done.returncode:
        message = done.stderr or done.stdout
        one_line = " ".join(message.split())
        raise UserError(f"{command[0]}: {one_line}")
    return done.stdout


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


def is_installed() -> bool:
    return shutil.which("squeue") is not None


def require_slurm() -> None:
    """Raise UserError where there is no Slurm."""
    if not is_installed():
        raise UserError(
            "there is no Slurm here (no squeue): `unteach study run` carries a study out on this "
            "machine"
        )


@dataclass(frozen=True)
class JobState:
    """What Slurm says of one job: its id, its state, and the reason of that."""

    job: str
    state: str
    reason: str


def read_standings(jobs: Iterable[str]) -> dict[str, Standing]:
    """Read how jobs stand; those that Slurm has forgotten are left out."""
    wanted = set(jobs)
    if not wanted:
        return {}
    standings = {}
    for job_state in _list_queue():
        if job_state.job in wanted:
            standings[job_state.job] = _read_standing(job_state)
    for job_state in _list_ended(wanted - standings.keys()):
        standings.setdefault(job_state.job, _read_standing(job_state))
    return standings


def find_jobs(name: str) -> list[str]:
    """Find the jobs of a name that are in the queue, arrays by their own id."""
    lines = run_command("squeue", "--me", "-h", "-n", name, "-o", "%F").split()
    return list(dict.fromkeys(lines))


def _list_queue() -> list[JobState]:
    """List the jobs that wait or run."""
    output = run_command("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r")
    job_states = []
    for line in output.splitlines():
        fields = line.split("|", 2)
        if len(fields) == 3:
            job_states.append(JobState(*fields))
    return job_states


def _list_ended(jobs: set[str]) -> list[JobState]:
    """List jobs that ended: from the accounts where the cluster keeps them, else from the
    controller, which soon forgets."""
    if not jobs:
        return []
    arrays = sorted({job.split("_")[0] for job in jobs})
    accounts = _run("sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ",".join(arrays))
    if accounts.returncode == 0:
        job_states = _parse_accounts(accounts.stdout)
    else:
        job_states = []
        for array in arrays:
            job_states += _parse_controller(_run("scontrol", "show", "job", "-o", array).stdout)
    return [job_state for job_state in job_states if job_state.job in jobs]


def _parse_accounts(output: str) -> list[JobState]:
    """Parse lines of sacct: `12_3|CANCELLED by 1000`."""
    job_states = []
    for line in output.splitlines():
        job, separator, state = line.partition("|")
        if separator and state:
            job_states.append(JobState(job, state.split()[0], state))
    return job_states


def _parse_controller(output: str) -> list[JobState]:
    """Parse lines of scontrol: `JobId=15 ArrayJobId=12 ArrayTaskId=3 JobState=FAILED …`."""
    job_states = []
    for line in output.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        job = fields.get("JobId", "")
        task = fields.get("ArrayTaskId", "")
        if task.isdigit():
            job = f"{fields['ArrayJobId']}_{task}"
        job_states.append(JobState(job, fields.get("JobState", ""), fields.get("Reason", "")))
    return job_states


def _read_standing(job_state: JobState) -> Standing:
    """Say of a job in Slurm's terms how its run stands."""
    job = job_state.job
    state = job_state.state
    reason = "" if job_state.reason in ("None", "", state) else job_state.reason
    if state in WAITING:
        return Standing("queued", reason, job)
    if state in RUNNING:
        return Standing("running", "", job)
    if state.startswith("CANCELLED"):
        return Standing("cancelled", reason, job)
    if state == "COMPLETED":
        return Standing("stopped", "its job ended, and the run is not done", job)
    in_parentheses = f" ({reason})" if reason else ""
    known_reason = REASONS.get(state, f"its job ended as {state}{in_parentheses}")
    return Standing("failed", known_reason, job)


def read_max_array_size() -> int:
    """Read how many tasks an array may have."""
    settings = run_command("scontrol", "show", "config")
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", settings, re.MULTILINE)
    return int(match[1]) if match else 1001
