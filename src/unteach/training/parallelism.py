"""What each parallelism strategy needs of a trainer: wrapping, verification, gathering of weights,
resuming.

A checkpoint holds the weights, by the names that the model itself has for them:

one, ddp      `model.safetensors`, or `adapter_model.safetensors` where adapters train;
              `optimizer.pt`
zero1, zero2  the same file of weights; beside it DeepSpeed's own folder `global_step<N>/`, whose
              name is in `latest`
fsdp2         `pytorch_model_fsdp_0/` and `optimizer_0/`, of torch.distributed.checkpoint, the
              weights under "model" (only those that train, where adapters do), or
              `pytorch_model_fsdp.bin` by a FULL_STATE_DICT launch file
zero3         DeepSpeed's own folder: deepspeed.utils.zero_to_fp32 makes the whole weights of it

with `config.json`, or `adapter_config.json` where adapters train. `accelerate merge-weights` reads
an FSDP2 folder.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unteach.distributed import launch_environment
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.lazy import distributed_tensor, fsdp, torch
from unteach.models import adapters
from unteach.models.layers import unwrap_model
from unteach.training import checkpoint

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, Trainer, TrainingArguments


@contextlib.contextmanager
def single_fsdp_root(model: "PreTrainedModel") -> Iterator[None]:
    """Have accelerate shard each layer on its own, and leave everything else to the root.

    By default it would put the last norm and the head into a group that is gathered when the norm
    is called, once a pass. Our pass may end before either, and calls the head chunk by chunk; the
    root's weights are gathered for all of it.
    """
    # What accelerate finds the norm and the head by.
    hidden = {
        "get_input_embeddings": _return_none,
        "get_output_embeddings": _return_none,
        "base_model_prefix": "",
    }
    for name, value in hidden.items():
        model.__dict__[name] = value
    try:
        yield
    finally:
        for name in hidden:
            del model.__dict__[name]


def _return_none() -> None:
    return None


def verify(trainer: "Trainer", mode: str) -> None:
    """Raise UserError unless the libraries wrapped the model as the launcher asked for."""
    actual_mode = _detect_mode(trainer.model_wrapped)
    if actual_mode != mode:
        raise UserError(
            f"this run was started as {mode}, and the libraries made {actual_mode} of it. "
            f"{launch_environment.HOW_TO_LAUNCH}"
        )


def _detect_mode(wrapped: "Module") -> str:
    """Detect the parallelism strategy of a wrapped model."""
    if hasattr(wrapped, "zero_optimization_stage"):
        return f"zero{cast(Any, wrapped).zero_optimization_stage()}"
    if all(isinstance(p, distributed_tensor.DTensor) for p in wrapped.parameters()):
        return "fsdp2"
    return "ddp" if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel) else "one"


def reduce_in_float32(trainer: "Trainer") -> None:
    """Have FSDP2 add gradients up in fp32, as every other strategy does; it gathers weights in the
    run's half precision."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    policy = plugin.mixed_precision_policy if plugin is not None else None
    if plugin is not None and policy is not None:
        plugin.mixed_precision_policy = fsdp.MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32
        )


@contextlib.contextmanager
def restore_exact_masters(trainer: "Trainer", mode: str) -> Iterator[None]:
    """Keep the exact weights while DeepSpeed makes its fp32 masters, and put them into the masters.

    DeepSpeed makes its masters of weights that it has rounded to half precision before. Only for a
    run that begins: a checkpoint holds its own masters.
    """
    if not (mode.startswith("zero") and (trainer.args.bf16 or trainer.args.fp16)):
        yield
        return
    from deepspeed.utils import safe_set_full_fp32_param

    model = cast("PreTrainedModel", trainer.model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    exact = {name: parameter.detach().to("cpu") for name, parameter in trained.items()}
    yield
    for name, parameter in trained.items():
        safe_set_full_fp32_param(parameter, exact[name].to(parameter.device))


def gather_full_state_dict(trainer: "Trainer", dist: DistContext) -> "dict[str, Tensor] | None":
    """Gather the weights by name, in fp32 where they were trained in it.

    All processes must call it together; the main one alone gets the weights. Of a model with
    adapters, only those that train are gathered.

    Returns:
        The weights; None where every process holds them anyway.
    """
    if dist.mode in ("one", "ddp"):
        return None
    model = trainer.accelerator.unwrap_model(trainer.model)
    trained_only = hasattr(model, "peft_config")
    if dist.mode == "fsdp2":
        state_dict = _gather_from_fsdp2(model, trained_only)
    else:
        state_dict = _gather_from_zero(model, trained_only, dist.is_main)

    # Names of one parameter (tied weights) get one tensor, which is then saved once.
    first_names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first_name = first_names.setdefault(id(parameter), name)
        if first_name != name and name in state_dict and first_name in state_dict:
            state_dict[name] = state_dict[first_name]
    return state_dict


def _gather_from_fsdp2(model: "PreTrainedModel", trained_only: bool) -> "dict[str, Tensor]":
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only
    )
    return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))


def _gather_from_zero(
    model: "PreTrainedModel", trained_only: bool, is_main: bool
) -> "dict[str, Tensor]":
    """Gather one parameter at a time: the fp32 masters of what trains, the weights of the rest."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    state_dict = {}
    for name, parameter in model.state_dict(keep_vars=True).items():
        if trained_only and not parameter.requires_grad:
            continue
        master = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        is_partitioned = master is None and hasattr(parameter, "ds_id")
        with deepspeed.zero.GatheredParameters([parameter], enabled=is_partitioned):
            if is_main:
                full = parameter if master is None else master
                state_dict[name] = full.detach().to("cpu", copy=True)
    return state_dict


def count_rows_per_step(args: "TrainingArguments") -> int:
    """Count the anchor rows of an optimiser step, over all micro-batches and processes."""
    rows_per_process = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return int(rows_per_process * args.world_size)


def save_model_config(model: "PreTrainedModel", folder: Path) -> None:
    """Write the configuration of the model, or of the adapter that trains, where the strategy's own
    checkpoint has none."""
    if hasattr(model, "peft_config"):
        if not (folder / adapters.CONFIG).exists():
            model.peft_config[adapters.TRAINED].save_pretrained(folder)
    elif not (folder / "config.json").exists():
        unwrap_model(model).config.save_pretrained(folder)


def refuse_other_parallelism(start: Path, args: "TrainingArguments", mode: str) -> None:
    """Raise UserError where these processes cannot go on from a checkpoint."""
    written = checkpoint.read_state(start).get("spread")
    if written is None:
        return
    # A model in one process and its replicas have checkpoints of the same files.
    is_same_kind = written["mode"] == mode or {written["mode"], mode} <= {"one", "ddp"}
    has_same_shards = not mode.startswith("zero") or written["world"] == args.world_size
    if not is_same_kind or not has_same_shards:
        raise UserError(
            f"the checkpoint {start} was written by {written['world']} processes as "
            f"{written['mode']}, and only such go on from it; this run has {args.world_size} as "
            f"{mode}. Start it as then, begin a run from what `unteach export` makes of the "
            "checkpoint, or begin again with resume=never"
        )
    rows_per_step = count_rows_per_step(args)
    if written["rows"] != rows_per_step:
        raise UserError(
            f"a step of this run has {rows_per_step} rows, and the checkpoint {start} was written "
            f"in steps of {written['rows']}: batch size x accumulation x processes must stay what "
            "it was. Start as many processes as then, or begin again with resume=never"
        )
