"""Which rows of a source a stream takes: those held out or the others, so many of them, those to
forget."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from unteach.errors import UserError
from unteach.seeds import permutation
from unteach.wording import counted, shown

FLAGS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class RowSelection:
    """A function of the seed and of how many rows there are.

    held_out: the share of all rows that is for validation; held: take these, and not the others.
    most: at most so many, drawn by the seed, in their order. flag: a column of 0 and 1; flagged:
    take its rows with 1, or those with 0.
    by_line: a text file is one row a line. tokenized: so many rows are tokenised at once, for a
    look at them, and the others when they are asked for; None tokenises all.
    """

    seed: int = 0
    held_out: float = 0.0
    held: bool = False
    most: int | None = None
    flag: str | None = None
    flagged: bool = False
    by_line: bool = False
    tokenized: int | None = None

    def numbers(self, count: int) -> list[int]:
        """The rows it takes of `count`."""
        taken = list(range(count))
        if self.held_out:
            size = min(count, max(1, round(self.held_out * count)))
            apart = set(permutation(count, self.seed, "held out")[:size])
            taken = [number for number in taken if (number in apart) == self.held]
        if self.most is not None and self.most < len(taken):
            drawn = permutation(len(taken), self.seed, "max_rows", self.held)[: self.most]
            taken = [taken[place] for place in sorted(drawn)]
        return taken

    def of(
        self, placed: Iterable[tuple[Any, dict[str, Any]]], where: str
    ) -> list[tuple[Any, dict[str, Any]]]:
        """The rows it takes; an error where none is left."""
        rows = list(placed)
        if self.flag is not None:
            rows = [
                (place, row)
                for place, row in rows
                if flag(row.get(self.flag), self.flag, place) == self.flagged
            ]
            if not rows:
                raise UserError(
                    f"{where}: no row has {int(self.flagged)} in the column {self.flag!r}"
                )
        taken = [rows[number] for number in self.numbers(len(rows))]
        if not taken:
            raise UserError(
                f"{where}: of {counted(len(rows), 'row')} none is left to train on once "
                f"{self.held_out:g} of them are held out"
            )
        return taken

    def whole(self) -> "RowSelection":
        """The same without any row left out."""
        return replace(self, held_out=0.0, held=False, most=None, flag=None)


def flag(value: object, column: str, place: Any) -> bool:
    """A cell of 0 or 1 (true or false)."""
    said = (
        str(int(value))
        if isinstance(value, float) and value in (0, 1)
        else str(value).strip().lower()
    )
    if said not in FLAGS:
        raise UserError(f"{place}: {column} must be 0 or 1 in every row, not {shown(value)}")
    return FLAGS[said]
