"""Build the trainer of a run: ours with its method, or a plugin's subclass of
transformers.Trainer."""

import functools
import logging
from pathlib import Path

import transformers

from unteach.config import schema
from unteach.config.launch_faults import SCALED, find_launch_fault
from unteach.config.training_args import SAVE_AT_STEPS
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.methods.base import Method
from unteach.models.loading import LoadedModel
from unteach.training.build_reference import REFERENCE, build_reference, build_tables, list_draws
from unteach.training.checkpoint import CheckpointPolicy
from unteach.training.components import build_collator
from unteach.training.foreign_trainers import build_foreign_trainer
from unteach.training.guard_rows import build_guard
from unteach.training.resumable import Resumable
from unteach.training.save import save_companions
from unteach.training.trainer import Trainer
from unteach.training.turns import find_turns

logger = logging.getLogger(__name__)

FOREIGN_LOSS = (
    "is a transformers.Trainer with a loss of its own: our rule of normalisation does not hold for "
    "it, and its steps change with how a batch is split"
)


def build_trainer(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    anchor: str,
    run_folder: Path,
    dist: DistContext,
    args: transformers.TrainingArguments,
    **kwargs: object,
) -> Resumable:
    """Build the trainer of the run's method, or a plugin's own subclass of transformers.Trainer.

    Args:
        streams: what it trains on, by name.
        anchor: the stream whose length is an epoch.
        kwargs: what else a `Resumable` takes: callbacks, validation, evaluator.
    """
    refuse_launch(config.trainer, args, dist.mode)
    method = config.trainer.method
    rule = method.decoding() if isinstance(method, Method) else None
    collator = build_collator(config, loaded)
    common = {
        "model": loaded.model,
        "args": args,
        "dist": dist,
        "checkpoint_policy": build_checkpoint_policy(config),
        "guard": build_guard(config, loaded, streams),
        "save_companions": functools.partial(save_companions, loaded, rule=rule),
        **kwargs,
    }
    if isinstance(method, schema.TheirTrainer):
        if dist.is_main:
            logger.info(f"{config.trainer.handler} {FOREIGN_LOSS}")
        common["data_collator"] = collator
        common["processing_class"] = loaded.tokenizer
        return build_foreign_trainer(method, streams, anchor, **common)

    turns = find_turns(config.trainer)
    # The trainer computes the tables once the model is distributed over the processes.
    draws = functools.partial(list_draws, streams, anchor, args, turns)
    folder = run_folder / REFERENCE
    compute_tables = functools.partial(
        build_tables, method, loaded, streams, draws, collator, args, folder, dist
    )
    return Trainer(
        method=method,
        streams=streams,
        anchor=anchor,
        collator=collator,
        reference=build_reference(config, method, loaded, dist),
        build_tables=compute_tables,
        packed=config.model.packed,
        template=loaded.template,
        surgery=config.trainer.surgery,
        perturbation=config.trainer.perturb,
        dual_optim=config.trainer.dual_optim,
        turns=turns,
        **common,
    )


def refuse_launch(
    trainer: schema.TrainerConfig, args: transformers.TrainingArguments, mode: str
) -> None:
    """Raise UserError where what stands round a method cannot be launched as this process is."""
    sections = {
        "trainer.surgery": trainer.surgery,
        "trainer.perturb": trainer.perturb,
        "trainer.dual_optim": trainer.dual_optim,
        "trainer.land": trainer.land,
    }
    for key, section in sections.items():
        if section is None:
            continue
        fault = find_launch_fault(key, mode)
        if not fault and args.fp16 and key in ("trainer.surgery", "trainer.perturb"):
            fault = SCALED
        if fault:
            raise UserError(f"{key}: {fault}")


def build_checkpoint_policy(config: schema.TrainConfig) -> CheckpointPolicy:
    """Read when checkpoints are written and kept, and after how many evaluations without a better
    one the run stops."""
    args = config.trainer.args
    return CheckpointPolicy(
        limit=args.get("save_total_limit") or 1,
        at_steps=args.get(SAVE_AT_STEPS) or (),
        patience=args.get("early_stopping_patience"),
        threshold=args.get("early_stopping_threshold") or 0.0,
    )
