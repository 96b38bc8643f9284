"""What is wrong with the rows of a source, all of it said at once and with row numbers, before anything is trained."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from unteach.data import sources
from unteach.errors import UserError

SHOWN = 8
"""Row numbers that are listed; how many more there are is told."""


class Faults:
    """Collects what rows cannot be used. `empty`: they are dropped, and counted. `wrong`: the user must mend them."""

    def __init__(self, where: str, rows: list[sources.Row]):
        self.where, self.rows = where, rows
        self.empty: dict[str, list[int]] = {}
        self.wrong: dict[str, list[int]] = {}

    def text(self, value: Any, column: str, number: int) -> bool:
        """Whether a cell is text with something in it; notes what it is otherwise."""
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            self.empty.setdefault(f"nothing in {column}", []).append(number)
        elif not isinstance(value, str):
            self.wrong.setdefault(f"{column} must be text, and is {type(value).__name__}", []).append(number)
        else:
            return True
        return False

    def texts(self, cells: Sequence[Any], columns: Sequence[str], number: int) -> bool:
        """Whether all of a row's cells are text with something in them; each that is not is noted."""
        return all([self.text(cell, column, number) for cell, column in zip(cells, columns, strict=True)])  # noqa: C419

    def add(self, what: str, number: int) -> None:
        """Notes a row that the user must mend."""
        self.wrong.setdefault(what, []).append(number)

    def refuse(self) -> None:
        """Raises UserError with all that is wrong, if anything is."""
        if self.wrong:
            lines = [f"{what} ({self.listed(numbers)})" for what, numbers in self.wrong.items()]
            raise UserError(f"{self.where}: " + ("\n  ".join(["", *lines]) if len(lines) > 1 else lines[0]))

    def counted(self) -> Counter[str]:
        """The rows that are dropped, by reason and numbers."""
        return Counter({f"{what} ({self.listed(numbers)})": len(numbers) for what, numbers in self.empty.items()})

    def listed(self, numbers: list[int]) -> str:
        """`lines 3, 7, 9 and 4 more` of a file or, where rows have no place in one, their numbers from 0."""
        unit, counted = "row", numbers
        if isinstance(self.rows, sources.Rows):
            unit, counted = self.rows.places[0].unit, [self.rows.places[number].number for number in numbers]
        shown = ", ".join(map(str, counted[:SHOWN]))
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        return f"{unit} {shown}" if len(numbers) == 1 else f"{unit}s {shown}{more}"
