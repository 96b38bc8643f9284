"""Hands a study to Slurm through submitit: arrays of runs that wait for the same parents, each run
after its own.

What was handed over is kept in <study>/slurm/batches, one file a batch, written before the batch is
submitted and completed with its job afterwards: a submitter that dies in between leaves a batch
without a job, which the next one takes back from the queue and submits again.
"""

import dataclasses
import json
import shlex
import sys
import uuid
from pathlib import Path
from typing import Any

from unteach import atomic
from unteach.errors import UserError, missing_extra
from unteach.studies import slurm_queue, states
from unteach.studies.job_arrays import Batch, batches
from unteach.studies.plan import PlannedRun
from unteach.studies.settings import Slurm
from unteach.studies.slurm_job import Job
from unteach.studies.slurm_scripts import options_of
from unteach.studies.study_file import Study

FULL = (
    "submit limit",
    "accounting/QOS policy",
    "temporarily unable",
    "queue is full",
    "MaxSubmitJob",
    "MaxJobCount",
)
"""What sbatch says when it takes no more jobs for now."""
READY = ("to do", "stopped", "cancelled")


def home(study: Study) -> Path:
    return study.folder / "slurm"


def handed_over(study: Study) -> bool:
    return any((home(study) / "batches").glob("*.json"))


def jobs(study: Study) -> dict[str, str]:
    """Run -> the last job that it was given."""
    found: dict[str, str] = {}
    for file in sorted((home(study) / "batches").glob("*.json")):
        record = json.loads(file.read_text())
        found |= dict(zip(record["runs"], record["jobs"] or [], strict=False))
    return found


def standings(study: Study) -> dict[str, states.Standing]:
    """How each run stands, by its folder and, where it was handed over, by Slurm."""
    known: dict[str, states.Standing] = {}
    if (given := jobs(study)) and slurm_queue.there():
        by_job = slurm_queue.standings(given.values())
        known = {name: by_job[job] for name, job in given.items() if job in by_job}
    return states.standings(study.plan, known)


def submit(study: Study, again: bool = False) -> tuple[int, list[str]]:
    """Hands over what is not there yet; with `again` what failed, too. How many runs were, and what
    is to be said."""
    slurm_queue.needed()
    _take_back(study)
    found = standings(study)
    wanted = (*READY, *states.LOST) if again else READY
    chosen = [run for run in study.plan if found[run.name].state in wanted]
    left = {} if again else {name: one for name, one in found.items() if one.state in states.LOST}
    said = [f"{name} {one.state}: {one.reason}" for name, one in left.items()]
    said += ["what failed, and what waits for it, is left to `unteach study retry`"] if left else []
    for run in chosen:
        if found[run.name].job and found[run.name].state == "held":
            slurm_queue.run("scancel", "--quiet", found[run.name].job)
    live = {
        name: one.job
        for name, one in found.items()
        if one.state in ("queued", "running") and one.job
    }
    for run in chosen:
        if unseen := [
            parent
            for parent in run.after
            if found[parent].state == "running" and parent not in live
        ]:
            raise UserError(
                f"{run.name} waits for {', '.join(unseen)}, carried out outside Slurm: wait for it "
                f"first"
            )
    count, full = _hand_over(study, chosen, live)
    said += [full] if full else []
    return count, said


