"""What each way of spreading a run over processes asks of a trainer: wrapping, verification, whole
weights, resuming.

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
from typing import TYPE_CHECKING, Any

from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.lazy import distributed_tensor, fsdp, torch
from unteach.models import adapters
from unteach.models.layers import unwrap_model
from unteach.training import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainingArguments


@contextlib.contextmanager
def single_fsdp_root(model: Any) -> Iterator[None]:
    """Within it accelerate shards the layers, each on its own, and leaves all else to the root.

    By itself it would put the last norm and the head into a group that is gathered when the norm is
    called, once a pass. A pass of ours may end before either, and calls the head chunk by chunk;
    the root's weights are there for all of it.
    """
    hidden = {
        "get_input_embeddings": _none,
        "get_output_embeddings": _none,
        "base_model_prefix": "",
    }
    for name, value in hidden.items():
        model.__dict__[name] = value
    try:
        yield
    finally:
        for name in hidden:
            del model.__dict__[name]


def _none() -> None:
    return None


def verify(trainer: "Trainer", mode: str) -> None:
    """Raises UserError unless the wrapped model is spread as the launcher said."""
    found = _mode(trainer)
    if found != mode:
        raise UserError(
            f"this run was started as {mode}, and the libraries made {found} of it. "
            f"{launch_environment.RIGHT}"
        )


def _mode(trainer: Any) -> str:
    """How the model is spread in truth."""
    wrapped = trainer.model_wrapped
    if hasattr(wrapped, "zero_optimization_stage"):
        return f"zero{wrapped.zero_optimization_stage()}"
    if _all_sharded(wrapped):
        return "fsdp2"
    return "ddp" if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel) else "one"


def _all_sharded(model: Any) -> bool:
    return all(
        isinstance(parameter, distributed_tensor.DTensor) for parameter in model.parameters()
    )


def reduce_in_float32(trainer: "Trainer") -> None:
    """FSDP2 gathers weights in the run's half precision, and adds gradients up in fp32 as every
    other way does."""

    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and (policy := plugin.mixed_precision_policy) is not None:
        plugin.mixed_precision_policy = fsdp.MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32
        )


@contextlib.contextmanager
def exact_masters(trainer: Any, mode: str) -> Iterator[None]:
    """Within it DeepSpeed makes fp32 masters of weights that it has rounded to half precision
    before; on leaving, they get the values from before. For a run that begins: a checkpoint holds
    its own masters."""
    if not (mode.startswith("zero") and (trainer.args.bf16 or trainer.args.fp16)):
        yield
        return
    from deepspeed.utils import safe_set_full_fp32_param

    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    exact = {name: parameter.detach().to("cpu") for name, parameter in trained.items()}
    yield
    for name, parameter in trained.items():
        safe_set_full_fp32_param(parameter, exact[name].to(parameter.device))


def gather_full_state_dict(trainer: Any, mode: str) -> dict[str, Any] | None:
    """The weights by name, in fp32 where they were trained in it; None where every process holds
    them anyway.

    All processes must ask together; only the first gets them. Of a model with adapters: those that
    train, alone.
    """
    if mode in ("one", "ddp"):
        return None
    gathered = _from_fsdp2 if mode == "fsdp2" else _from_zero
    model = trainer.accelerator.unwrap_model(trainer.model)
    found = gathered(model, hasattr(model, "peft_config"), trainer.dist.is_main)
    owners: dict[int, str] = {}  # names that share weights share them in what is saved
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = owners.setdefault(id(parameter), name)
        if owner != name and name in found and owner in found:
            found[name] = found[owner]
    return found


def _from_fsdp2(model: "PreTrainedModel", trained_only: bool, first: bool) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only
    )
    found: dict[str, Any] = get_model_state_dict(model, options=options)
    return found


def _from_zero(model: "PreTrainedModel", trained_only: bool, first: bool) -> dict[str, Any]:
    """ZeRO holds the fp32 masters of what trains, and of the rest the weights themselves; one at a
    time is gathered."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if trained_only and not tensor.requires_grad:
            continue
        whole = safe_get_full_fp32_param(tensor) if tensor.requires_grad else None
        with deepspeed.zero.GatheredParameters(
            [tensor], enabled=whole is None and hasattr(tensor, "ds_id")
        ):
            if first:
                found[name] = (tensor if whole is None else whole).detach().to("cpu", copy=True)
    return found


def step_size(args: "TrainingArguments") -> int:
    """Anchor rows of an optimiser step, over all micro-batches and processes."""
    return int(
        args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    )


def describe(model: Any, folder: Path) -> None:
    """Puts the configuration of the model, or of the adapter that trains, beside weights that do
    not bring it."""
    if hasattr(model, "peft_config"):
        if not (folder / adapters.CONFIG).exists():
            model.peft_config[adapters.TRAINED].save_pretrained(folder)
    elif not (folder / "config.json").exists():
        unwrap_model(model).config.save_pretrained(folder)


def refuse_another_spread(start: Path, args: "TrainingArguments", mode: str) -> None:
    """Raises UserError where a checkpoint cannot be gone on from by these processes."""
    told = checkpoint.read_state(start).get("spread")
    if told is None:
        return
    own = {"mode": mode, "world": args.world_size, "rows": step_size(args)}
    whole = {"one", "ddp"}
    other = told["mode"] != mode and not {told["mode"], mode} <= whole
    if other or (mode.startswith("zero") and told["world"] != own["world"]):
        raise UserError(
            f"the checkpoint {start} was written by {told['world']} processes as {told['mode']}, "
            f"and only such go on from it; this run has {own['world']} as {mode}. Start it as "
            "then, begin a run from what `unteach export` makes of the checkpoint, or begin again "
            "with resume=never"
        )
    if told["rows"] != own["rows"]:
        raise UserError(
            f"a step of this run has {own['rows']} rows, and the checkpoint {start} was written in "
            f"steps of {told['rows']}: batch size x accumulation x processes must stay what it "
            "was. Start as many processes as then, or begin again with resume=never"
        )
