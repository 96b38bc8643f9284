"""What a cell of a table holds: nothing, text, or something else that a message must name."""

import math
import re
from collections.abc import Iterable

from unteach.data.rows import Place, Row
from unteach.errors import UserError, find_nearest
from unteach.wording import quote_value

TYPE_NAMES = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?|nan|true|false", re.IGNORECASE)


def is_missing(cell: object) -> bool:
    """Whether a cell holds nothing: null, NaN, or no more than white space."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def describe_type(cell: object) -> str:
    """Say what kind of value a cell holds."""
    return TYPE_NAMES.get(type(cell), type(cell).__name__)


def holds_words(cell: object) -> bool:
    """Whether a cell is text that is no number, or a list or mapping with such text in it."""
    if isinstance(cell, str):
        return bool(cell.strip()) and not NUMBER.fullmatch(cell.strip())
    if isinstance(cell, dict):
        return any(holds_words(value) for value in cell.values())
    return isinstance(cell, list) and any(holds_words(value) for value in cell)


def read_text(row: Row, column: str, place: Place | str) -> str:
    """Read a cell as text, "" where it holds nothing.

    Raises:
        UserError: there is no such cell, or it holds a number, a list or half a character.
    """
    if column not in row:
        raise UserError(explain_no_column(str(place), column, row))
    cell = row[column]
    if is_missing(cell):
        return ""
    if not isinstance(cell, str):
        kind = describe_type(cell)
        raise UserError(
            f"{place}: the column {column!r} holds {kind} ({quote_value(cell)}) where "
            "text is expected"
        )
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: the column {column!r} holds half a character (a lone surrogate)"
        ) from None
    return cell


def explain_no_column(where: str, column: str, columns: Iterable[str]) -> str:
    """Say that rows have no such column, which ones they have, and which may be meant."""
    names = [str(name) for name in columns]
    guess = find_nearest(column, names)
    hint = f"; did you mean {guess}?" if guess else ""
    there_are = ", ".join(names)
    return f"{where}: no column {column!r}; its columns: {there_are}{hint}"
