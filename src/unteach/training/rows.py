"""Check the rows of a run against its model: how long they may be, and what became of them."""

import inspect
import sys
from typing import TYPE_CHECKING

from unteach.config import schema
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.models.loading import LoadedModel
from unteach.wording import format_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULT_LENGTH = 2048
"""Tokens of a row of the user's files, where the model's context has as many and nobody says
otherwise."""


def list_notes(dataset: object) -> list[str]:
    """List what a dataset has to say about rows dropped and rows cut."""
    if hasattr(dataset, "notes"):
        return list(dataset.notes())
    notes = []
    for reason, count in getattr(dataset, "dropped", {}).items():
        notes.append(f"{format_count(count, 'row')} dropped, {reason}")
    return notes


def choose_max_length(component: schema.ComponentConfig, loaded: LoadedModel) -> dict[str, int]:
    """Choose `max_length` for a dataset of the user's files: as many tokens as the context has."""
    is_of_files = "choice" in (component.args.get("hf_args") or {})
    if not is_of_files or "max_length" not in inspect.signature(component.cls).parameters:
        return {}
    return {"max_length": min(DEFAULT_LENGTH, find_context_length(loaded.model))}


def find_context_length(model: "PreTrainedModel") -> int:
    """Find how many tokens a row may have: the positions that the model knows."""
    num_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(num_positions) if num_positions else sys.maxsize


def refuse_too_long(streams: dict[str, Stream], context: int) -> None:
    """Raise UserError where a row has more tokens than the model's context."""
    for name, stream in streams.items():
        for row in stream.list_tokenized_rows():
            length = len(stream.example(row)["input_ids"])
            if length > context:
                raise UserError(
                    f"data.{name}: {stream.locate(row)} has {length} tokens, and the model's "
                    f"context {context}; set max_length of its dataset to {context} or less "
                    "(data.max_length with data=files)"
                )
