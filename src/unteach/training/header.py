"""Describe a training run in a few lines: for `unteach check`, and for the run itself before its
first step."""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from unteach import console, logs, registry
from unteach.config import schema
from unteach.data.steps import Steps
from unteach.data.streams import Stream
from unteach.lazy import transformers
from unteach.methods.base import Method
from unteach.methods.edit.base import Edit
from unteach.methods.wrap.perturb import LAT, Perturbation
from unteach.methods.wrap.surgery import Surgery
from unteach.models.hub import PATH
from unteach.models.layer_names import count_layers, list_own_names
from unteach.models.layers import unwrap_model
from unteach.models.loading import LoadedModel
from unteach.registry import read_summary
from unteach.training import checkpoint, forecast
from unteach.training.parallelism import count_rows_per_step
from unteach.training.turns import find_turns
from unteach.wording import format_count

Line = tuple[str, str]
"""What a line is about, and its text."""
MAX_NAMES = 3
"""How many of the weights that are edited are named."""


def print_lines(lines: list[Line]) -> None:
    for label, text in lines:
        console.say(f"{label:<12}{text}")


def describe_training(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    anchor: str,
    args: "transformers.TrainingArguments",
    num_processes: int,
    num_validation_rows: int = 0,
    describe_stream: Callable[[Stream], str] = lambda stream: format_count(len(stream), "row"),
) -> list[Line]:
    """Describe the model, the method, each stream, the steps, and how fast the model learns.

    Args:
        config: a run's.
        loaded: its model.
        streams: it trains on, by name.
        anchor: the stream whose length is an epoch.
        args: the library's, as built in this process.
        num_processes: that the run will have.
        num_validation_rows: held-out rows.
        describe_stream: describes a stream's rows; to count their tokens too is a pass over all of
            them.
    """
    path = config.model.model_args.get(PATH)
    source = f"{path}: " if path else ""
    lines = [
        ("model", f"{source}{describe_model(loaded)}"),
        ("method", f"{config.trainer.handler}: {describe_method(config.trainer.method)}"),
    ]
    ends = describe_ends(loaded, config.trainer.method)
    if ends:
        lines.append(("layers", ends))
    for section in ("surgery", "perturb"):
        wrapper = getattr(config.trainer, section)
        if wrapper is not None:
            lines.append((section, describe_wrapper(wrapper)))
        if isinstance(wrapper, LAT):
            (module,) = list_own_names(unwrap_model(loaded.model), [wrapper.module])
            lines.append(("module", module))
    for name, stream in streams.items():
        role = " (sets the epoch)" if name == anchor else ""
        lines.append(("stream", f"{name}: {describe_stream(stream)}{role}"))
    if num_validation_rows:
        lines.append(("validation", format_count(num_validation_rows, "row")))
    if config.launch:
        lines.append(("launch", f"{config.launch}, {num_processes} processes"))
    # `unteach check` describes a run of several processes in one.
    rows_per_process = count_rows_per_step(args) // args.world_size
    turns = find_turns(config.trainer)
    steps = Steps(streams, anchor, rows_per_process * num_processes, config.seed, turns=turns)
    lines.append(("steps", forecast.describe_steps(args, len(steps), num_processes)))
    lines.append(("learning", forecast.describe_learning(args, len(steps))))
    if config.trainer.dual_optim:
        lines.append(("turns", forecast.describe_turns(config.trainer.dual_optim)))
    if config.trainer.land:
        lines.append(("landing", forecast.describe_landing(config.trainer.land)))
    return lines


def describe_edit_run(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    describe_stream: Callable[[Stream], str] = lambda stream: format_count(len(stream), "row"),
) -> list[Line]:
    """Describe the model, the method, each stream, and what is edited: a run without steps."""
    edit: Edit = config.trainer.method
    path = config.model.model_args.get(PATH)
    source = f"{path}: " if path else ""
    lines = [
        ("model", f"{source}{describe_model(loaded)}"),
        ("method", f"{config.trainer.handler}: {read_summary(type(edit))}"),
    ]
    for name, stream in streams.items():
        lines.append(("stream", f"{name}: {describe_stream(stream)}"))
    weights = edit.find_weights(loaded.model)
    num_parameters = sum(weight.numel() for weight in weights.values())
    names = ", ".join(list(weights)[:MAX_NAMES])
    if len(weights) > MAX_NAMES:
        names += f" and {len(weights) - MAX_NAMES:,} more"
    tensors = format_count(len(weights), "tensor")
    size = f"{tensors} of {num_parameters:,} parameters"
    lines.append(("edit", f"{size}, once, without steps: {names}"))
    if config.trainer.land:
        lines.append(("landing", forecast.describe_landing(config.trainer.land)))
    return lines


