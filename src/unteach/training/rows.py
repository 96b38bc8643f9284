"""The rows of a run beside its model: how long they may be, what became of them, and that they stay
what they were."""

import hashlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from unteach import run_dir
from unteach.config import schema
from unteach.data.io import sources
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.models.loading import Loaded
from unteach.wording import counted

if TYPE_CHECKING:
    import transformers

DEFAULT_LENGTH = 2048
"""Tokens of a row of the user's files, where the model's context has as many and nobody says
otherwise."""


def notes_of(part: Any) -> list[str]:
    """What a dataset has to say about rows dropped and rows cut."""
    if hasattr(part, "notes"):
        return list(part.notes())
    return [
        f"{counted(count, 'row')} dropped, {why}"
        for why, count in getattr(part, "dropped", {}).items()
    ]


def fit_context(part: schema.Part, loaded: Loaded) -> dict[str, int]:
    """max_length of a dataset of the user's files, where nobody says it: as many tokens as the
    context has."""
    of_files = "choice" in (part.args.get("hf_args") or {})
    if of_files and "max_length" in inspect.signature(part.cls).parameters:
        return {"max_length": min(DEFAULT_LENGTH, context_of(loaded.model))}
    return {}


def context_of(model: Any) -> int:
    """How many tokens a row may have at most: the positions that the model knows."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(known) if known else sys.maxsize


def refuse_too_long(streams: dict[str, Stream], context: int) -> None:
    for name, stream in streams.items():
        for number in stream.tokenized_rows():
            if (length := len(stream.example(number)["input_ids"])) > context:
                raise UserError(
                    f"data.{name}: {stream.place(number)} has {length} tokens, and the model's "
                    f"context {context}; set max_length of its dataset to {context} or less "
                    "(data.max_length with data=files)"
                )


def fingerprints(streams: dict[str, Stream]) -> dict[str, str]:
    """sha256 of the token ids and labels of each stream, in order."""
    found = {}
    for name, stream in streams.items():
        digest = hashlib.sha256()
        for number in range(len(stream)):
            example = stream.example(number)
            for key in ("input_ids", "labels"):
                digest.update(numpy.asarray(example[key], numpy.int64).tobytes() + b"/")
        found[name] = digest.hexdigest()
    return found


def fingerprints_of_files(config: schema.Config) -> dict[str, str]:
    """sha256 of each local file that rows are read from."""
    assert config.data is not None
    told = [
        part.args.get("hf_args")
        for parts in config.data.streams.values()
        for part in parts.values()
    ]
    return {
        str(file): run_dir.fingerprint(file)
        for hf_args in told
        if hf_args
        for file in sources.files_of(hf_args)
    }


def refuse_other_data(folder: Path, began: dict[str, Any], now: dict[str, dict[str, str]]) -> None:
    """A run goes on with the data, and from the weights, that it began with."""
    for kind, named in (("files", "{}"), ("data", "data.{}"), ("models", "{}")):
        for name, fingerprint in now[kind].items():
            if began.get(kind, {}).get(name, fingerprint) != fingerprint:
                raise UserError(
                    f"{named.format(name)}: is not what it was when {folder} began to train on it; "
                    "put it back, or start again with resume=never or another task_name"
                )


def note_idle_optimizer(args: "transformers.TrainingArguments") -> list[str]:
    """Say where the optimiser's settings leave the weights, or nearly, as they are."""
    notes = []
    if args.learning_rate == 0:
        notes.append("trainer.args.learning_rate is 0: nothing is learned")
    if 0 < args.max_steps <= args.warmup_steps:
        steps = f"trainer.args.warmup_steps={args.warmup_steps:g} of max_steps={args.max_steps}"
        notes.append(f"{steps}: the learning rate is never reached")
    return notes
