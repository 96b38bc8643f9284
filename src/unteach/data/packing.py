"""Pieces of documents into rows of max_length tokens: best-fit decreasing (arXiv:2404.10830)."""

import bisect
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """The pieces, by their numbers, that share a row; no row has more than `room` tokens.

    The longest first, each into the row with the least space that still takes it. Rows and the
    pieces in them are in the order of the pieces' numbers, so that the result is a function of
    `lengths` alone.
    """
    assert not lengths or max(lengths) <= room
    rows: list[list[int]] = []
    spaces: list[int] = []  # those that any row has, ascending
    with_space: dict[int, list[int]] = {}
    for piece in sorted(range(len(lengths)), key=lambda k: (-lengths[k], k)):
        place = bisect.bisect_left(spaces, lengths[piece])
        if place == len(spaces):
            row, space = len(rows), room
            rows.append([])
        else:
            space = spaces[place]
            row = with_space[space].pop()
            if not with_space[space]:
                del with_space[space], spaces[place]
        rows[row].append(piece)
        left = space - lengths[piece]
        if left not in with_space:
            bisect.insort(spaces, left)
            with_space[left] = []
        with_space[left].append(row)
    return sorted(sorted(row) for row in rows)
