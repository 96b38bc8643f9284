"""Rows and where they stand: the file and the line, so that a message can name them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

Row = dict[str, Any]


class Place(NamedTuple):
    """Where a row stands: the file, `line` or `row`, and which one, counted from 1.

    Number 0 is the whole file.
    """

    file: str
    unit: str
    number: int

    def __str__(self) -> str:
        if not self.number:
            return self.file
        return f"{self.file}, {self.unit} {self.number}"


PlacedRow = tuple[Place, Row]


class Rows(list[Row]):
    """Rows that remember where each of them stands."""

    def __init__(self, placed_rows: Iterable[PlacedRow]):
        super().__init__()
        self.places: list[Place] = []
        for place, row in placed_rows:
            self.append(row)
            self.places.append(place)

    def take(self, row_indices: Iterable[int]) -> "Rows":
        """Take some of the rows, with their places."""
        return Rows((self.places[index], self[index]) for index in row_indices)


def locate_row(rows: list[Row], row_index: int, where: str) -> str:
    """Say where a row of a list stands: its file and line, or its number from 1."""
    if isinstance(rows, Rows):
        return str(rows.places[row_index])
    return f"{where}: row {row_index + 1}"
