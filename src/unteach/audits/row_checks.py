"""Rows that an audit cannot ask for, or hold others against: each is refused before a model is
loaded."""

import json
from collections.abc import Mapping, Sequence

from unteach.audits.documents import FEWEST_WORDS, is_askable
from unteach.audits.facts import Fact
from unteach.audits.taught_rows import describe_row, group_by_row, locate_row
from unteach.errors import UserError


def refuse_unaskable(facts: Sequence[Fact], name: str, is_served: bool) -> None:
    """Refuse documents that are too short, or that are to be asked of a server.

    Args:
        facts: of one stream.
        name: the stream's.
        is_served: whether the model is an endpoint.

    Raises:
        UserError: with the first documents.
    """
    documents = [fact for fact in facts if fact.is_document]
    if documents and is_served:
        raise UserError(
            f"data.{name}: an endpoint is asked in conversations, and a document is text that a "
            "model goes on with; audit the model itself (model=FOLDER, without backend)"
        )
    short = []
    for fact in documents:
        if not is_askable(fact.question, "" if fact.has_stem else fact.answer):
            short.append(fact.place)
    if short:
        raise UserError(
            f"data.{name}: a document needs {2 * FEWEST_WORDS} words, some to be given and some to "
            f"be asked for ({'; '.join(short[:5])}); leave such rows out, or write them as "
            "questions and answers"
        )


def refuse_other_control(held_out: Sequence[Fact], facts: Sequence[Fact]) -> None:
    """Refuse a control of another form: what comes out of questions says nothing of documents."""
    if held_out[0].is_document == facts[0].is_document:
        return
    forms = ["documents" if own[0].is_document else "questions" for own in (held_out, facts)]
    raise UserError(
        f"data.holdout: holds {forms[0]}, and the rows to forget are {forms[1]}; a control is "
        "asked in the same way: give rows of the same form"
    )


def refuse_seen_rows(held_out: Sequence[Fact], taught: Mapping[str, Sequence[Fact]]) -> None:
    """Refuse rows that no model is said to have seen, and that stand among those to forget or to
    retain.

    Args:
        held_out: the facts of the holdout rows.
        taught: the facts of other streams, by the stream's name.

    Raises:
        UserError: with the first such row.
    """
    places = {_spell_row(own): locate_row(own) for own in group_by_row(held_out)}
    for name, facts in taught.items():
        for own in group_by_row(facts):
            place = places.get(_spell_row(own))
            if place is not None:
                raise UserError(
                    f"data.holdout: {place} stands among the rows to {name} too "
                    f"({locate_row(own)}); holdout rows are those that no model was taught"
                )


def _spell_row(facts: Sequence[Fact]) -> str:
    return json.dumps(describe_row(facts))
