"""The rows of a run beside its model: how long they may be, and what became of them."""

import inspect
import sys
from typing import TYPE_CHECKING

from unteach.config import schema
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.models.loading import LoadedModel
from unteach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULT_LENGTH = 2048
"""Tokens of a row of the user's files, where the model's context has as many and nobody says
otherwise."""


def list_notes(part: object) -> list[str]:
    """List what a dataset has to say about rows dropped and rows cut."""
    if hasattr(part, "notes"):
        return list(part.notes())
    return [
        f"{counted(count, 'row')} dropped, {why}"
        for why, count in getattr(part, "dropped", {}).items()
    ]


def fit_context(part: schema.ComponentConfig, loaded: LoadedModel) -> dict[str, int]:
    """max_length of a dataset of the user's files, where nobody says it: as many tokens as the
    context has."""
    of_files = "choice" in (part.args.get("hf_args") or {})
    if of_files and "max_length" in inspect.signature(part.cls).parameters:
        return {"max_length": min(DEFAULT_LENGTH, find_context_length(loaded.model))}
    return {}


def find_context_length(model: "PreTrainedModel") -> int:
    """Find how many tokens a row may have at most: the positions that the model knows."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(known) if known else sys.maxsize


def refuse_too_long(streams: dict[str, Stream], context: int) -> None:
    for name, stream in streams.items():
        for number in stream.tokenized_rows():
            if (length := len(stream.example(number)["input_ids"])) > context:
                raise UserError(
                    f"data.{name}: {stream.locate(number)} has {length} tokens, and the model's "
                    f"context {context}; set max_length of its dataset to {context} or less "
                    "(data.max_length with data=files)"
                )
