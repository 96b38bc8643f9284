"""Which rows of a source a stream takes: those held out or the others, at most so many, those to
forget."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from unteach.data.rows import Place, PlacedRow, Rows
from unteach.errors import UserError
from unteach.seeds import permutation
from unteach.wording import format_count, quote_value

FLAGS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class RowSelection:
    """A choice of rows, a function of the seed and of how many rows there are.

    Args:
        seed: the run's.
        held_out: the share of all rows that is for validation.
        held: take these, and not the others.
        most: at most so many, drawn by the seed, in their order.
        flag: a column of 0 and 1.
        flagged: take its rows with 1, or those with 0.
        by_line: a text file is one row a line.
        tokenized: so many rows are tokenised at once, for a look at them, and the others when
            their tokens are needed; None tokenises all.
        token_cache: a folder in which the tokens of many rows are kept; None keeps none.
    """

    seed: int = 0
    held_out: float = 0.0
    held: bool = False
    most: int | None = None
    flag: str | None = None
    flagged: bool = False
    by_line: bool = False
    tokenized: int | None = None
    token_cache: str | None = None

    def select_indices(self, num_rows: int) -> list[int]:
        """Select among `num_rows` rows; give their indices, ascending."""
        selected = list(range(num_rows))
        if self.held_out:
            # At least one row is held out, of however few there are.
            num_held_out = max(1, round(self.held_out * num_rows))
            order = permutation(num_rows, self.seed, "held out")
            held_out = set(order[:num_held_out])
            selected = [index for index in selected if (index in held_out) == self.held]
        if self.most is not None and self.most < len(selected):
            order = permutation(len(selected), self.seed, "max_rows", self.held)
            selected = [selected[k] for k in sorted(order[: self.most])]
        return selected

    def select(self, placed_rows: Iterable[PlacedRow], where: str) -> Rows:
        """Select among rows; refuse where none is left."""
        rows = Rows(placed_rows)
        if self.flag is not None:
            rows = self._select_flagged(rows, self.flag, where)
        selected = self.select_indices(len(rows))
        if not selected:
            raise UserError(
                f"{where}: of {format_count(len(rows), 'row')} none is left to train on once "
                f"{self.held_out:g} of them are held out"
            )
        return rows if len(selected) == len(rows) else rows.take(selected)

    def _select_flagged(
        self,
        rows: Rows,
        column: str,
        where: str,
    ) -> Rows:
        """Select the rows that a column marks; refuse where there are none."""
        selected = []
        for row_index, row in enumerate(rows):
            place = rows.locate(row_index)
            if parse_flag(row.get(column), column, place) == self.flagged:
                selected.append(row_index)
        if not selected:
            raise UserError(f"{where}: no row has {int(self.flagged)} in the column {column!r}")
        return rows.take(selected)

    def drop_limits(self) -> "RowSelection":
        """Give the same selection without any row left out."""
        return replace(
            self,
            held_out=0.0,
            held=False,
            most=None,
            flag=None,
        )


def parse_flag(cell: object, column: str, place: Place | str) -> bool:
    """Read a cell of 0 or 1 (true or false)."""
    if isinstance(cell, float) and cell in (0, 1):
        text = str(int(cell))
    else:
        text = str(cell).strip().lower()
    if text not in FLAGS:
        raise UserError(f"{place}: {column} must be 0 or 1 in every row, not {quote_value(cell)}")
    return FLAGS[text]
