"""What becomes of a row that is longer than max_length: one function, for training and for
tokenised files alike."""

from collections.abc import Sequence
from typing import Literal

IGNORED = -100
TooLong = Literal["truncate_right", "truncate_left", "drop", "split"]
Tokens = tuple[Sequence[int], Sequence[int]]
"""input_ids and labels of one row."""


def truncate(
    ids: Sequence[int], labels: Sequence[int], max_length: int, too_long: TooLong
) -> list[Tokens]:
    """The examples that a row gives, each of at most max_length tokens; none where nothing of it is
    left to learn.

    truncate_right keeps its beginning; truncate_left its end and, where it is a token that is only
    read (BOS, say), its first one; drop leaves it out; split cuts it into pieces, of which each
    learns what the last one did not get to, and begins with the token before that.
    """
    if len(ids) <= max_length:
        return learnable([(ids, labels)])
    if too_long == "drop":
        return []
    if too_long == "truncate_right":
        return learnable([(ids[:max_length], labels[:max_length])])
    if too_long == "truncate_left":
        lead = 1 if labels[0] == IGNORED else 0
        kept = len(ids) - (max_length - lead)
        return learnable([([*ids[:lead], *ids[kept:]], [*labels[:lead], *labels[kept:]])])
    pieces: list[Tokens] = [(ids[:max_length], labels[:max_length])]
    for start in range(max_length, len(ids), max_length - 1):
        stop = start + max_length - 1
        pieces.append((ids[start - 1 : stop], [IGNORED, *labels[start:stop]]))
    return learnable(pieces)


def learnable(rows: list[Tokens]) -> list[Tokens]:
    """Those in which a token is learned from one before it."""
    return [(ids, labels) for ids, labels in rows if any(label != IGNORED for label in labels[1:])]