def _hand_over(study: Study, chosen: list[PlannedRun], live: dict[str, str]) -> tuple[int, str]:
    """Submits the chosen runs after their parents; how many, and why not all where the queue is
    full."""
    allowed = slurm_queue.largest_array()
    waiting = batches(chosen, min(study.slurm.max_array or allowed, allowed), live)
    widest = {
        kind: max(len(batch.runs) for batch in waiting if batch.kind == kind)
        for kind in {b.kind for b in waiting}
    }
    lanes: dict[str, list[str]] = {}
    count = 0
    while waiting:
        batch, lane = waiting[0], lanes.setdefault(waiting[0].kind, [])
        own = study.slurm.of(batch.kind)
        # arrays of the kind at a time
        beside = max(1, own.throttle // widest[batch.kind]) if own.throttle else 0
        before = [lane[-beside]] if own.throttle and len(lane) >= beside else []
        try:
            given = _submit(study, batch, own, [live[name] for name in batch.after], before)
        except UserError as error:
            if not any(sign in str(error) for sign in FULL):
                raise
            if len(batch.runs) > 1:
                waiting[:1] = _halves(batch)
                continue
            return (
                count,
                f"the queue takes no more jobs now ({error}); the same command hands over the "
                f"other runs later",
            )
        waiting.pop(0)
        live |= dict(zip(batch.names, given, strict=True))
        lane.append(given[0].split("_")[0])
        count += len(given)
    return count, ""


def _halves(batch: Batch) -> list[Batch]:
    middle = len(batch.runs) // 2
    return [
        dataclasses.replace(batch, runs=part) for part in (batch.runs[:middle], batch.runs[middle:])
    ]


def _submit(
    study: Study, batch: Batch, own: Slurm, after: list[str], before: list[str]
) -> list[str]:
    """Submits one batch; its jobs, in the order of its runs."""
    folder = home(study) / "batches"
    number = max((int(file.stem) for file in folder.glob("*.json")), default=-1) + 1
    record = folder / f"{number:05d}.json"
    name = f"{study.name}-{batch.kind}-{uuid.uuid4().hex[:8]}"
    atomic.write_json(record, {"name": name, "runs": batch.names, "jobs": None})
    conditions = [f"afterok:{':'.join(after)}"] if after else []
    conditions += [f"afterany:{':'.join(before)}"] if before else []
    executor = executor_of(home(study) / "logs", own, name, ",".join(conditions))
    try:
        with executor.batch():
            submitted = [executor.submit(Job(command(run, own))) for run in batch.runs]
    except Exception as error:
        record.unlink()
        said = " ".join(str(error).split())
        raise UserError(
            f"Slurm refused a batch of {batch.kind} runs ({len(batch.runs)}): {said[-400:]}"
        ) from None
    given = [str(job.job_id) for job in submitted]
    atomic.write_json(record, {"name": name, "runs": batch.names, "jobs": given})
    return given


def command(run: PlannedRun, own: Slurm) -> list[str]:
    """What carries a run out in its job."""
    python = shlex.split(own.python) if own.python else [sys.executable]
    return [*python, "-u", "-m", "unteach", "study", "run", run.folder]


def executor_of(folder: Path, own: Slurm, name: str, dependency: str) -> Any:
    """submitit's executor with the settings of one kind of run."""
    try:
        import submitit
    except ImportError:
        raise UserError(missing_extra("slurm", "submitting to Slurm")) from None
    executor = submitit.AutoExecutor(
        folder, cluster="slurm", slurm_max_num_timeout=own.requeues, slurm_python=own.python
    )
    options = {
        "job_name": name,
        "time": own.minutes,
        "setup": own.setup or None,
        "signal_delay_s": own.grace,
        "array_parallelism": own.throttle or 100_000,
        "dependency": dependency or None,
        "stderr_to_stdout": True,
        "additional_parameters": {**options_of(own), "kill-on-invalid-dep": "yes", "requeue": True},
    }
    executor.update_parameters(
        **{f"slurm_{key}": value for key, value in options.items() if value is not None}
    )
    return executor


def _take_back(study: Study) -> None:
    """Batches whose submitter died before it knew their jobs: whatever is in the queue of them is
    cancelled, because the files that its tasks would read may not all be there."""
    for file in sorted((home(study) / "batches").glob("*.json")):
        record = json.loads(file.read_text())
        if record["jobs"] is None:
            for job in slurm_queue.named(record["name"]):
                slurm_queue.run("scancel", "--quiet", job)
            file.unlink()


def cancel(study: Study, plan: list[PlannedRun]) -> list[str]:
    """Cancels the jobs of these runs that wait or run; a run that runs saves itself first. Gives
    their names."""
    if not handed_over(study):
        return []
    slurm_queue.needed()
    _take_back(study)
    found = standings(study)
    asked = [
        run
        for run in plan
        if found[run.name].state in ("queued", "running", "held") and found[run.name].job
    ]
    if asked:
        slurm_queue.run("scancel", "--quiet", *(found[run.name].job for run in asked))
    return [run.name for run in asked]
