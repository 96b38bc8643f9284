"""The processes of this run, as torchrun or accelerate started them, and how they agree to stop.

SIGTERM and SIGUSR2 only set a flag in the process they reach. All processes look at it together, at the end of every
optimiser step and between the batches of an evaluation, so all of them stop at the same place.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unteach.engines.base import Gather
from unteach.errors import Preempted, UserError

_asked = False


def _ask(signum: int, frame: Any) -> None:
    global _asked
    _asked = True


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

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process; every process gets the same answer, so all must ask."""
        if self.world == 1:
            return flag
        import torch

        found = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return bool(found.item())

    def asked_to_stop(self) -> bool:
        """Whether any process was asked to stop."""
        return self.any(_asked)

    def pause_point(self) -> None:
        """Raises Preempted, in every process at once, if any was asked to stop."""
        if self.asked_to_stop():
            raise Preempted("asked to stop; run the same command again to go on")


ALONE = Processes(0, 1, None, None)


def once(work: Callable[[], Any]) -> Any:
    """What the first of the processes that were launched together finds, or is refused, in all of them."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return work()
    import torch
    from accelerate import PartialState

    found: list[Any] = [None, None]
    if PartialState(cpu=not torch.cuda.is_available()).is_main_process:
        try:
            found[0] = work()
        except UserError as error:
            found[1] = str(error)
    torch.distributed.broadcast_object_list(found)
    if found[1] is not None:
        raise UserError(found[1])
    return found[0]


def start() -> Processes:
    """Joins the processes that were launched together (alone, it is a world of one) and listens for signals."""
    import threading

    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    global _asked
    _asked = False
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(name, _ask)
    state = PartialState(cpu=not torch.cuda.is_available())
    gather = gather_object if state.num_processes > 1 else None
    return Processes(state.process_index, state.num_processes, gather, state.device)
