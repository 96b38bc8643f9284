"""What becomes of a row that is longer than max_length: one function, for training and for
tokenised files alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

IGNORED = -100
"""The label of a token that is only read."""
TooLong = Literal["truncate_right", "truncate_left", "drop", "split"]
TokenIds: TypeAlias = "Sequence[int] | np.ndarray"
TokenRow = tuple[TokenIds, TokenIds]
"""input_ids and labels of one row."""


def truncate(
    ids: TokenIds,
    labels: TokenIds,
    max_length: int,
    too_long: TooLong,
) -> list[TokenRow]:
    """Cut a row into examples of at most max_length tokens.

    Args:
        ids: the row's tokens.
        labels: the same, with IGNORED where a token is not learned.
        max_length: tokens of an example.
        too_long: `truncate_right` keeps the beginning of a longer row; `truncate_left` its end and,
            where it is a token that is only read (BOS, say), its first one; `drop` leaves the row
            out; `split` cuts it into pieces, of which each learns what the last one did not get
            to, and begins with the token before that.

    Returns:
        The examples in which anything is left to learn.
    """
    if len(ids) <= max_length:
        return _keep_learned([(ids, labels)])
    if too_long == "drop":
        return []
    if too_long == "truncate_right":
        return _keep_learned([(ids[:max_length], labels[:max_length])])
    if too_long == "truncate_left":
        num_first = 1 if labels[0] == IGNORED else 0
        start = len(ids) - (max_length - num_first)
        last_ids = [*ids[:num_first], *ids[start:]]
        last_labels = [*labels[:num_first], *labels[start:]]
        return _keep_learned([(last_ids, last_labels)])

    pieces = [(ids[:max_length], labels[:max_length])]
    for start in range(max_length, len(ids), max_length - 1):
        stop = start + max_length - 1
        piece_ids = ids[start - 1 : stop]
        piece_labels = [IGNORED, *labels[start:stop]]
        pieces.append((piece_ids, piece_labels))
    return _keep_learned(pieces)


def _keep_learned(rows: list[TokenRow]) -> list[TokenRow]:
    """Keep the rows in which a token is learned from one before it."""
    kept = []
    for ids, labels in rows:
        if any(label != IGNORED for label in labels[1:]):
            kept.append((ids, labels))
    return kept
