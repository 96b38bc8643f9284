"""Hands a study to Slurm through submitit: arrays of runs that wait for the same parents, each run
after its own.

What was handed over is kept in <study>/slurm/batches, one file an array, written before the array
is submitted and completed with its jobs afterwards: a submitter that dies in between leaves a
record without jobs, whose jobs the next one takes back from the queue, and submits its runs again.
"""

import dataclasses
import json
import shlex
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic
from unteach.errors import UserError, describe_missing_extra
from unteach.studies import slurm_queue, states
from unteach.studies.job_arrays import JobArray, group_into_arrays
from unteach.studies.plan import PlannedRun
from unteach.studies.settings import Slurm
from unteach.studies.slurm_job import Job
from unteach.studies.slurm_scripts import build_options
from unteach.studies.states import Standing
from unteach.studies.study_file import Study

if TYPE_CHECKING:
    from submitit import AutoExecutor

QUEUE_IS_FULL = (
    "submit limit",
    "accounting/QOS policy",
    "temporarily unable",
    "queue is full",
    "MaxSubmitJob",
    "MaxJobCount",
)
"""What sbatch says when it takes no more jobs for now."""
READY = ("to do", "stopped", "cancelled")
"""States of the runs that are handed over."""
UNLIMITED = 100_000
"""Tasks of an array at a time, where none is asked to be held back."""


def get_slurm_dir(study: Study) -> Path:
    return study.folder / "slurm"


def _list_records(study: Study) -> list[Path]:
    return sorted((get_slurm_dir(study) / "batches").glob("*.json"))


def was_handed_over(study: Study) -> bool:
    """Say whether any run of a study was given to Slurm."""
    return bool(_list_records(study))


def read_jobs(study: Study) -> dict[str, str]:
    """Read the last job that each run was given."""
    job_by_run: dict[str, str] = {}
    for file in _list_records(study):
        record = json.loads(file.read_text())
        job_by_run.update(zip(record["runs"], record["jobs"] or [], strict=False))
    return job_by_run


def read_standings(study: Study) -> dict[str, Standing]:
    """Read how each run stands, by its folder and, where it was handed over, by Slurm."""
    job_by_run = read_jobs(study)
    queue: dict[str, Standing] = {}
    if job_by_run and slurm_queue.is_installed():
        standing_by_job = slurm_queue.read_standings(job_by_run.values())
        for name, job in job_by_run.items():
            if job in standing_by_job:
                queue[name] = standing_by_job[job]
    return states.read_standings(study.plan, queue)


def submit(study: Study, again: bool = False) -> tuple[int, list[str]]:
    """Hand over the runs that are not in the queue yet, each after its parents.

    Args:
        study: the study.
        again: hand over what failed, too.

    Returns:
        How many runs were handed over, and what there is to say about the others.
    """
    slurm_queue.require_slurm()
    _cancel_unknown_jobs(study)
    standings = read_standings(study)
    wanted_states = (*READY, *states.LOST) if again else READY
    notes = []
    if not again:
        notes += _describe_lost_runs(standings)

    chosen = []
    for run in study.plan:
        standing = standings[run.name]
        if standing.state not in wanted_states:
            continue
        chosen.append(run)
        # A job that waits for a parent that failed would wait for ever; it is given a new one.
        if standing.job and standing.state == "held":
            slurm_queue.run_command("scancel", "--quiet", standing.job)
    job_by_run = {}
    for name, standing in standings.items():
        if standing.job and standing.state in ("queued", "running"):
            job_by_run[name] = standing.job
    _refuse_parents_outside_slurm(chosen, standings, job_by_run)
    submission = _Submission(study, job_by_run)
    note = submission.submit(chosen)
    if note:
        notes.append(note)
    return submission.num_submitted, notes


def _describe_lost_runs(standings: dict[str, Standing]) -> list[str]:
    """Say of each run that is lost why it is, and that `retry` is for these."""
    notes = []
    for name, standing in standings.items():
        if standing.state in states.LOST:
            notes.append(f"{name} {standing.state}: {standing.reason}")
    if notes:
        notes.append("what failed, and what waits for it, is left to `unteach study retry`")
    return notes


def _refuse_parents_outside_slurm(
    chosen: list[PlannedRun],
    standings: dict[str, Standing],
    job_by_run: dict[str, str],
) -> None:
    """Refuse a run whose parent has no job that Slurm could make it wait for."""
    for run in chosen:
        without_job = []
        for parent in run.after:
            if standings[parent].state == "running" and parent not in job_by_run:
                without_job.append(parent)
        if without_job:
            parents = ", ".join(without_job)
            raise UserError(
                f"{run.name} waits for {parents}, carried out outside Slurm: wait for it first"
            )


