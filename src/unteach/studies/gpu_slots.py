"""Which GPUs a run gets: as many as asked for, for itself, while it is carried out."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from unteach.distributed.process_limits import refuse_too_many
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.studies.settings import Local

VISIBLE = "CUDA_VISIBLE_DEVICES"


def list_gpus() -> list[str]:
    """List the GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes.

    Starts no CUDA: children are forked afterwards.
    """
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    num_gpus = torch.cuda.device_count()
    return [str(number) for number in range(num_gpus)]


@dataclass
class Slots:
    """Runs at a time, and the GPUs that are free.

    per_run: GPUs of one run; None where every run sees all of them.
    """

    jobs: int
    per_run: int | None = None
    free: list[str] = field(default_factory=list)

    def has_room(self, num_running: int) -> bool:
        """Say whether one more run may start beside those that are running."""
        if num_running >= self.jobs:
            return False
        return not self.per_run or len(self.free) >= self.per_run

    def take(self) -> list[str] | None:
        """Take the GPUs of one run; None where it sees all."""
        if self.per_run is None:
            return None
        gpus = self.free[: self.per_run]
        self.free = self.free[self.per_run :]
        return gpus

    def give_back(self, gpus: list[str] | None) -> None:
        """Free the GPUs of a run that ended."""
        if gpus:
            self.free = sorted([*self.free, *gpus])


def build_slots(local: Local) -> Slots:
    """Build the slots that the section `local` asks for.

    Raises:
        UserError: where this machine cannot give one run its GPUs.
    """
    refuse_too_many("jobs", local.jobs or 1)
    if local.gpus is None:
        return Slots(local.jobs or 1)
    gpus = list_gpus() if local.gpus else []
    if len(gpus) < local.gpus:
        raise UserError(f"local.gpus={local.gpus}: a run would never start; GPUs here: {len(gpus)}")
    most_jobs = local.jobs or 1
    if local.gpus:
        most_jobs = len(gpus) // local.gpus
    if local.jobs is not None and local.jobs > most_jobs:
        num_needed = local.jobs * local.gpus
        raise UserError(
            f"jobs={local.jobs} runs of {local.gpus} GPUs each need {num_needed} "
            f"GPUs; here are {len(gpus)}: set jobs={most_jobs} or less"
        )
    return Slots(local.jobs or most_jobs, local.gpus, gpus)


@contextlib.contextmanager
def limit_visible_gpus(gpus: list[str] | None) -> Iterator[None]:
    """Let this process and the children that it starts see these GPUs only; None for all."""
    before = os.environ.get(VISIBLE)
    if gpus is not None:
        os.environ[VISIBLE] = ",".join(gpus)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
