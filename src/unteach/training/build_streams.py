"""The rows that a run trains on, in streams, and the stream whose length is an epoch."""

from pathlib import Path
from typing import Any

from unteach.config import schema
from unteach.data.io import sources
from unteach.data.stream_overlap import note_overlap
from unteach.data.streams import ALTERNATE, Stream
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.models import probing
from unteach.models.loading import LoadedModel
from unteach.training.alternates import invent
from unteach.training.parts import build_part
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
        The streams by name, and what there is to say about rows dropped and answers cut.
    """
    method = config.trainer.method
    streams: dict[str, Stream] = {}
    rows: dict[str, list[Any]] = {}
    notes: list[str] = []
    for name in method.streams() or [name for name in config.data.streams if name != HOLDOUT]:
        source = find_source(config.data, name)
        if source not in rows:
            rows[source], notes_of_rows = build_rows(
                loaded, source, config.data.streams[source], config.seed
            )
            notes += notes_of_rows
        datasets = rows[source]
        if name == ALTERNATE != source and method.ask("", "") is not None:
            if dist is None:
                notes.append(
                    f"data.{name}: the model invents these answers itself when the run starts"
                )
                continue
            questions = Stream("forget", datasets)
            cache_dir = Path(config.paths.cache_dir)
            datasets = [invent(method, loaded, questions, config.seed, cache_dir, dist)]
        # Two streams of the same rows draw them in the same order.
        same_rows = (other for other in streams if find_source(config.data, other) == source)
        streams[name] = Stream(name, datasets, next(same_rows, None))
    refuse_too_long(streams, find_context_length(loaded.model))
    if {"forget", "retain"} <= rows.keys():
        notes += note_overlap(rows["forget"], rows["retain"])
    return streams, notes


def find_source(data: schema.DataConfig, name: str) -> str:
    """Find the stream of the configuration that a method's stream reads its rows from: its own, or
    one that it stands beside."""
    return name if name in data.streams else schema.BESIDE.get(name, name)


def build_rows(
    loaded: LoadedModel, name: str, parts: dict[str, schema.ComponentConfig], seed: int
) -> tuple[list[Any], list[str]]:
    """Build the datasets of a stream; give also what there is to say about their rows.

    Args:
        loaded: the model whose tokenizer and template read the rows.
        name: the stream's, as notes call it.
        parts: the datasets by their names.
        seed: the run's.
    """
    labels = list(loaded.head.labels) if loaded.head else None
    datasets = [build_part(part, loaded, seed=seed, labels=labels) for part in parts.values()]
    notes = []
    for part in parts.values():
        note = sources.note(part.args.get("hf_args") or {})
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
    for name in streams:
        if name == anchor or find_source(config.data, name) == anchor:
            return name
    trained = dict.fromkeys(find_source(config.data, name) for name in streams)
    raise UserError(
        f"data.anchor={anchor}: {config.trainer.handler} with these method_args does not train on "
        f"that stream; it trains on {', '.join(trained)}"
    )
