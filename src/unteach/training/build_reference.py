"""Build what a method compares the policy with: a frozen model, or tables of the log-probs that the
policy itself gave before it was trained."""

import math
from collections.abc import Callable
from pathlib import Path

from unteach.config import schema
from unteach.data.collators import Collator
from unteach.data.steps import Steps, Turns
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.lazy import transformers
from unteach.methods.base import Method
from unteach.models import adapters
from unteach.models.loading import LoadedModel, load_frozen
from unteach.models.placement import place_model, reshard
from unteach.models.reference import (
    LogprobTable,
    Reference,
    RowDraw,
    compute_table,
    drop_unused_layers,
    needs_copy,
)
from unteach.training.parallelism import count_rows_per_step

REFERENCE = "reference"
"""The folder of a run with the log-probs of the policy that it began from, one file a stream."""


def build_reference(
    config: schema.TrainConfig, method: Method, loaded: LoadedModel, dist: DistContext
) -> Reference:
    """Build what a method compares with, without its tables.

    A frozen copy is loaded only where nothing else is exact. Where an adapter trains, the model
    as it is without it takes the copy's place.
    """
    needed = method.reference()
    if not needs_copy(needed):
        return Reference(needed)
    if loaded.adapter is not None:
        return Reference(needed, frozen=adapters.BasePolicy(loaded.model, loaded.adapter))
    frozen = drop_unused_layers(load_frozen(config.model), needed)
    return Reference(needed, frozen=place_model(frozen, dist))


def build_tables(
    method: Method,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    list_draws: Callable[[], dict[str, list[RowDraw]]],
    collator: Collator,
    args: "transformers.TrainingArguments",
    tables_dir: Path,
    dist: DistContext,
) -> dict[str, LogprobTable]:
    """Compute the tables of log-probs, by the policy itself before it is trained.

    Call it once the policy is distributed over the processes.

    Args:
        method: says which streams have a table.
        loaded: the policy.
        streams: of the run.
        list_draws: lists the rows that a table has, by stream; called only where one is computed.
        collator: turns examples into padded tensors.
        args: the library's.
        tables_dir: the folder of the run that the tables are kept in; one that is there already is
            loaded.
        dist: the processes that share the work.
    """
    tables = {}
    for stream_name, kind in method.reference().items():
        if kind != "logprobs":
            continue
        path = tables_dir / f"{stream_name}.safetensors"
        # A run that goes on: the policy has changed since, and the file has what it was.
        if path.exists():
            tables[stream_name] = LogprobTable.load(path)
            continue
        with loaded.autocast():
            tables[stream_name] = compute_table(
                loaded.model,
                streams[stream_name],
                list_draws()[stream_name],
                collator,
                args.per_device_train_batch_size,
                dist.rank,
                dist.world_size,
                dist.gather,
                dist.device if dist.is_sharded else None,
            )
        reshard(loaded.model)
        # Before the file is written, all must have looked whether it is there.
        dist.barrier()
        if dist.is_main:
            tables[stream_name].save(path)
    return tables


def list_draws(
    streams: dict[str, Stream],
    anchor: str,
    args: "transformers.TrainingArguments",
    turns: Turns | None = None,
) -> dict[str, list[RowDraw]]:
    """List the rows that a run will draw, by stream."""
    steps = Steps(streams, anchor, count_rows_per_step(args), args.seed, turns=turns)
    num_steps = args.max_steps
    if num_steps <= 0:
        num_steps = math.ceil(args.num_train_epochs * len(steps))
    return steps.list_seen(num_steps)
