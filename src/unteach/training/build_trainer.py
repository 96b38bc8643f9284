"""The trainer of a run: ours with its method, or a plugin's subclass of transformers.Trainer."""

import functools
from pathlib import Path

import transformers

from unteach import console
from unteach.config import schema
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.models.loading import LoadedModel
from unteach.training.build_reference import REFERENCE, build_reference, build_tables, list_draws
from unteach.training.foreign_trainers import their_trainer
from unteach.training.guard_rows import build_guard
from unteach.training.parts import build_collator
from unteach.training.resumable import CheckpointPolicy, Resumable
from unteach.training.save import save_companions
from unteach.training.trainer import Trainer


def build_trainer(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    anchor: str,
    folder: Path,
    dist: DistContext,
    args: transformers.TrainingArguments,
    **given: object,
) -> Resumable:
    """Build the trainer of the run's method, or a plugin's own subclass of transformers.Trainer.

    given: what any of them takes beside its parts, as callbacks and what measures.
    """
    collator, method = build_collator(config, loaded), config.trainer.method
    common = {
        "model": loaded.model,
        "args": args,
        "dist": dist,
        "checkpoint_policy": build_checkpoint_policy(config),
        "guard": build_guard(config, loaded, streams),
        "save_companions": functools.partial(save_companions, loaded),
        **given,
    }
    if isinstance(method, schema.TheirTrainer):
        if dist.is_main:
            console.say(
                f"note: {config.trainer.handler} is a transformers.Trainer with a loss of its own: "
                "our rule of normalisation does not hold for it, and its steps change with how a "
                "batch is split"
            )
        tokenizer = loaded.tokenizer
        return their_trainer(
            method, streams, anchor, data_collator=collator, processing_class=tokenizer, **common
        )
    reference = build_reference(config, method, loaded, dist)
    draws = functools.partial(list_draws, streams, anchor, args)
    # Called by the trainer once the model is spread over the processes.
    tables = functools.partial(
        build_tables, method, loaded, streams, draws, collator, args, folder / REFERENCE, dist
    )
    return Trainer(
        method=method,
        streams=streams,
        anchor=anchor,
        collator=collator,
        reference=reference,
        tables=tables,
        packed=config.model.packed,
        **common,
    )


def build_checkpoint_policy(config: schema.TrainConfig) -> CheckpointPolicy:
    """Read how many checkpoints are kept, and after how many evaluations without a better one the
    run stops."""
    args = config.trainer.args
    return CheckpointPolicy(
        limit=args.get("save_total_limit") or 1,
        patience=args.get("early_stopping_patience"),
        threshold=args.get("early_stopping_threshold") or 0.0,
    )
