"""Where a model stands that does not train (a reference, one that is evaluated): on one device or,
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
    from transformers import PreTrainedModel


def place_model(model: "PreTrainedModel", dist: DistContext) -> Any:
    """Puts a frozen model where this run makes passes, spread as the run is; returns it."""
    if is_placed_by_device_map(model, dist) or getattr(model, "is_quantized", False):
        return model
    if dist.mode == "fsdp2":
        return _fully_sharded(model, dist)
    if dist.mode == "zero3":
        return _partitioned(model)
    return model if dist.device is None else model.to(dist.device)


def is_placed_by_device_map(model: "PreTrainedModel", dist: DistContext) -> bool:
    """Whether model.model_args.device_map put the model where it is.

    Raises UserError where several processes would each spread a model of their own.
    """
    placed = getattr(unwrap_model(model), "hf_device_map", None) is not None
    if placed and dist.world_size > 1:
        raise UserError(
            "model.model_args.device_map spreads one model over the GPUs of one process, and this "
            f"run has {dist.world_size}; leave it out (launch=fsdp2 and launch=zero3 shard the "
            "weights), or start one process"
        )
    return placed


def _fully_sharded(model: "PreTrainedModel", dist: DistContext) -> Any:
    given: dict[str, Any] = {
        "mesh": torch.distributed.device_mesh.init_device_mesh(dist.device.type, (dist.world_size,))
    }
    if launch_environment.is_set("FSDP_OFFLOAD_PARAMS"):
        given["offload_policy"] = fsdp.CPUOffloadPolicy()
    for layer in list_layers(unwrap_model(model)):
        fsdp.fully_shard(layer, **given)
    return fsdp.fully_shard(model, **given)


def _partitioned(model: "PreTrainedModel") -> Any:
    """ZeRO-3 without an optimiser: each module's weights are gathered while it is called."""
    import deepspeed

    dtype = next(model.parameters()).dtype
    zero = {"stage": 3, **_offload()}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "steps_per_print": 1 << 30,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
    }
    return deepspeed.initialize(model=model, config=config)[0].module


def _offload() -> dict[str, Any]:
    """Where the launch's own file has weights rest that no module needs at the moment."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file != "none":
        told = json.loads(Path(file).read_text(encoding="utf-8")).get("zero_optimization", {})
        return {key: told[key] for key in ("offload_param",) if key in told}
    device = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none")
    return {} if device == "none" else {"offload_param": {"device": device}}


def reshard(model: Any) -> None:
    """Lets go of the weights that FSDP2 leaves gathered after a pass without a backward."""
    if hasattr(model, "reshard"):
        model.reshard()
