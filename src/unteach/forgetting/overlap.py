"""People, and whatever else a column `entity` names, who are to be forgotten and to be kept."""

import re
from collections.abc import Sequence

from unteach.audits.fact_rows import FactRow, read_rows
from unteach.config.audits import ENTITY
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.forgetting.row_search import normalize

MOST_NAMED = 5
"""Places that a message names."""


def refuse_kept_entities(forget: Stream, retain: Stream) -> None:
    """Refuse rows to keep that are about an entity of the rows to forget: in their own column
    `entity`, or by its name in their words. Case and white space aside.

    Raises:
        UserError: there are such rows; it says where.
    """
    entities = {_find_entity(row) for row in read_rows(forget)} - {""}
    if not entities:
        return
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(entities)))})(?!\w)")
    places = []
    for row in read_rows(retain):
        if _find_entity(row) in entities or pattern.search(normalize(row.words)):
            places.append(row.place)
    if places:
        raise UserError(
            f"retain: rows about what is to be forgotten (column {ENTITY}) are among the rows to "
            f"keep: {_name_places(places)}; take them out of one of the two files"
        )


def refuse_kept_rows(forget: Sequence[str], retain: Stream) -> None:
    """Refuse rows to keep that an earlier request took out.

    Args:
        forget: all that is said in each row of the earlier one.
    """
    gone = {normalize(words) for words in forget}
    places = []
    for row in read_rows(retain):
        if normalize(row.words) in gone:
            places.append(row.place)
    if places:
        raise UserError(
            "retain: rows that an earlier request took out of this model are among the rows to "
            f"keep: {_name_places(places)}; take them out"
        )


def _name_places(places: Sequence[str]) -> str:
    named = ", ".join(places[:MOST_NAMED])
    more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
    return f"{named}{more}"


def _find_entity(row: FactRow) -> str:
    """Find the entity that a row's column names, normalised; "" where it names none."""
    return normalize(str(row.columns.get(ENTITY) or ""))
