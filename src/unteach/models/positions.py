"""Where a stream is asked: the positions of its tokens that a pass answers."""

from typing import TYPE_CHECKING

from unteach.data.batches import Batch
from unteach.data.examples import SEGMENT
from unteach.data.truncation import IGNORED
from unteach.lazy import F

if TYPE_CHECKING:
    from torch import Tensor


def find_positions(batch: Batch, stream: str, kind: str) -> "tuple[Tensor, Tensor, Tensor]":
    """Find where a stream is asked.

    Args:
        kind: the `positions` of an OutputSpec.

    Returns:
        The row within the stream [N], the column [N], and the label that follows (of `all` and
        `real` the token, whether it is learned or not), or for `labels` the one there [N].
    """
    start, stop = batch["rows"][stream]
    mask = batch["attention_mask"][start:stop]
    weight = batch["weight"][start:stop]
    labels = batch["labels"][start:stop]
    if kind in ("all", "real"):
        labels = batch["input_ids"][start:stop].masked_fill(mask == 0, IGNORED)
    if kind != "labels":
        labels = F.pad(labels[:, 1:], (0, 1), value=IGNORED)

    is_asked = labels != IGNORED
    if kind == "every":
        is_asked = find_all_positions(mask, weight)
    elif kind == "real":
        is_asked = find_real_positions(mask, weight)
    if kind in ("answer", "all"):
        # A row's first token may follow left padding, which predicts nothing.
        is_asked = is_asked & (mask == 1) & (weight != 0)[:, None]
    if kind == "all" and SEGMENT in batch:
        is_asked = is_asked & find_continued(batch[SEGMENT][start:stop])
    row, column = is_asked.nonzero(as_tuple=True)
    return row, column, labels[is_asked]


def find_continued(segment: "Tensor") -> "Tensor":
    """Say where the next token is of the same document: [B, T] -> bool [B, T]."""
    return F.pad(segment[:, 1:], (0, 1)) == segment


def find_all_positions(mask: "Tensor", weight: "Tensor") -> "Tensor":
    """Say what is a position of a real row, up to the stream's longest row, padding included:
    [B, T], [B] -> bool [B, T]."""
    return mask.bool().any(0) & (weight != 0)[:, None]


def find_real_positions(mask: "Tensor", weight: "Tensor") -> "Tensor":
    """Say what is a token of a row that counts, prompt and answer, first and last:
    [B, T], [B] -> bool [B, T]."""
    return (mask == 1) & (weight != 0)[:, None]
