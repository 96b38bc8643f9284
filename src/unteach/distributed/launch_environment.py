"""Read what a launcher (torchrun, accelerate, mpirun) set in this process's environment, without
torch.

A parallelism strategy goes by one word: `one`, `ddp`, `fsdp2`, `zero1`, `zero2`, `zero3`.
"""

import contextlib
import ctypes
import json
import os
import signal
from pathlib import Path

from unteach.errors import EXIT_PREEMPTED, UserError

WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
HOW_TO_LAUNCH = (
    "Start it with launch=ddp|fsdp2|zero2|zero3 nproc=N, with torchrun --nproc_per_node N -m "
    "unteach …, or with accelerate launch --config_file FILE --num_processes N -m unteach … "
    "(`unteach list launch` names the files)"
)
LAUNCHER = "UNTEACH_LAUNCHER"
"""The variable with the pid of the process that started these ranks with `launch=`."""
PR_SET_PDEATHSIG = 1
SHARDED = ("fsdp2", "zero3")
"""The strategies under which no process holds all weights."""


def _read_number(names: tuple[str, ...], default: int) -> int:
    """Read the first of some variables that is set."""
    for name in names:
        value = os.environ.get(name)
        if value:
            return int(value)
    return default


def world_size() -> int:
    """Read how many processes the launcher started."""
    return _read_number(WORLD_SIZES, 1)


def rank() -> int:
    """Read the rank that the launcher gave this process."""
    return _read_number(RANKS, 0)


def is_launched() -> bool:
    """Say whether a launcher started this process, as one of a group."""
    return any(os.environ.get(name) for name in (*RANKS, *WORLD_SIZES))


def end_with_launcher() -> None:
    """Have Linux ask this rank to stop when its launcher is gone.

    A run that was started again would otherwise find the ranks of the one before still at work.
    """
    if not is_launched():
        return
    stop_with_parent()
    launcher = os.environ.get(LAUNCHER)
    if launcher and launcher != str(os.getppid()):
        os._exit(EXIT_PREEMPTED)


def stop_with_parent() -> None:
    """Have Linux send this process SIGTERM when its parent ends, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def is_set(name: str) -> bool:
    """Say whether a variable holds a word for yes."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")


def parallel_mode() -> str:
    """Read the parallelism strategy that the launcher asks for.

    Raises:
        UserError: for strategies that unteach does not know, and where accelerate was asked for
            several processes and started one without a word (`accelerate launch --cpu
            --num_processes 2`).
    """
    unsupported = {
        "MEGATRON_LM": "Megatron-LM",
        "PARALLELISM_CONFIG": "a parallelism_config (tensor, context)",
    }
    for name, strategy in unsupported.items():
        if is_set(f"ACCELERATE_USE_{name}"):
            raise UserError(
                f"accelerate was asked for {strategy}, which unteach does not know. {HOW_TO_LAUNCH}"
            )
    is_by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if is_by_accelerate and not is_launched():
        raise UserError(
            "accelerate was asked for several processes and started one, as it does with --cpu "
            "(if it was asked for one, MASTER_ADDR is left over in the environment: unset it). "
            f"{HOW_TO_LAUNCH}"
        )
    if is_set("ACCELERATE_USE_DEEPSPEED"):
        return f"zero{_read_zero_stage()}"
    if is_set("ACCELERATE_USE_FSDP"):
        _refuse_unsupported_fsdp()
        return "fsdp2"
    return "ddp" if world_size() > 1 else "one"


def _refuse_unsupported_fsdp() -> None:
    """Raise UserError for settings of FSDP that a run cannot have."""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(
            "this launch asks for FSDP 1, which is no longer kept up: set fsdp_version: 2 in "
            "its file"
        )
    if is_set("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise UserError(
            "set fsdp_cpu_ram_efficient_loading: false in the launch file: every process "
            "reads the weights itself, from one memory-mapped file"
        )
    if is_set("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError(
            "leave fsdp_activation_checkpointing out of the launch file, and set "
            "trainer.args.gradient_checkpointing=true"
        )


def is_sharded() -> bool:
    """Say whether no process holds all weights."""
    return parallel_mode() in SHARDED


def _read_zero_stage() -> int:
    """Read the stage of ZeRO: from DeepSpeed's own file where accelerate's names one, else from
    accelerate's."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file == "none":
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    else:
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"deepspeed_config_file: {file} cannot be read ({error})") from None
        stage = str(content.get("zero_optimization", {}).get("stage", 0))
    if stage not in ("1", "2", "3"):
        raise UserError(
            f"ZeRO has the stages 1, 2 and 3, and this launch asks for {stage}; stage 0 is "
            f"launch=ddp"
        )
    return int(stage)
