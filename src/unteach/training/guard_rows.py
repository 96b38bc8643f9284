"""Which rows the collapse guard of a run looks at."""

import itertools
from dataclasses import replace
from typing import Any

from unteach import console
from unteach.config import schema
from unteach.config.schema import ComponentConfig
from unteach.config.watching import Guard
from unteach.data.io import sources, tokenized_paths
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.models.loading import LoadedModel
from unteach.training.guard import CollapseGuard, CollapseWatch
from unteach.training.parts import build_part

FEW = 64
"""Rows that are read of a set that nothing else of the run reads: some of them may be unfit."""


def build_guard(
    config: schema.TrainConfig, loaded: LoadedModel, streams: dict[str, Stream]
) -> CollapseGuard | None:
    """Build the guard that is asked for or, of a method that ascends, the watch that only warns."""
    guard = config.trainer.guard
    if guard is not None:
        retain = streams.get("retain") or _learned(streams) or _read_retain(config, loaded)
        if retain is None:
            raise UserError(
                "trainer.guard looks at what should be retained: give retain=FILE, or "
                "data.retain=DATASET"
            )
        return CollapseGuard(guard, loaded, retain)
    if not getattr(config.trainer.method, "ASCENDS", False):
        return None
    rows = (
        streams.get("retain")
        or _learned(streams)
        or _read_few(config, loaded)
        or _forgotten(streams)
    )
    return CollapseWatch(config.trainer.handler, loaded, rows) if rows else None


def _retain_parts(config: schema.TrainConfig) -> dict[str, ComponentConfig]:
    """The retain datasets of a run whose method does not train on them."""
    return config.data.streams.get("retain") or config.data.measured.get("retain") or {}


def _read_retain(config: schema.TrainConfig, loaded: LoadedModel) -> Stream | None:
    built = [build_part(part, loaded, seed=config.seed) for part in _retain_parts(config).values()]
    return Stream("retain", built) if built else None


def _read_few(config: schema.TrainConfig, loaded: LoadedModel) -> Stream | None:
    """The first retain rows, where they can be read: nobody asked for them, so it is no mistake
    where they cannot."""
    try:
        parts = [_first_rows(part) for part in _retain_parts(config).values()]
        built = [build_part(part, loaded, seed=config.seed) for part in parts]
        return Stream("retain", built) if built else None
    except (UserError, OSError) as error:
        console.say(
            f"note: whether the model collapses is not told by the retain rows, which cannot be "
            f"read: {error}"
        )
        return None


def _first_rows(part: ComponentConfig) -> ComponentConfig:
    """The same dataset of its first rows alone: a set is not tokenised whole to be looked at now
    and then."""
    hf_args = part.args.get("hf_args")
    if not isinstance(hf_args, dict) or tokenized_paths.is_tokenized(hf_args.get("path")):
        return part
    few = replace(part, args={**part.args, "hf_args": {"rows": sources.load_rows(hf_args)[:FEW]}})
    few.cls = part.cls
    return few


def _learned(streams: dict[str, Stream]) -> Stream | None:
    """The rows of a signed loss that it learns beside those that it unlearns."""
    return _by_sign(streams, "retain", is_forgotten=False)


def _forgotten(streams: dict[str, Stream]) -> Stream | None:
    return streams.get("forget") or _by_sign(streams, "forget", is_forgotten=True)


def _by_sign(streams: dict[str, Stream], name: str, is_forgotten: bool) -> Stream | None:
    train = streams.get("train")
    if train is None:
        return None
    examples = (train.example(number) for number in range(len(train)))
    chosen: list[Any] = list(
        itertools.islice(
            (one for one in examples if (one.get("weight", 1.0) < 0) == is_forgotten), Guard.rows
        )
    )
    return Stream(name, [chosen]) if chosen else None
