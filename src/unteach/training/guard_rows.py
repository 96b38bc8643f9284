"""Choose the rows that the collapse guard of a run measures."""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace

from unteach.config import schema
from unteach.config.schema import DatasetConfig
from unteach.config.watching import Guard
from unteach.data.examples import Example
from unteach.data.io import sources, tokenized_paths
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.models.loading import LoadedModel
from unteach.training.components import build_component
from unteach.training.guard import CollapseGuard, CollapseWatch

logger = logging.getLogger(__name__)

MAX_ROWS_READ = 64
"""Rows that are read of a set that nothing else of the run reads: some of them may be unfit."""


def build_guard(
    config: schema.TrainConfig, loaded: LoadedModel, streams: dict[str, Stream]
) -> CollapseGuard | None:
    """Build the configured guard or, for a method that ascends, the watch that only warns."""
    guard = config.trainer.guard
    if guard is None and not getattr(config.trainer.method, "ASCENDS", False):
        return None
    retain = streams.get("retain") or _choose_by_sign(streams, "retain")
    if guard is not None:
        retain = retain or _read_retain(config, loaded)
        if retain is None:
            raise UserError(
                "trainer.guard looks at what should be retained: give retain=FILE, or "
                "data.retain=DATASET"
            )
        return CollapseGuard(guard, loaded, retain)

    rows = retain or _read_first_retain(config, loaded)
    if rows is None:
        rows = streams.get("forget") or _choose_by_sign(streams, "forget")
    return CollapseWatch(config.trainer.handler, loaded, rows) if rows else None


def _list_retain_datasets(config: schema.TrainConfig) -> list[DatasetConfig]:
    """List the retain datasets of a run whose method does not train on them."""
    data = config.data
    datasets = data.streams.get("retain") or data.measured.get("retain") or {}
    return list(datasets.values())


def _read_retain(config: schema.TrainConfig, loaded: LoadedModel) -> Stream | None:
    components = _list_retain_datasets(config)
    datasets = [build_component(component, loaded, seed=config.seed) for component in components]
    return Stream("retain", datasets) if datasets else None


def _read_first_retain(config: schema.TrainConfig, loaded: LoadedModel) -> Stream | None:
    """Read the first retain rows, or print a note where they cannot be read: the user did not ask
    for them, so it is no mistake."""
    try:
        components = [_limit_rows(component) for component in _list_retain_datasets(config)]
        datasets = [
            build_component(component, loaded, seed=config.seed) for component in components
        ]
        return Stream("retain", datasets) if datasets else None
    except (UserError, OSError) as error:
        logger.info(
            f"whether the model collapses is not told by the retain rows, which cannot be "
            f"read: {error}"
        )
        return None


def _limit_rows(component: DatasetConfig) -> DatasetConfig:
    """Give the same dataset of its first rows: a few are measured, and tokenising all would take
    long."""
    hf_args = component.args.get("hf_args")
    if not isinstance(hf_args, dict) or tokenized_paths.is_tokenized(hf_args.get("path")):
        return component
    rows = sources.load_rows(hf_args)[:MAX_ROWS_READ]
    return replace(component, args={**component.args, "hf_args": {"rows": rows}})


def _choose_by_sign(streams: dict[str, Stream], role: str) -> Stream | None:
    """Choose the first rows of a signed loss that it learns (`retain`) or unlearns (`forget`)."""
    train = streams.get("train")
    if train is None:
        return None

    def iterate_chosen() -> Iterator[Example]:
        for row in range(len(train)):
            example = train.example(row)
            is_forgotten = example.get("weight", 1.0) < 0
            if is_forgotten == (role == "forget"):
                yield example

    examples = list(itertools.islice(iterate_chosen(), Guard.rows))
    return Stream(role, [examples]) if examples else None
