"""Pieces of documents into rows of max_length tokens: best-fit decreasing (arXiv:2404.10830)."""

import bisect
from collections.abc import Sequence


def pack_best_fit(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Put pieces into rows of at most max_length tokens.

    The longest first, each into the row with the least space that still takes it.

    Args:
        lengths: tokens of each piece.
        max_length: tokens of a row.

    Returns:
        The indices of the pieces of each row. Rows, and the pieces in them, are in the order of
        the indices, so that the result is a function of `lengths` alone.
    """
    assert not lengths or max(lengths) <= max_length
    rows: list[list[int]] = []
    # The free spaces that any row has, ascending, and the rows that have each of them.
    spaces: list[int] = []
    rows_with_space: dict[int, list[int]] = {}

    longest_first = sorted(range(len(lengths)), key=lambda piece: (-lengths[piece], piece))
    for piece in longest_first:
        length = lengths[piece]
        least = bisect.bisect_left(spaces, length)
        if least == len(spaces):
            # No row takes it: it opens one.
            row = len(rows)
            space = max_length
            rows.append([])
        else:
            space = spaces[least]
            row = rows_with_space[space].pop()
            if not rows_with_space[space]:
                del rows_with_space[space]
                del spaces[least]

        rows[row].append(piece)
        space_left = space - length
        if space_left not in rows_with_space:
            bisect.insort(spaces, space_left)
            rows_with_space[space_left] = []
        rows_with_space[space_left].append(row)
    return sorted(sorted(row) for row in rows)
