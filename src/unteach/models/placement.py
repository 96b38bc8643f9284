"""Where a model is put that does not train (a reference, one that is evaluated): on one device or,
sharded, on all."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach.distributed import launch_environment
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.lazy import fsdp, torch
from unteach.models.layers import list_layers, unwrap_model

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def place_model(model: "PreTrainedModel", dist: DistContext) -> Any:
    """Put a frozen model where this run makes passes, spread as the run is; return it."""
    if is_placed_by_device_map(model, dist) or getattr(model, "is_quantized", False):
        return model
    if dist.mode == "fsdp2":
        return _shard_fully(model, dist)
    if dist.mode == "zero3":
        return _partition(model)
    return model if dist.device is None else model.to(dist.device)


def is_placed_by_device_map(model: "PreTrainedModel", dist: DistContext) -> bool:
    """Say whether model.model_args.device_map put the model where it is.

    Raises:
        UserError: several processes would each spread a model of their own.
    """
    is_placed = getattr(unwrap_model(model), "hf_device_map", None) is not None
    if is_placed and dist.world_size > 1:
        raise UserError(
            "model.model_args.device_map spreads one model over the GPUs of one process, and this "
            f"run has {dist.world_size}; leave it out (launch=fsdp2 and launch=zero3 shard the "
            "weights), or start one process"
        )
    return is_placed


def _shard_fully(model: "PreTrainedModel", dist: DistContext) -> Any:
    """Shard a model by FSDP2, layer by layer."""
    mesh = torch.distributed.device_mesh.init_device_mesh(dist.device.type, (dist.world_size,))
    options: dict[str, Any] = {"mesh": mesh}
    if launch_environment.is_set("FSDP_OFFLOAD_PARAMS"):
        options["offload_policy"] = fsdp.CPUOffloadPolicy()
    for layer in list_layers(unwrap_model(model)):
        fsdp.fully_shard(layer, **options)
    return fsdp.fully_shard(model, **options)


def _partition(model: "PreTrainedModel") -> Any:
    """Use ZeRO-3 without an optimiser: each module's weights are gathered while it is called."""
    import deepspeed

    dtype = next(model.parameters()).dtype
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, **_read_offload()},
        "steps_per_print": 1 << 30,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
    }
    return deepspeed.initialize(model=model, config=config)[0].module


def _read_offload() -> dict[str, Any]:
    """Read from the launch's own file where weights rest that no module needs at the moment."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file == "none":
        device = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none")
        return {} if device == "none" else {"offload_param": {"device": device}}
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    zero = config.get("zero_optimization", {})
    return {"offload_param": zero["offload_param"]} if "offload_param" in zero else {}


def reshard(model: "nn.Module") -> None:
    """Let go of the weights that FSDP2 leaves gathered after a pass without a backward."""
    reshard_module: Any = getattr(model, "reshard", None)
    if reshard_module is not None:
        reshard_module()
