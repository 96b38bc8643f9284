"""What is wrong with the rows of a source: all of it reported at once and with row numbers, before
anything is trained."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unteach.data.io.cells import describe_type, is_missing
from unteach.data.rows import Place, Row, Rows
from unteach.errors import UserError
from unteach.wording import format_count

SURROGATE = re.compile("[\ud800-\udfff]")
MAX_LISTED = 8
"""Rows that a message lists; of more than these it says how many."""


def explain_no_row_left(where: str, num_dropped: Mapping[str, int]) -> str:
    """Say that every row of a source is dropped.

    Args:
        where: what the source is called.
        num_dropped: how many rows are dropped, by reason.
    """
    reasons = []
    for reason, count in num_dropped.items():
        num_rows = format_count(count, "row")
        reasons.append(f"{num_rows} dropped, {reason}")
    why = "; ".join(reasons) or "there are none"
    return f"{where}: no row can be used: {why}"


class RowErrors:
    """Collects the rows of a source that cannot be used.

    Args:
        where: what the source is called.
        rows: its rows, whose places messages name.
    """

    def __init__(self, where: str, rows: Sequence[Row]):
        self.where = where
        self.rows = rows
        self.dropped: dict[str, list[int]] = {}
        """indices of the rows that are left out, by reason"""
        self.invalid: dict[str, list[int]] = {}
        """indices of the rows that the user must mend, by what is wrong"""
        self.special: list[int] = []
        """indices of the rows in which special tokens are written, which is read as text"""
        self.cut: list[int] = []
        """index of the row of each answer that was cut"""
        self.unshown: dict[str, list[int]] = {}
        """keys of turns that hold text which the chat template does not show -> their rows"""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the rows behind: another process has them."""
        return {**vars(self), "rows": ()}

    def list_notes(self) -> dict[str, Any]:
        """List what is noted of rows that need no mending, as JSON has it."""
        return {
            "dropped": self.dropped,
            "special": self.special,
            "cut": self.cut,
            "unshown": self.unshown,
        }

    def read_notes(self, notes: dict[str, Any]) -> None:
        """Read what `list_notes` listed of the same rows."""
        self.dropped, self.unshown = notes["dropped"], notes["unshown"]
        self.special, self.cut = notes["special"], notes["cut"]

    def extend(self, others: "RowErrors") -> None:
        """Add what is noted of the rows after these."""
        for notes, more in (
            (self.dropped, others.dropped),
            (self.invalid, others.invalid),
            (self.unshown, others.unshown),
        ):
            for name, row_indices in more.items():
                notes.setdefault(name, []).extend(row_indices)
        self.special += others.special
        self.cut += others.cut

    def check_text(
        self,
        cell: object,
        column: str,
        row_index: int,
        is_required: bool = True,
    ) -> bool:
        """Whether a cell is text with something in it; note what it is otherwise.

        Args:
            cell: what stands in the column.
            column: its name.
            row_index: the row.
            is_required: whether a row with nothing in the cell is dropped.
        """
        if is_missing(cell):
            if is_required:
                self.drop(f"nothing in {column}", row_index)
            return False
        if not isinstance(cell, str):
            self.add(f"{column} must be text, and is {describe_type(cell)}", row_index)
            return False
        if not cell.isascii() and SURROGATE.search(cell):
            self.add(f"{column} holds half a character, a lone surrogate", row_index)
            return False
        return True

    def check_texts(
        self,
        cells: Sequence[object],
        columns: Sequence[str],
        row_index: int,
    ) -> bool:
        """Whether all of a row's cells are text with something in them; note each that is not."""
        are_text = []
        for cell, column in zip(cells, columns, strict=True):
            are_text.append(self.check_text(cell, column, row_index))
        return all(are_text)

    def drop(self, reason: str, row_index: int) -> None:
        """Note a row that is left out, once for each reason: both answers of a pair may have it."""
        row_indices = self.dropped.setdefault(reason, [])
        if not row_indices or row_indices[-1] != row_index:
            row_indices.append(row_index)

    def add(self, message: str, row_index: int) -> None:
        """Note a row that the user must mend."""
        self.invalid.setdefault(message, []).append(row_index)

    def refuse(self) -> None:
        """Raise UserError with all that is wrong, if anything is."""
        if not self.invalid:
            return
        lines = []
        for message, row_indices in self.invalid.items():
            places = self.list_places(row_indices)
            lines.append(f"{message} ({places})")
        if len(lines) > 1:
            lines.insert(0, "")
        raise UserError(f"{self.where}: " + "\n  ".join(lines))

    def count_dropped(self) -> Counter[str]:
        """Count the rows that are dropped, by the reason with the places of the first of them."""
        counts: Counter[str] = Counter()
        for reason, row_indices in self.dropped.items():
            places = self.list_places(row_indices)
            counts[f"{reason} ({places})"] = len(row_indices)
        return counts

    def list_places(self, row_indices: Sequence[int]) -> str:
        """List rows as `lines 3, 7, 9 and 4 more` of a file.

        Rows that come from no file are listed by their numbers from 1.
        """
        num_more = len(row_indices) - MAX_LISTED
        more = f" and {num_more} more" if num_more > 0 else ""
        first = row_indices[:MAX_LISTED]
        if not isinstance(self.rows, Rows):
            numbers = [index + 1 for index in first]
            return _pluralize("row", row_indices) + _join(numbers) + more

        places = [self.rows.locate(index) for index in first]
        if not any(place.number for place in places):
            # Each text file is one row.
            if len(self.rows) == 1:
                return "the whole file" + more
            return _join(_list_files(places)) + more
        if self.rows.count_files() > 1:
            return _join(places) + more
        numbers = [place.number for place in places]
        return _pluralize(places[0].unit, row_indices) + _join(numbers) + more


def _pluralize(unit: str, row_indices: Sequence[int]) -> str:
    """Write what the rows are counted in, before their numbers."""
    return f"{unit} " if len(row_indices) == 1 else f"{unit}s "


def _list_files(places: Iterable[Place]) -> list[str]:
    """List the file of each place."""
    return [place.file for place in places]


def _join(items: Iterable[object]) -> str:
    """Join items by commas."""
    return ", ".join(str(item) for item in items)
