"""People, and whatever else a column `entity` names, who are to be forgotten and to be kept."""

import re
from collections.abc import Sequence

from unteach.audits.fact_rows import FactRow, read_rows
from unteach.audits.session import build_stream
from unteach.config.audits import ENTITY
from unteach.config.schema import AuditConfig
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.forgetting.earlier import EarlierRequest
from unteach.forgetting.row_search import normalize
from unteach.models.loading import LoadedModel

MOST_NAMED = 5
"""Places that a message names."""


def refuse_overlap(
    composed: AuditConfig, empty: LoadedModel, earlier: EarlierRequest | None
) -> None:
    """Refuse rows to keep that are about what is to be forgotten, or was.

    Args:
        composed: the audit before anything is changed, with the files of the request.
        empty: the model without its weights.
        earlier: the request that the model came of.
    """
    forget, _ = build_stream(composed, empty, "forget")
    retain, _ = build_stream(composed, empty, "retain")
    if retain is None:
        return
    assert forget is not None, "the configuration is checked for it"
    refuse_kept_entities(forget, retain)
    if earlier is not None:
        refuse_kept_rows(earlier.list_words(), retain)


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