@dataclass
class _Submission:
    """Submit runs as arrays, and remember the job of each.

    Attributes:
        study: the study.
        job_by_run: the jobs that are in the queue, by their runs.
        num_submitted: how many runs were handed over.
    """

    study: Study
    job_by_run: dict[str, str]
    num_submitted: int = 0
    arrays_by_kind: dict[str, list[str]] = field(default_factory=dict)

    def submit(self, runs: list[PlannedRun]) -> str:
        """Submit runs; say why not all, where the queue is full."""
        allowed = slurm_queue.read_max_array_size()
        max_size = min(self.study.slurm.max_array or allowed, allowed)
        waiting = group_into_arrays(runs, max_size, self.job_by_run)
        widest: dict[str, int] = {}
        for array in waiting:
            widest[array.kind] = max(widest.get(array.kind, 0), len(array.runs))
        while waiting:
            array = waiting[0]
            try:
                self._submit_array(array, widest[array.kind])
            except UserError as error:
                if not any(sign in str(error) for sign in QUEUE_IS_FULL):
                    raise
                if len(array.runs) == 1:
                    return (
                        f"the queue takes no more jobs now ({error}); the same command hands over "
                        "the other runs later"
                    )
                # There may be room for a part of it.
                waiting[:1] = _split(array)
                continue
            waiting.pop(0)
        return ""

    def _submit_array(self, array: JobArray, widest: int) -> None:
        """Submit one array after its parents and, where runs are held back, after earlier arrays
        of its kind.

        Args:
            array: its parents have jobs.
            widest: the size of the largest array of the kind.
        """
        settings = self.study.slurm.for_kind(array.kind)
        earlier = self.arrays_by_kind.setdefault(array.kind, [])
        conditions = []
        if array.after:
            parent_jobs = [self.job_by_run[name] for name in array.after]
            conditions.append(":".join(["afterok", *parent_jobs]))
        if settings.throttle:
            # Slurm holds tasks back within an array only, so arrays wait for one another.
            num_at_a_time = max(1, settings.throttle // widest)
            if len(earlier) >= num_at_a_time:
                conditions.append(f"afterany:{earlier[-num_at_a_time]}")
        jobs = _submit(self.study, array, settings, ",".join(conditions))
        self.job_by_run.update(zip(array.names, jobs, strict=True))
        earlier.append(jobs[0].split("_")[0])
        self.num_submitted += len(jobs)


def _split(array: JobArray) -> Iterator[JobArray]:
    middle = len(array.runs) // 2
    yield dataclasses.replace(array, runs=array.runs[:middle])
    yield dataclasses.replace(array, runs=array.runs[middle:])


def _submit(
    study: Study,
    array: JobArray,
    settings: Slurm,
    dependency: str,
) -> list[str]:
    """Submit one array; give its jobs, in the order of its runs."""
    folder = get_slurm_dir(study) / "batches"
    numbers = [int(file.stem) for file in folder.glob("*.json")]
    number = max(numbers, default=-1) + 1
    file = folder / f"{number:05d}.json"
    unique = uuid.uuid4().hex[:8]
    name = f"{study.name}-{array.kind}-{unique}"
    record: dict[str, Any] = {"name": name, "runs": array.names, "jobs": None}
    # The record comes first: whoever finds it without jobs knows what to take back.
    atomic.write_json(file, record)
    executor = build_executor(get_slurm_dir(study) / "logs", settings, name, dependency)
    submitted = []
    try:
        with executor.batch():
            for run in array.runs:
                job = Job(build_command(run, settings))
                submitted.append(executor.submit(job))
    except Exception as error:
        file.unlink()
        reason = " ".join(str(error).split())[-400:]
        raise UserError(
            f"Slurm refused a batch of {array.kind} runs ({len(array.runs)}): {reason}"
        ) from None
    # Only after the batch do they have their ids.
    record["jobs"] = [str(submitted_job.job_id) for submitted_job in submitted]
    atomic.write_json(file, record)
    return list(record["jobs"])


def build_command(run: PlannedRun, settings: Slurm) -> list[str]:
    """Give the command that carries a run out in its job."""
    python = shlex.split(settings.python) if settings.python else [sys.executable]
    return [*python, "-u", "-m", "unteach", "study", "run", f"{run.study_dir}/{run.name}"]


def build_executor(
    folder: Path,
    settings: Slurm,
    name: str,
    dependency: str,
) -> "AutoExecutor":
    """Build submitit's executor with the settings of one kind of run.

    Args:
        folder: for its logs.
        settings: of the kind.
        name: of the jobs.
        dependency: what they wait for, as sbatch reads it; "" for nothing.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(describe_missing_extra("slurm", "submitting to Slurm")) from None
    executor = submitit.AutoExecutor(
        folder,
        cluster="slurm",
        slurm_max_num_timeout=settings.requeues,
        slurm_python=settings.python,
    )
    sbatch_options = {
        **build_options(settings),
        "kill-on-invalid-dep": "yes",
        "requeue": True,
    }
    parameters: dict[str, Any] = {
        "slurm_job_name": name,
        "slurm_time": settings.minutes,
        "slurm_signal_delay_s": settings.grace,
        "slurm_array_parallelism": settings.throttle or UNLIMITED,
        "slurm_stderr_to_stdout": True,
        "slurm_additional_parameters": sbatch_options,
    }
    if settings.setup:
        parameters["slurm_setup"] = settings.setup
    if dependency:
        parameters["slurm_dependency"] = dependency
    executor.update_parameters(**parameters)
    return executor


def _cancel_unknown_jobs(study: Study) -> None:
    """Cancel the jobs of arrays whose submitter died before it knew them: the files that their
    tasks would read may not all be there."""
    for file in _list_records(study):
        record = json.loads(file.read_text())
        if record["jobs"] is None:
            for job in slurm_queue.find_jobs(record["name"]):
                slurm_queue.run_command("scancel", "--quiet", job)
            file.unlink()


def cancel(study: Study, plan: list[PlannedRun]) -> list[str]:
    """Cancel the jobs of these runs that wait or run; a run that runs saves itself first.

    Returns:
        The names of the runs.
    """
    if not was_handed_over(study):
        return []
    slurm_queue.require_slurm()
    _cancel_unknown_jobs(study)
    standings = read_standings(study)
    job_by_run = {}
    for run in plan:
        standing = standings[run.name]
        if standing.state in ("queued", "running", "held") and standing.job:
            job_by_run[run.name] = standing.job
    if job_by_run:
        slurm_queue.run_command("scancel", "--quiet", *job_by_run.values())
    return list(job_by_run)
