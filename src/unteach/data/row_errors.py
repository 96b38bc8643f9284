"""What is wrong with the rows of a source, all of it said at once and with row numbers, before
anything is trained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from unteach.data.io import sources, tables
from unteach.errors import UserError
from unteach.wording import counted

SHOWN = 8
"""Row numbers that are listed; how many more there are is told."""
KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}


def no_row_left(where: str, dropped: Mapping[str, int]) -> str:
    """What is said where every row of a source is left out. dropped: why -> how many rows."""
    reasons = [f"{counted(number, 'row')} dropped, {why}" for why, number in dropped.items()]
    return f"{where}: no row can be used: {'; '.join(reasons) or 'there are none'}"


class RowErrors:
    """Collects what rows cannot be used. `empty`: they are dropped, and counted. `wrong`: the user
    must mend them."""

    def __init__(self, where: str, rows: list[sources.Row]):
        self.where, self.rows = where, rows
        self.empty: dict[str, list[int]] = {}
        self.wrong: dict[str, list[int]] = {}
        self.special: list[int] = []
        """rows in which special tokens are written, which is read as text"""

    def text(self, value: object, column: str, number: int, needed: bool = True) -> bool:
        """Whether a cell is text with something in it; notes what it is otherwise, where that
        matters."""
        if tables.missing(value):
            if needed:
                self.drop(f"nothing in {column}", number)
        elif not isinstance(value, str):
            self.add(
                f"{column} must be text, and is {KINDS.get(type(value), type(value).__name__)}",
                number,
            )
        elif not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            self.add(f"{column} holds half a character, a lone surrogate", number)
        else:
            return True
        return False

    def texts(self, cells: Sequence[Any], columns: Sequence[str], number: int) -> bool:
        """Whether all of a row's cells are text with something in them; each that is not is
        noted."""
        pairs = zip(cells, columns, strict=True)
        are_text = [self.text(cell, column, number) for cell, column in pairs]
        return all(are_text)

    def drop(self, what: str, number: int) -> None:
        """Notes a row that is left out, once for each reason: both answers of a pair may have the
        same."""
        numbers = self.empty.setdefault(what, [])
        if not numbers or numbers[-1] != number:
            numbers.append(number)

    def add(self, what: str, number: int) -> None:
        """Notes a row that the user must mend."""
        self.wrong.setdefault(what, []).append(number)

    def refuse(self) -> None:
        """Raises UserError with all that is wrong, if anything is."""
        if self.wrong:
            lines = [f"{what} ({self.listed(numbers)})" for what, numbers in self.wrong.items()]
            raise UserError(
                f"{self.where}: " + ("\n  ".join(["", *lines]) if len(lines) > 1 else lines[0])
            )

    def counted(self) -> Counter[str]:
        """The rows that are dropped, by reason and numbers."""
        return Counter(
            {
                f"{what} ({self.listed(numbers)})": len(numbers)
                for what, numbers in self.empty.items()
            }
        )

    def listed(self, numbers: list[int]) -> str:
        """`lines 3, 7, 9 and 4 more` of a file or, where rows have no place in one, their numbers
        from 1."""
        unit, shown = "row", [str(number + 1) for number in numbers[:SHOWN]]
        if isinstance(self.rows, sources.Rows):
            places = [self.rows.places[number] for number in numbers[:SHOWN]]
            if not any(place.number for place in places):  # a text file is one row
                whole = (
                    "the whole file"
                    if len(self.rows) == 1
                    else ", ".join(place.file for place in places)
                )
                return whole + (f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else "")
            one = len({place.file for place in self.rows.places}) == 1
            unit = places[0].unit if one else ""
            shown = [str(place.number if one else place) for place in places]
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        return f"{unit}{'s' if unit and len(numbers) > 1 else ''} {', '.join(shown)}{more}".strip()
