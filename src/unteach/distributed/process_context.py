"""Join the processes of this run, as torchrun or accelerate started them, and have them stop
together.

SIGTERM and SIGUSR2 only set a flag in the process they reach. All processes look at it together, at
the end of every optimiser step and between the batches of an evaluation, so all of them stop at the
same place. The first Ctrl-C does the same once the work is under way (`stop_at_interrupt`); the
second ends the process at once.
"""

import contextlib
import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from unteach.distributed import extension_builds, launch_environment
from unteach.errors import Preempted, UserError, describe_missing_extra
from unteach.lazy import accelerate_state, accelerate_utils, torch

if TYPE_CHECKING:
    from accelerate import PartialState

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Gather = Callable[[list[Any]], list[Any]]
"""Gives every process the lists of all processes, joined."""
_stop_requested = False
_interrupted = False
_listening_pid = 0
_announcement = ""


def _request_stop(signum: int, frame: FrameType | None) -> None:
    """Note a request to stop. After a Ctrl-C, another one ends the process at once.

    So does a SIGTERM after it, because that is how torchrun passes on the second Ctrl-C.
    """
    global _stop_requested, _interrupted
    # In a worker that was forked from the run: the run itself gets the same signal.
    if os.getpid() != _listening_pid:
        return
    if _interrupted and signum in (signal.SIGINT, signal.SIGTERM):
        raise KeyboardInterrupt
    _stop_requested = True
    if signum == signal.SIGINT:
        _interrupted = True
        # print() may be what was interrupted, and cannot be entered twice
        if launch_environment.rank() == 0:
            os.write(2, f"\n{_announcement}\n".encode())


@contextlib.contextmanager
def stop_at_interrupt(announcement: str) -> Iterator[None]:
    """Have the first Ctrl-C ask the run to stop, as SIGTERM does, and the second end it at once.

    Where Ctrl-C is ignored, as in a background job or in a run of a study, which passes on its own,
    it stays ignored.

    Args:
        announcement: printed at the first Ctrl-C: what happens now, and what the second would do.
    """
    global _announcement
    before = signal.getsignal(signal.SIGINT)
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or before in (signal.SIG_IGN, None):
        yield
        return
    _announcement = announcement
    signal.signal(signal.SIGINT, _request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_at_first_interrupt() -> None:
    """Have the first Ctrl-C end this process within `stop_at_interrupt`: others that share the work
    end at it too."""
    if signal.getsignal(signal.SIGINT) is _request_stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class DistContext:
    """The processes of this run, as one of them sees them.

    Attributes:
        rank: of this process, from 0.
        world_size: how many processes there are.
        gather: gives every process the lists of all; None in a single process.
        device: of this process.
        mode: the parallelism strategy, in the words of `launch_environment`.
    """

    rank: int
    world_size: int
    gather: Gather | None
    device: Any
    mode: str = "one"

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds all weights, so that all must make every pass together."""
        return self.mode in launch_environment.SHARDED

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            accelerate_state.PartialState().wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set in any process; all must call it, and get the same answer."""
        if self.world_size == 1:
            return flag
        highest = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
        return bool(highest.item())

    def min(self, number: int) -> int:
        """Find the least of all processes' numbers; all must call it."""
        if self.world_size == 1:
            return number
        least = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
        return int(least)

    def should_stop(self) -> bool:
        """Say whether any process was asked to stop; all must call it."""
        return self.any(_stop_requested)

    def check_preemption(self) -> None:
        """Raise Preempted, in every process at once, if any was asked to stop."""
        if self.should_stop():
            raise Preempted("asked to stop; what was done is kept, and the same command goes on")


SINGLE_PROCESS = DistContext(0, 1, None, None)


@dataclass(frozen=True)
class JoinOptions:
    """How processes join.

    Attributes:
        cpu: on the CPU, whatever GPUs there are.
        backend: of torch.distributed; None: the usual one.
        timeout: silent seconds after which a process gives the others up.
    """

    cpu: bool = False
    backend: str | None = None
    timeout: int = 1800


def run_on_main(work: Callable[[], Result], join_options: JoinOptions | None = None) -> Result:
    """Run a function in the main process alone, and give every process its result.

    Raises:
        UserError: in every process, where it was raised in the main one.
    """
    if launch_environment.parallel_mode() == "one":
        return work()
    outcome: list[Any] = [None, None]  # the result, and the message of a UserError
    if _join_processes(join_options or JoinOptions()).is_main_process:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = str(error)
    torch.distributed.broadcast_object_list(outcome)
    result, message = outcome
    if message is not None:
        refusal = UserError(message)
        refusal.of_all = True
        raise refusal
    return cast(Result, result)


def init_distributed(join_options: JoinOptions | None = None) -> DistContext:
    """Join the processes that were launched together, and listen for signals to stop.

    A process that was started alone is a world of one.
    """
    global _stop_requested, _interrupted, _listening_pid
    _stop_requested = False
    _interrupted = False
    _listening_pid = os.getpid()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _request_stop)
        signal.signal(signal.SIGUSR2, _request_stop)
    state = _join_processes(join_options or JoinOptions())
    return DistContext(
        rank=state.process_index,
        world_size=state.num_processes,
        gather=accelerate_utils.gather_object if state.num_processes > 1 else None,
        device=state.device,
        mode=launch_environment.parallel_mode(),
    )


def _join_processes(join_options: JoinOptions) -> "PartialState":
    """Join the processes as the launcher asks for it, or not at all.

    On the CPU accelerate knows plain data parallelism only, and turns FSDP and DeepSpeed into it
    without a word. The same group of processes, called by the name of its GPU kind once it has
    joined over gloo, is sharded there too: accelerate asks for nothing else of a GPU.
    """
    if accelerate_state.PartialState._shared_state:  # joined before
        return accelerate_state.PartialState()
    mode = launch_environment.parallel_mode()
    is_zero = mode.startswith("zero")
    is_on_cpu = (
        join_options.cpu
        or launch_environment.is_set("ACCELERATE_USE_CPU")
        or not torch.cuda.is_available()
    )
    if is_zero and is_on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _refuse_without_deepspeed(mode)
    if is_zero and os.environ.get("LOCAL_RANK", "0") == "0":
        for lock in extension_builds.remove_abandoned_locks():
            logger.info(f"removed {lock}, which a process that was killed had left")

    timeout = timedelta(seconds=join_options.timeout)
    try:
        state = accelerate_state.PartialState(
            cpu=is_on_cpu, backend=join_options.backend, timeout=timeout
        )
    except ValueError as error:
        raise UserError(f"trainer.args.ddp_backend={join_options.backend}: {error}") from None
    num_launched = launch_environment.world_size()
    if state.num_processes != num_launched:
        raise UserError(
            f"the launcher says {num_launched} processes, and {state.num_processes} joined. "
            f"{launch_environment.HOW_TO_LAUNCH}"
        )
    if is_on_cpu and mode not in ("one", "ddp"):
        os.environ["ACCELERATE_USE_CPU"] = "false"
        accelerate_state.PartialState._shared_state["distributed_type"] = (
            accelerate_state.DistributedType.MULTI_GPU
        )
    return accelerate_state.PartialState()


def _refuse_without_deepspeed(mode: str) -> None:
    if mode.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise UserError(describe_missing_extra("deepspeed", f"launch={mode} (DeepSpeed's ZeRO)"))
