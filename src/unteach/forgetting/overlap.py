"""People, and whatever else a column `entity` names, who are to be forgotten and to be kept."""

import re
import unicodedata
from collections.abc import Sequence

from unteach.audits.facts import read_columns, read_texts
from unteach.config.audits import ENTITY
from unteach.data.streams import Stream
from unteach.errors import UserError

MOST_NAMED = 5
"""Places that a message names."""


def refuse_kept_entities(forget: Stream, retain: Stream) -> None:
    """Refuse rows to keep that are about an entity of the rows to forget: in their own column
    `entity`, or by its name in their words. Case and white space aside.

    Raises:
        UserError: there are such rows; it says where.
    """
    entities = {name for name in _list_entities(forget) if name}
    if not entities:
        return
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(entities)))})(?!\w)")
    own_entities = _list_entities(retain)
    places = []
    for index, (question, answer) in enumerate(read_texts(retain)):
        words = normalise(f"{question}\n{answer}")
        if own_entities[index] in entities or pattern.search(words):
            places.append(retain.locate(index))
    if places:
        raise UserError(
            f"retain: rows about what is to be forgotten (column {ENTITY}) are among the rows to "
            f"keep: {_name_places(places)}; take them out of one of the two files"
        )


def refuse_kept_rows(forget: Sequence[tuple[str, str]], retain: Stream) -> None:
    """Refuse rows to keep that an earlier request took out.

    Args:
        forget: the questions and answers of the earlier one.
    """
    gone = {normalise(f"{question}\n{answer}") for question, answer in forget}
    places = []
    for index, (question, answer) in enumerate(read_texts(retain)):
        if normalise(f"{question}\n{answer}") in gone:
            places.append(retain.locate(index))
    if places:
        raise UserError(
            "retain: rows that an earlier request took out of this model are among the rows to "
            f"keep: {_name_places(places)}; take them out"
        )


def _name_places(places: Sequence[str]) -> str:
    named = ", ".join(places[:MOST_NAMED])
    more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
    return f"{named}{more}"


def _list_entities(stream: Stream) -> Sequence[str]:
    """List the entity of each row, normalised; "" where its columns name none."""
    rows = (read_columns(stream, index) for index in range(len(stream)))
    return [normalise(str(row.get(ENTITY) or "")) for row in rows]


def normalise(text: str) -> str:
    """Write a text without what spelling alone changes: one form of letters, small, and single
    spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
