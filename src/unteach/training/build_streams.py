"""Build the streams of rows that a run trains on, and choose the one whose length is an epoch."""

from pathlib import Path
from typing import Any

from unteach.config import schema
from unteach.data.io import sources
from unteach.data.mismatched import MismatchedAnswers, have_alternates
from unteach.data.stream_overlap import note_overlap
from unteach.data.streams import ALTERNATE, Stream
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.models import probing
from unteach.models.loading import LoadedModel
from unteach.training.alternates import invent
from unteach.training.components import build_component
from unteach.training.rows import find_context_length, list_notes, refuse_too_long

HOLDOUT = "holdout"
"""The stream of rows that the model never sees: measured, and never trained on."""


def build_streams(
    config: schema.TrainConfig, loaded: LoadedModel, dist: DistContext | None = None
) -> tuple[dict[str, Stream], list[str]]:
    """Build the streams that the run trains on.

    Args:
        config: a run's.
        loaded: the model that tokenizes the rows.
        dist: the processes that share the work where the model itself invents answers; None: it
            must not, and the stream is left out.

    Returns:
        The streams by name, and notes about rows dropped and answers cut.
    """
    method = config.trainer.method
    # A plugin's Trainer does not say which streams it trains on: all of them but the held-out.
    names = method.streams()
    if not names:
        names = [name for name in config.data.streams if name not in (HOLDOUT, schema.LANDING)]
    streams: dict[str, Stream] = {}
    first_name_by_source: dict[str, str] = {}
    datasets_by_source: dict[str, list[Any]] = {}
    notes: list[str] = []
    for name in names:
        source = find_source(config.data, name)
        if source not in datasets_by_source:
            datasets_by_source[source], notes_of_rows = build_rows(
                loaded, source, config.data.streams[source], config.seed
            )
            notes += notes_of_rows
        datasets = datasets_by_source[source]
        has_no_alternates = name == ALTERNATE and source != ALTERNATE
        if has_no_alternates and method.ask("", "") is not None:
            if dist is None:
                notes.append(
                    f"data.{name}: the model invents these answers itself when the run starts"
                )
                continue
            questions = Stream("forget", datasets)
            cache_dir = Path(config.paths.cache_dir)
            datasets = [invent(method, loaded, questions, config.seed, cache_dir, dist)]
        elif has_no_alternates and method.MISMATCHES and not have_alternates(datasets):
            if "retain" not in datasets_by_source:
                retain_rows, notes_of_rows = build_retain_rows(config, loaded)
                datasets_by_source["retain"] = retain_rows
                notes += notes_of_rows
            retain = Stream("retain", datasets_by_source["retain"])
            datasets = [MismatchedAnswers(Stream("forget", datasets), retain, config.seed)]
        # Streams of the same rows draw them in the same order.
        streams[name] = Stream(name, datasets, first_name_by_source.get(source))
        first_name_by_source.setdefault(source, name)
    refuse_too_long(streams, find_context_length(loaded.model))
    if {"forget", "retain"} <= datasets_by_source.keys():
        notes += note_overlap(datasets_by_source["forget"], datasets_by_source["retain"])
    return streams, notes


def find_source(data: schema.DataConfig, name: str) -> str:
    """Find the stream of the configuration that a method's stream takes its rows from.

    It is the stream of the same name or, where the configuration has none, the one whose rows have
    the method's stream as a part (`schema.BESIDE`).
    """
    return name if name in data.streams else schema.BESIDE.get(name, name)


def build_retain_rows(
    config: schema.TrainConfig, loaded: LoadedModel
) -> tuple[list[Any], list[str]]:
    """Build the datasets whose answers are given to the questions of data.forget."""
    if not config.data.streams.get("retain"):
        raise UserError(
            f"data.retain: {config.trainer.handler} gives the questions of data.forget the answers "
            "of these rows, and there are none; name them, or give the rows of data.forget other "
            "answers (a column alternate)"
        )
    return build_rows(loaded, "retain", config.data.streams["retain"], config.seed)


def build_rows(
    loaded: LoadedModel, name: str, parts: dict[str, schema.DatasetConfig], seed: int
) -> tuple[list[Any], list[str]]:
    """Build the datasets of a stream of the configuration.

    Args:
        loaded: the model that tokenizes the rows.
        name: the stream's.
        parts: its datasets by their names.
        seed: the run's.

    Returns:
        The datasets, and notes about their rows.
    """
    labels = list(loaded.head.labels) if loaded.head else None
    datasets: list[Any] = []
    notes: list[str] = []
    for part in parts.values():
        datasets.append(build_component(part, loaded, seed=seed, labels=labels))
        note = sources.note_source(part.args.get("hf_args") or {})
        if note:
            notes.append(note)

    if any(getattr(dataset, "packing", None) == "best_fit" for dataset in datasets):
        why_slower = probing.describe_packing(loaded.model)
        if why_slower:
            notes.append(f"data.{name}: {why_slower}")
    for label, dataset in zip(parts, datasets, strict=True):
        notes += [f"data.{name}.{label}: {note}" for note in list_notes(dataset)]
    return datasets, notes


def choose_anchor(config: schema.TrainConfig, streams: dict[str, Stream]) -> str:
    """Choose the stream whose length is an epoch: the one that data.anchor names, or the first that
    is read from its rows."""
    anchor = config.data.anchor
    sources_by_name = {name: find_source(config.data, name) for name in streams}
    for name, source in sources_by_name.items():
        if anchor in (name, source):
            return name
    trained = dict.fromkeys(sources_by_name.values())
    raise UserError(
        f"data.anchor={anchor}: {config.trainer.handler} with these method_args does not train on "
        f"that stream; it trains on {', '.join(trained)}"
    )
