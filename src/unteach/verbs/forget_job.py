"""`unteach forget … slurm.time=120 slurm.gpus=1`: a request as one job of Slurm, which goes on by
itself where its time ended or it was preempted."""

import shlex
import sys
from dataclasses import fields
from pathlib import Path

from unteach import atomic, console
from unteach.config.forget import ForgetConfig
from unteach.config.overrides import spell_value
from unteach.errors import UserError
from unteach.json_files import read_mapping
from unteach.studies import slurm, slurm_queue
from unteach.studies.settings import Slurm, read_slurm
from unteach.studies.slurm_job import Job

FOLDER, RECORD = "slurm", "job.json"
"""Within the folder of a request: the logs of its jobs, and which one it was given last."""
UNDER_WAY = ("queued", "running")


def submit(config: ForgetConfig, folder: Path) -> None:
    """Hand a request over to Slurm, and say which job it is.

    Raises:
        UserError: there is no Slurm here, it refuses the job, or the last one is not over.
    """
    settings = read_slurm(dict(config.slurm))
    slurm_queue.require_slurm()
    record = folder / FOLDER / RECORD
    _refuse_second_job(record)
    folder.mkdir(parents=True, exist_ok=True)
    executor = slurm.build_executor(folder / FOLDER, settings, f"forget-{folder.name}", "")
    try:
        job = executor.submit(Job(build_command(config, settings)))
    except Exception as error:
        reason = " ".join(str(error).split())[-400:]
        raise UserError(f"Slurm refused the request {folder}: {reason}") from None
    atomic.write_json(record, {"job": str(job.job_id)})
    console.say(f"submitted as job {job.job_id}; its log is in {folder / FOLDER}")


def _refuse_second_job(record: Path) -> None:
    if not record.exists():
        return
    job = str(read_mapping(record, "the job of a request")["job"])
    standing = slurm_queue.read_standings([job]).get(job)
    if standing is not None and standing.state in UNDER_WAY:
        raise UserError(
            f"{record.parent.parent}: its job {job} is {standing.state}; wait for it, or take it "
            f"back: scancel {job}"
        )


def build_command(config: ForgetConfig, settings: Slurm) -> list[str]:
    """Build the command that carries a request out in its job: the same words, but for Slurm's."""
    python = shlex.split(settings.python) if settings.python else [sys.executable]
    words = [config.rows]
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name not in ("names", "words", "slurm") and value is not None:
            words.append(f"{one.name}={spell_value(value)}")
    return [*python, "-u", "-m", "unteach", "forget", *words, *config.words]
