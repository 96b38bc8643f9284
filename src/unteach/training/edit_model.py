"""Carry out a one-shot edit: what a training loop is to other methods."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, console, run_dir
from unteach.config import schema
from unteach.config.references import is_local
from unteach.config.watching import Land
from unteach.data.collators import Collator
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.edit.base import Edit, EditContext, Numbers
from unteach.models import loading
from unteach.models.hub import PATH, SOURCE
from unteach.models.layers import unwrap_model
from unteach.models.loading import LoadedModel
from unteach.models.placement import place_model
from unteach.training.drift import DriftMeter
from unteach.training.land import build_lander
from unteach.training.landing_prompts import list_prompts
from unteach.training.prepare import PreparedRun

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

ONE_PROCESS = (
    "launch: {handler} edits the model in one process, and {num} processes would do the same work; "
    "leave launch out (`unteach eval` of what it makes takes any launch)"
)
BEGUN = (
    "an earlier start of this run did not come to its final model: the edit is made again, from "
    "the untouched weights"
)


def setup_edit(
    loaded: LoadedModel,
    edit: Edit,
    handler: str,
    streams: dict[str, Stream],
    num_processes: int = 1,
) -> None:
    """Raise UserError where this model cannot be edited by this run; else freeze all of it."""
    if num_processes > 1:
        raise UserError(ONE_PROCESS.format(handler=handler, num=num_processes))
    if not edit.ON_ADAPTERS:
        if getattr(unwrap_model(loaded.model), "is_quantized", False):
            raise UserError(
                f"trainer.handler={handler} edits weights, and these are quantised, where a small "
                "change is rounded away; load them whole (no model.model_args.quantization_config)"
            )
        if loaded.adapter is not None:
            raise UserError(
                f"trainer.handler={handler} edits the weights themselves, and this run has an "
                "adapter over them, which alone would be saved: leave model.peft_args out, or "
                "merge the adapter first (`unteach export`) and name what that gives"
            )
    for name, path in edit.other_models().items():
        if is_local(path) and not Path(path).expanduser().exists():
            raise UserError(f"trainer.method_args.{name}={path}: there is no such folder")
    edit.refuse_model(loaded)
    edit.refuse_rows(streams)
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(False)


def edit_model(
    config: schema.TrainConfig,
    prepared: PreparedRun,
    collator: Collator,
    folder: Path,
    dist: DistContext,
    merge: "Callable[[PeftModel], PreTrainedModel]",
) -> None:
    """Edit the model of a run in place, land it where the run says so, and tell what was done.

    `setup_edit` comes before. The numbers that the edit gives go to edit.json.

    Args:
        prepared: model and streams, as a training has them.
        merge: puts an adapter into its base.
    """
    edit: Edit = config.trainer.method
    loaded = prepared.loaded
    if (folder / run_dir.EDIT).exists():
        logger.info(BEGUN)
        (folder / run_dir.EDIT).unlink()
    loaded.model = place_model(loaded.model, dist)
    loaded.model.eval()
    weights = dict(edit.find_weights(loaded.model))

    # What the model is now is kept before anything changes it.
    meter = None
    if edit.MEASURES_KL:
        meter = DriftMeter(loaded, weights.values())
        prompts = list_prompts(config, loaded, Land.texts)
        meter.prepare(prompts, Land.tokens, config.seed, Path(config.paths.cache_dir))
    lander = build_lander(config, loaded, weights, folder, dist)
    if lander:
        lander.prepare()

    def measure_kl() -> float:
        assert meter is not None, f"{type(edit).__name__} must say MEASURES_KL"
        return meter.measure()

    def load_weights(path: str) -> "dict[str, Tensor]":
        return _load_weights(config.model, path, merge)

    context = EditContext(
        loaded=loaded,
        streams=prepared.streams,
        collator=collator,
        batch_size=prepared.args.per_device_train_batch_size,
        seed=config.seed,
        report=logger.info,
        load_weights=load_weights,
        measure_kl=measure_kl,
    )
    numbers = edit.edit(context)
    _refuse_not_finite(weights)
    atomic.write_json(folder / run_dir.EDIT, numbers)
    console.say(describe_edit(config.trainer.handler, len(weights), numbers))
    if lander:
        lander.land()


def describe_edit(handler: str, num_weights: int, numbers: Numbers) -> str:
    """Describe in a line what an edit did."""
    told = []
    for name, value in numbers.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        told.append(f"{name.replace('_', ' ')} {shown}")
    return f"edited by {handler}: {num_weights:,} weights; {', '.join(told)}"


def _refuse_not_finite(weights: "dict[str, Any]") -> None:
    """Raise UserError where an edit left a weight that is not finite; nothing was saved yet."""
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise UserError(
                f"{name} is not finite after the edit; nothing was saved. Take a smaller strength"
            )


def _load_weights(
    model: schema.ModelConfig,
    path: str,
    merge: "Callable[[PeftModel], PreTrainedModel]",
) -> "dict[str, Tensor]":
    """Load the whole weights of another model by name, in fp32, on the CPU; an adapter's put into
    its base."""
    args: dict[str, Any] = {PATH: run_dir.find_model_folder(path), "dtype": "float32"}
    # What opens the run's own model opens this one, but for where in its repository it is.
    for name in set(SOURCE) - {"revision", "subfolder"}:
        if name in model.model_args:
            args[name] = model.model_args[name]
    other = replace(
        model,
        model_args=args,
        tokenizer_args={},
        peft_args=None,
        added_tokens=[],
        base_path=None,
        merge_adapter=False,
        model_handler="AutoModelForCausalLM",
    )
    loaded = loading.load(other, training=False)
    whole = loaded.model if loaded.adapter is None else merge(loaded.model)
    return {name: weight.detach() for name, weight in whole.named_parameters()}
