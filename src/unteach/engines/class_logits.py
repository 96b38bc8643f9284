"""What a classifier says of rows of tokens, each read at its last one whatever token that is."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from unteach.engines.padding import pad_rows
from unteach.models.layers import unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def compute_class_logits(
    model: "PreTrainedModel",
    rows: Sequence[Sequence[int]],
    padding_id: int,
) -> "Tensor":
    """Compute the logits [B, C] of rows of token ids, padded on the right.

    A decoder finds a row's last token as the last that is not padding, by its id: a row that ends
    in that id itself, as one does that ends in EOS where EOS pads, would be read at the token
    before. Such a batch is padded with an id that stands in none of its rows.
    """
    finds_last_by_id = hasattr(unwrap_model(model), "score")
    filler = padding_id
    if finds_last_by_id and any(row[-1] == padding_id for row in rows if row):
        filler = _find_unused_id(model, rows, padding_id)

    device = next(model.parameters()).device
    tensors = pad_rows(rows, filler, device)
    id_to_find_by = filler if finds_last_by_id else None
    with _padding_id_set_to(model, id_to_find_by):
        logits: Tensor = model(**tensors).logits.float()
    return logits


def _find_unused_id(
    model: "PreTrainedModel",
    rows: Sequence[Sequence[int]],
    otherwise: int,
) -> int:
    """Find the first id of the vocabulary that is in no row."""
    used = set(itertools.chain(*rows))
    vocab_size = int(unwrap_model(model).config.get_text_config().vocab_size)
    for token in range(vocab_size):
        if token not in used:
            return token
    return otherwise


@contextlib.contextmanager
def _padding_id_set_to(model: "PreTrainedModel", padding_id: int | None) -> Iterator[None]:
    """Set, within it, the id by which a model finds the last token of a row; None leaves it."""
    config = unwrap_model(model).config
    settings = [config, config.get_text_config()]
    before = [part.pad_token_id for part in settings]
    try:
        if padding_id is not None:
            for part in settings:
                part.pad_token_id = padding_id
        yield
    finally:
        for part, original in zip(settings, before, strict=True):
            part.pad_token_id = original
