"""What a launcher (torchrun, accelerate, mpirun) told this process through its environment; read
without torch.

A way of spreading a run over processes goes by one word: `one`, `ddp`, `fsdp2`, `zero1`, `zero2`,
`zero3`.
"""

import contextlib
import ctypes
import json
import os
import signal
from pathlib import Path

from unteach.errors import EXIT_PREEMPTED, UserError

WORLDS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
RIGHT = (
    "Start it with launch=ddp|fsdp2|zero2|zero3 nproc=N, with torchrun --nproc_per_node N -m "
    "unteach …, or with accelerate launch --config_file FILE --num_processes N -m unteach … "
    "(`unteach list launch` names the files)"
)


LAUNCHER = "UNTEACH_LAUNCHER"
"""The number of the process that started these ranks with `launch=`."""
PR_SET_PDEATHSIG = 1
SHARDED = ("fsdp2", "zero3")


def _number(names: tuple[str, ...], default: int) -> int:
    return next((int(value) for name in names if (value := os.environ.get(name))), default)


def world() -> int:
    """How many processes there are, as the launcher says."""
    return _number(WORLDS, 1)


def rank() -> int:
    return _number(RANKS, 0)


def by_launcher() -> bool:
    """Whether a launcher started this process, as one of a group."""
    return any(os.environ.get(name) for name in (*RANKS, *WORLDS))


def end_with_launcher() -> None:
    """Have Linux ask this rank to stop when its launcher is gone, so that no run is ever carried
    out unseen.

    A run that was started again would otherwise find the ranks of the one before still at work.
    """
    if not by_launcher():
        return
    stop_with_parent()
    launcher = os.environ.get(LAUNCHER)
    if launcher and launcher != str(os.getppid()):
        os._exit(EXIT_PREEMPTED)


def stop_with_parent() -> None:
    """Have Linux send this process SIGTERM when its parent ends, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")


def parallel_mode() -> str:
    """How the launcher wants this run spread.

    Raises UserError for ways that unteach does not know, and where accelerate was asked for several
    processes and started one without a word (`accelerate launch --cpu --num_processes 2`).
    """
    for name, what in (
        ("MEGATRON_LM", "Megatron-LM"),
        ("PARALLELISM_CONFIG", "a parallelism_config (tensor, context)"),
    ):
        if flag(f"ACCELERATE_USE_{name}"):
            raise UserError(
                f"accelerate was asked for {what}, which unteach does not know. {RIGHT}"
            )
    if (
        "ACCELERATE_MIXED_PRECISION" in os.environ
        and "MASTER_ADDR" in os.environ
        and not by_launcher()
    ):
        raise UserError(
            "accelerate was asked for several processes and started one, as it does with --cpu "
            "(if it was asked for one, MASTER_ADDR is left over in the environment: unset it). "
            f"{RIGHT}"
        )
    if flag("ACCELERATE_USE_DEEPSPEED"):
        return f"zero{_stage()}"
    if flag("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError(
                "this launch asks for FSDP 1, which is no longer kept up: set fsdp_version: 2 in "
                "its file"
            )
        if flag("FSDP_CPU_RAM_EFFICIENT_LOADING"):
            raise UserError(
                "set fsdp_cpu_ram_efficient_loading: false in the launch file: every process "
                "reads the weights itself, from one memory-mapped file"
            )
        if flag("FSDP_ACTIVATION_CHECKPOINTING"):
            raise UserError(
                "leave fsdp_activation_checkpointing out of the launch file, and set "
                "trainer.args.gradient_checkpointing=true"
            )
        return "fsdp2"
    return "ddp" if world() > 1 else "one"


def sharded() -> bool:
    """Whether no process holds all weights."""
    return parallel_mode() in SHARDED


def _stage() -> int:
    """The stage of ZeRO: what the DeepSpeed file of an accelerate configuration says, or that
    itself."""
    file, stage = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none"), None
    if file != "none":
        try:
            stage = (
                json.loads(Path(file).read_text(encoding="utf-8"))
                .get("zero_optimization", {})
                .get("stage", 0)
            )
        except (OSError, ValueError) as error:
            raise UserError(f"deepspeed_config_file: {file} cannot be read ({error})") from None
    stage = str(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", 2) if stage is None else stage)
    if stage not in ("1", "2", "3"):
        raise UserError(
            f"ZeRO has the stages 1, 2 and 3, and this launch asks for {stage}; stage 0 is "
            f"launch=ddp"
        )
    return int(stage)
