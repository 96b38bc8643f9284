"""What a method compares the policy with: a frozen model, or tables of log-probs that the policy
itself wrote down before it was trained."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unteach.config import schema
from unteach.data.streams import Steps, Stream
from unteach.distributed.process_context import DistContext
from unteach.lazy import transformers
from unteach.methods.base import Method
from unteach.models import adapters
from unteach.models.loading import LoadedModel, load_frozen
from unteach.models.placement import place, reshard
from unteach.models.reference import Draw, Reference, Table, compute_table, needs_copy, trimmed
from unteach.training.parallelism import step_size

REFERENCE = "reference"
"""The folder of a run with the log-probs of the policy that it began from, a file a stream."""


def build_reference(
    config: schema.TrainConfig, method: Method, loaded: LoadedModel, dist: DistContext
) -> Reference:
    """Build what a method compares with, but for its tables: a frozen copy only where nothing else
    is exact, and where an adapter trains, the model as it was without it."""
    needed = method.reference()
    if not needs_copy(needed):
        return Reference(needed)
    if loaded.adapter is not None:
        return Reference(needed, frozen=adapters.BasePolicy(loaded.model, loaded.adapter))
    return Reference(needed, frozen=place(trimmed(load_frozen(config.model), needed), dist))


def build_tables(
    method: Method,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    draws: Callable[[], dict[str, list[Draw]]],
    collator: Any,
    args: "transformers.TrainingArguments",
    folder: Path,
    dist: DistContext,
) -> dict[str, Table]:
    """Compute the tables of log-probs, by the policy itself before it is trained, and keep them in
    a folder of the run.

    A table has the rows that `draws` names, and no others. Called once the policy is spread as the
    run is.
    """
    tables = {}
    for stream, kind in method.reference().items():
        if kind != "logprobs":
            continue
        path = folder / f"{stream}.safetensors"
        if path.exists():  # the policy is no longer what it was compared with
            tables[stream] = Table.load(path)
            continue
        with loaded.autocast():
            tables[stream] = compute_table(
                loaded.model,
                streams[stream],
                draws()[stream],
                collator,
                args.per_device_train_batch_size,
                dist.rank,
                dist.world_size,
                dist.gather,
                dist.device if dist.is_sharded else None,
            )
        reshard(loaded.model)
        dist.barrier()  # for all have looked whether the file is there
        if dist.is_main:
            tables[stream].save(path)
    return tables


def list_draws(
    streams: dict[str, Stream], anchor: str, args: "transformers.TrainingArguments"
) -> dict[str, list[Draw]]:
    """List the rows that the run will draw, by stream."""
    steps = Steps(streams, anchor, step_size(args), args.seed)
    num_steps = args.max_steps
    if num_steps <= 0:
        num_steps = math.ceil(args.num_train_epochs * len(steps))
    return steps.seen(num_steps)
