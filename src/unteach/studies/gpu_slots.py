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


def devices() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes. Starts no
    CUDA: children are forked afterwards."""
    if (visible := os.environ.get(VISIBLE)) is not None:
        return [name for name in visible.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


@dataclass
class Slots:
    """Runs at a time, and the GPUs that are free. per_run None: every run sees all of them."""

    jobs: int
    per_run: int | None = None
    free: list[str] = field(default_factory=list)

    def room(self, running: int) -> bool:
        return running < self.jobs and (not self.per_run or len(self.free) >= self.per_run)

    def take(self) -> list[str] | None:
        """GPUs for one run; None where it sees all."""
        if self.per_run is None:
            return None
        taken, self.free = self.free[: self.per_run], self.free[self.per_run :]
        return taken

    def give_back(self, taken: list[str] | None) -> None:
        self.free = sorted([*self.free, *(taken or [])])


def slots_of(local: Local) -> Slots:
    """The slots that the section `local` asks for; UserError where this machine cannot give one run
    its GPUs."""
    refuse_too_many("jobs", local.jobs or 1)
    if local.gpus is None:
        return Slots(local.jobs or 1)
    there = devices() if local.gpus else []
    if len(there) < local.gpus:
        raise UserError(
            f"local.gpus={local.gpus}: a run would never start; GPUs here: {len(there)}"
        )
    fits = len(there) // local.gpus if local.gpus else local.jobs or 1
    if local.jobs is not None and local.jobs > fits:
        raise UserError(
            f"jobs={local.jobs} runs of {local.gpus} GPUs each need {local.jobs * local.gpus} "
            f"GPUs; here are {len(there)}: set jobs={fits} or less"
        )
    return Slots(local.jobs or fits, local.gpus, there)


@contextlib.contextmanager
def seen(taken: list[str] | None) -> Iterator[None]:
    """Inside, this process and its children see these GPUs only."""
    before = os.environ.get(VISIBLE)
    if taken is not None:
        os.environ[VISIBLE] = ",".join(taken)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
