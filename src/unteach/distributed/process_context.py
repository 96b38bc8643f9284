"""The processes of this run, as torchrun or accelerate started them, and how they agree to stop.

SIGTERM and SIGUSR2 only set a flag in the process they reach. All processes look at it together, at
the end of every optimiser step and between the batches of an evaluation, so all of them stop at the
same place. The first Ctrl-C does the same once the work is under way (`interruptible`); the second
ends the process at once.
"""

import contextlib
import importlib.util
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from unteach.distributed import extension_builds, launch_environment
from unteach.errors import Preempted, UserError, missing_extra
from unteach.lazy import torch

Gather = Callable[[list[Any]], list[Any]]
"""Gives every process the lists of all processes, joined."""
_asked = False
_interrupted = False
_listening_pid = 0
_announcement = ""


def _ask(signum: int, frame: Any) -> None:
    """Note the request to stop. After a Ctrl-C, another one ends the process at once.

    So does a SIGTERM after it, because that is how torchrun passes on the second Ctrl-C.
    """
    global _asked, _interrupted
    # a worker that was forked from the run: the run itself hears the same signal
    if os.getpid() != _listening_pid:
        return
    if _interrupted and signum in (signal.SIGINT, signal.SIGTERM):
        raise KeyboardInterrupt
    _asked = True
    if signum == signal.SIGINT:
        _interrupted = True
        # print() may be what was interrupted, and cannot be entered twice
        if launch_environment.rank() == 0:
            os.write(2, f"\n{_announcement}\n".encode())


@contextlib.contextmanager
def interruptible(announcement: str) -> Iterator[None]:
    """Within it the first Ctrl-C asks the run to stop, as SIGTERM does, and the second ends it at
    once.

    Where Ctrl-C is ignored, as in a background job or in a study's run, whose parent asks it, it
    stays ignored.

    Args:
        announcement: what is said at the first Ctrl-C: what happens now, and what the second would
            do.
    """
    global _announcement
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (
        signal.SIG_IGN,
        None,
    ):
        yield
        return
    _announcement = announcement
    signal.signal(signal.SIGINT, _ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_at_first_interrupt() -> None:
    """Have the first Ctrl-C end this process within `interruptible`, where others that share the
    work end at it."""
    if signal.getsignal(signal.SIGINT) is _ask:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class DistContext:
    rank: int
    world_size: int
    gather: Gather | None
    device: Any
    mode: str = "one"
    """the parallelism strategy, in the words of `launch_environment`"""

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds all weights, so that every pass must be made by all of them
        together."""
        return self.mode in launch_environment.SHARDED

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Until every process is here."""
        if self.world_size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process; every process gets the same answer, so all must ask."""
        if self.world_size == 1:
            return flag
        found = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return bool(found.item())

    def min(self, number: int) -> int:
        """The least of all processes' numbers; all must ask."""
        if self.world_size == 1:
            return number
        found = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MIN)
        return int(found)

    def should_stop(self) -> bool:
        """Whether any process was asked to stop."""
        return self.any(_asked)

    def check_preemption(self) -> None:
        """Raises Preempted, in every process at once, if any was asked to stop."""
        if self.should_stop():
            raise Preempted("asked to stop; what was done is kept, and the same command goes on")


SINGLE_PROCESS = DistContext(0, 1, None, None)


@dataclass(frozen=True)
class JoinOptions:
    """How processes join: on the CPU whatever GPUs there are; over which backend; and after how
    many silent seconds a process gives the others up."""

    cpu: bool = False
    backend: str | None = None
    timeout: int = 1800


def run_on_main(work: Callable[[], Any], join_options: JoinOptions | None = None) -> Any:
    """What the first of the processes that were launched together finds, or is refused, in all of
    them."""
    if launch_environment.parallel_mode() == "one":
        return work()
    found: list[Any] = [None, None]
    if _state(join_options or JoinOptions()).is_main_process:
        try:
            found[0] = work()
        except UserError as error:
            found[1] = str(error)
    torch.distributed.broadcast_object_list(found)
    if found[1] is not None:
        refused = UserError(found[1])
        refused.of_all = True
        raise refused
    return found[0]


def init_distributed(join_options: JoinOptions | None = None) -> DistContext:
    """Joins the processes that were launched together (alone, it is a world of one) and listens for
    signals."""
    from accelerate.utils import gather_object

    global _asked, _interrupted, _listening_pid
    _asked = _interrupted = False
    _listening_pid = os.getpid()
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(name, _ask)
    state = _state(join_options or JoinOptions())
    gather = gather_object if state.num_processes > 1 else None
    return DistContext(
        state.process_index,
        state.num_processes,
        gather,
        state.device,
        launch_environment.parallel_mode(),
    )


def _state(join_options: JoinOptions) -> Any:
    """accelerate's state of these processes, joined as the launcher wants it or not at all.

    On the CPU accelerate knows plain data parallelism only, and turns FSDP and DeepSpeed into it
    without a word. The same group of processes, called by the name of its GPU kind once it has
    joined over gloo, is sharded there too: accelerate asks for nothing else of a GPU.
    """

    from accelerate.state import DistributedType, PartialState

    if PartialState._shared_state:
        return PartialState()
    mode = launch_environment.parallel_mode()
    cpu = (
        join_options.cpu
        or launch_environment.flag("ACCELERATE_USE_CPU")
        or not torch.cuda.is_available()
    )
    if cpu and mode.startswith("zero"):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _refuse_without_deepspeed(mode)
    if mode.startswith("zero") and os.environ.get("LOCAL_RANK", "0") == "0":
        for lock in extension_builds.release_abandoned():
            print(f"note: removed {lock}, which a process that was killed had left")
    try:
        state = PartialState(
            cpu=cpu, backend=join_options.backend, timeout=timedelta(seconds=join_options.timeout)
        )
    except ValueError as error:
        raise UserError(f"trainer.args.ddp_backend={join_options.backend}: {error}") from None
    if state.num_processes != launch_environment.world():
        raise UserError(
            f"the launcher says {launch_environment.world()} processes, and {state.num_processes} "
            f"joined. {launch_environment.RIGHT}"
        )
    if cpu and mode not in ("one", "ddp"):
        os.environ["ACCELERATE_USE_CPU"] = "false"
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return PartialState()


def _refuse_without_deepspeed(mode: str) -> None:
    if mode.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise UserError(missing_extra("deepspeed", f"launch={mode} (DeepSpeed's ZeRO)"))
