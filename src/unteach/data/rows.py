"""Rows and where they stand: the file and the line, so that a message can name them."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

from unteach.data.packed_list import PackedList

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


class Rows(Sequence[Row]):
    """Rows that remember where each of them stands.

    Each is made anew whenever it is asked for.
    """

    def __init__(self, placed_rows: Iterable[PlacedRow] = ()):
        self._packed: PackedList[Row] = PackedList()
        self._files: list[tuple[str, str]] = []
        """(file, unit) of places"""
        self._file_indices = array("i")
        self._line_numbers = array("q")
        file_indices: dict[tuple[str, str], int] = {}
        for place, row in placed_rows:
            self._packed.append(row)
            file = (place.file, place.unit)
            self._file_indices.append(file_indices.setdefault(file, len(file_indices)))
            self._line_numbers.append(place.number)
        self._files += file_indices

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, row_index: int) -> Row: ...
    @overload
    def __getitem__(self, row_index: slice) -> "Rows": ...
    def __getitem__(self, row_index: int | slice) -> "Row | Rows":
        if isinstance(row_index, slice):
            return self.take(range(*row_index.indices(len(self))))
        return self._packed[row_index]

    def __eq__(self, others: object) -> bool:
        """Whether these are the same rows, wherever they stand."""
        return self._packed == others

    __hash__ = None  # type: ignore[assignment]

    def locate(self, row_index: int) -> Place:
        """Say where a row stands."""
        file, unit = self._files[self._file_indices[row_index]]
        return Place(file, unit, self._line_numbers[row_index])

    def hash_rows(self) -> str:
        """Compute the sha256 of the rows in order, wherever they stand."""
        digest = hashlib.sha256()
        for row_index in range(len(self)):
            digest.update(self._packed.view_bytes(row_index))
        return digest.hexdigest()

    def count_files(self) -> int:
        """Count the files in which these rows stand."""
        return len({self._files[index][0] for index in set(self._file_indices)})

    def take(self, row_indices: Iterable[int]) -> "Rows":
        """Take some of the rows, with their places; the bytes of all are shared."""
        row_indices = array("q", row_indices)
        taken = Rows()
        taken._packed = self._packed.take(row_indices)
        taken._files = self._files
        for row_index in row_indices:
            taken._file_indices.append(self._file_indices[row_index])
            taken._line_numbers.append(self._line_numbers[row_index])
        return taken


def locate_row(rows: Sequence[Row], row_index: int, where: str) -> str:
    """Say where a row of a list stands: its file and line, or its number from 1."""
    if isinstance(rows, Rows):
        return str(rows.locate(row_index))
    return f"{where}: row {row_index + 1}"