def describe_model(loaded: LoadedModel) -> str:
    """Describe the class of the model, its size, how much of it trains, and its precisions."""
    parameters = list(loaded.model.parameters())
    num_parameters = sum(p.numel() for p in parameters)
    num_trained = sum(p.numel() for p in parameters if p.requires_grad)
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
    decoding = f"; it forgets in its decoding, {loaded.decoding}" if loaded.decoding else ""
    return (
        f"{type(loaded.model).__name__}, {num_parameters:,} parameters, {num_trained:,} of them "
        f"trained; weights in {', '.join(dtypes)}, passes in {loaded.compute}{decoding}"
    )


def describe_method(method: Method | schema.TheirTrainer) -> str:
    """Give the first sentence of a method's documentation, and what it compares the model with."""
    if isinstance(method, schema.TheirTrainer):
        return "a transformers.Trainer of a plugin, with a loss and a data order of its own"
    references = set()
    for kind in method.reference().values():
        is_table = kind == "logprobs"
        references.add("answer log-probs, computed once" if is_table else "a frozen copy")
    compared = " and ".join(sorted(references)) or "nothing"
    return f"{read_summary(type(method))} Compares with: {compared}"


def describe_ends(loaded: LoadedModel, method: Method | schema.TheirTrainer) -> str:
    """Name the layers whose states a method takes, by the names that this model has for them; empty
    where it takes none."""
    if isinstance(method, schema.TheirTrainer):
        return ""
    causal = unwrap_model(loaded.model)
    streams_by_layers: dict[str, list[str]] = {}
    for stream, ends in method.layers().items():
        patterns = (ends,) if isinstance(ends, str) else ends
        layers = " and ".join(list_own_names(causal, patterns))
        streams_by_layers.setdefault(layers, []).append(stream)
    parts = [f"{', '.join(streams)} at {at}" for at, streams in streams_by_layers.items()]
    if not parts:
        return ""
    return f"{'; '.join(parts)}, of {format_count(count_layers(causal), 'layer')}"


def describe_wrapper(wrapper: Surgery | Perturbation) -> str:
    """Describe what stands round the method: the first sentence of its documentation, its fields
    and what it costs."""
    kind = registry.surgery if isinstance(wrapper, Surgery) else registry.perturbation
    entry = kind.find_entry_of(type(wrapper))
    assert entry is not None, "it was built by its name"
    values = []
    for field in dataclasses.fields(cast(Any, wrapper)):
        if field.init:
            values.append(f"{field.name} {getattr(wrapper, field.name)}")
    fields = f" ({', '.join(values)})" if values else ""
    cost = entry.facts.get("cost")
    return f"{entry.name}{fields}: {entry.line}" + (f" Costs {cost}." if cost else "")


def print_header(
    config: schema.TrainConfig,
    run_folder: Path,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    anchor: str,
    args: "transformers.TrainingArguments",
    num_validation_rows: int,
    start: Path | None,
) -> None:
    """Print what a run is that is about to train, and from which checkpoint it goes on.

    Where no bar is drawn, also the command that shows the run's log meanwhile.
    """
    if logs.is_quiet():
        return
    lines = [("run", f"{config.mode} {run_folder}")]
    lines += describe_training(
        config, loaded, streams, anchor, args, args.world_size, num_validation_rows
    )
    if start:
        turns = find_turns(config.trainer)
        steps = Steps(streams, anchor, count_rows_per_step(args), config.seed, turns=turns)
        first, total = checkpoint.parse_step(start), forecast.count_steps(args, len(steps))
        lines.append(("goes on", f"from step {first:,} of {total:,} ({start})"))
    if not console.is_live():
        lines.append(("meanwhile", shlex.join(["unteach", "history", str(run_folder)])))
    print_lines(lines)
