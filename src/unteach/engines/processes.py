"""The processes of this run, as torchrun or accelerate started them: rank, world size, and how they gather."""

from dataclasses import dataclass
from typing import Any

from unteach.engines.base import Gather


@dataclass(frozen=True)
class Processes:
    rank: int
    world: int
    gather: Gather | None
    device: Any

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def start() -> Processes:
    """Joins the processes that were launched together; alone, it is a world of one."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=not torch.cuda.is_available())
    gather = gather_object if state.num_processes > 1 else None
    return Processes(state.process_index, state.num_processes, gather, state.device)
