"""All that a run trains with: model, streams, arguments, suites, and where it goes on from."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unteach.config.schema import TrainConfig
from unteach.data.streams import Stream
from unteach.distributed import process_context
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.evals.suite_plan import SuitePlan
from unteach.lazy import transformers
from unteach.models import loading
from unteach.models.loading import LoadedModel
from unteach.models.placement import is_placed_by_device_map
from unteach.seeds import derive_seed
from unteach.training import checkpoint, parallelism, suites
from unteach.training.build_args import build_training_args
from unteach.training.build_model import (
    build_head,
    describe_trained_model,
    read_training_texts,
)
from unteach.training.build_streams import build_streams, choose_anchor
from unteach.training.memory import note_lost_updates
from unteach.training.open_folder import open_folder

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedRun:
    """What a run trains with.

    anchor: the stream whose length is an epoch. start: the checkpoint that it goes on from. plans:
    of its suites.
    """

    loaded: LoadedModel
    streams: dict[str, Stream]
    anchor: str
    args: "TrainingArguments"
    start: Path | None
    plans: dict[str, SuitePlan]


def prepare_run(config: TrainConfig, folder: Path, dist: DistContext) -> PreparedRun:
    """Load the model, build the streams, plan the suites, and open the run's folder."""
    notes = list(config.data.notes)
    loaded = _load_model(config)
    streams, notes_of_streams = build_streams(config, loaded, dist)
    notes += notes_of_streams

    plans: dict[str, SuitePlan] = {}
    if suites.does_evaluate(config):
        plans, notes_of_rows = suites.plan_suites(config, loaded, streams)
        notes += notes_of_rows

    anchor = choose_anchor(config, streams)
    args = build_training_args(config, loaded.compute, streams[anchor], folder)
    notes += note_lost_updates(loaded.model, args)
    start, notes_of_checkpoints = checkpoint.find_start(folder, config.resume)
    notes += notes_of_checkpoints
    if start:
        process_context.run_on_main(
            lambda: parallelism.refuse_other_parallelism(start, args, dist.mode)
        )
    is_placed_by_device_map(loaded.model, dist)
    for note in notes:
        logger.info(note)

    # The folder is a run's from here on: all that could be refused beforehand was.
    if dist.is_main:
        open_folder(config, folder, loaded, streams, dist, checkpoint.parse_step(start))
    dist.barrier()
    return PreparedRun(loaded, streams, anchor, args, start, plans)


def _load_model(config: TrainConfig) -> LoadedModel:
    """Load the model that the run trains, its new weights drawn by the run's seed."""
    transformers.set_seed(derive_seed(config.seed, "init") % 2**32)
    model, num_layers = describe_trained_model(config)
    head = build_head(config)
    loaded = loading.load(
        model,
        training=True,
        texts=lambda: read_training_texts(config),
        head=head,
        num_layers=num_layers,
    )
    if config.model.merge_adapter and loaded.adapter is None:
        raise UserError(
            "model.merge_adapter: no adapter trains here: set model.peft_args, or leave it out"
        )
    return loaded
