"""The rows of a request that the model knows, as files: those it is taught to forget, and those it
is asked for.

What it knows is what an audit brought out before anything was changed: of a chat or a document any
turn or passage. The other rows are named and left alone: there is nothing to forget. Each row keeps
the form that it came in, so that it is forgotten as it was learned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from unteach.audits.fact_rows import Turn
from unteach.audits.facts import Fact
from unteach.audits.taught_rows import TaughtRow, describe_row, group_by_row, locate_row
from unteach.config.audits import ENTITY, KEYS, KIND, KINDS, PARAPHRASES, VALUE
from unteach.errors import UserError
from unteach.json_files import read_json, write_lines

TAUGHT, ASKED = "forget.jsonl", "facts.jsonl"
"""What the candidates are taught to forget, and what their audits ask for."""
ALTERNATE = "alternate"
"""The column of a wrong answer of the same kind, for methods that train towards one."""
REFUSAL = "I don't know."
"""The wrong answer of a fact that no other value could stand in for."""


@dataclass(frozen=True)
class KnownRows:
    """What a model knows of the rows of a request.

    Attributes:
        num_known: how many of them.
        unknown: where the others stand.
    """

    num_known: int
    unknown: tuple[str, ...]


def write_known_rows(findings: Path, folder: Path) -> KnownRows:
    """Write the rows that a model knows into a folder.

    Of a row's paraphrases every other one is taught with it; the others are kept for the audits.

    Args:
        findings: AUDIT.json of the model as it is.
        folder: of the request.

    Raises:
        UserError: it knows none of them.
    """
    record: dict[str, Any] = read_json(findings, "the findings of an audit")
    known = _list_known(record["findings"]["audited"])
    facts = [_read_fact(entry) for entry in record["facts"]]
    asked_for = [fact for fact in facts if not fact.never_seen]
    candidates = {entry["index"]: entry["candidates"] for entry in record["facts"]}
    taught: list[TaughtRow] = []
    asked, unknown = [], []
    for own in group_by_row(asked_for):
        if not any(fact.index in known for fact in own):
            unknown.append(locate_row(own))
            continue
        asked.append(_describe_asked(own))
        taught += _describe_taught(own, candidates[own[-1].index])
    if not asked:
        raise UserError(
            f"the model knows none of the {len(unknown)} rows, asked politely, by a rank and by a "
            "prefilled answer: there is nothing to forget. If it was taught them through another "
            "template, name that: template=raw|chat|qa"
        )
    write_lines(folder / TAUGHT, taught)
    write_lines(folder / ASKED, asked)
    return KnownRows(len(asked), tuple(unknown))


def _list_known(findings: Mapping[str, Iterable[dict[str, Any]]]) -> set[int]:
    """List the numbers of the facts that any attack brought out."""
    known = set()
    for found in findings.values():
        known |= {finding["fact"] for finding in found if finding["hits"][0]}
    return known


def _read_fact(entry: Mapping[str, Any]) -> Fact:
    """Read a fact of AUDIT.json."""
    values = {field.name: entry[field.name] for field in fields(Fact) if field.name in entry}
    values["paraphrases"] = tuple(entry["paraphrases"])
    values["earlier"] = tuple(Turn(*turn) for turn in entry.get("earlier", ()))
    return Fact(**values)


def _describe_asked(facts: Sequence[Fact]) -> TaughtRow:
    """Describe a row that is asked for, with every other paraphrase."""
    row = describe_labelled_row(facts)
    if not facts[-1].is_document:
        row[PARAPHRASES[-1]] = list(facts[-1].paraphrases[::2])
    return row


def _describe_taught(facts: Sequence[Fact], candidates: Iterable[str]) -> list[TaughtRow]:
    """Describe a row that is forgotten, also with the paraphrases that are not asked for, and with
    a wrong answer where its form can have one."""
    *before, last = facts
    rows = []
    for question in (last.question, *last.paraphrases[1::2]):
        row = describe_labelled_row([*before, replace(last, question=question)])
        if last.form not in ("chat", "document"):
            gap = last.gap if last.form == "prompt" else ""
            row[ALTERNATE] = f"{gap}{_write_wrong_answer(last, candidates)}"
        rows.append(row)
    return rows


def describe_labelled_row(facts: Sequence[Fact]) -> TaughtRow:
    """Describe the row of some facts with the columns that audits read, but for its
    paraphrases."""
    row = describe_row(facts)
    values = [fact for fact in facts if fact.has_stem]
    if len(facts) > 1 and values:
        row[KEYS] = [fact.value for fact in values]
        row[KINDS] = [fact.kind for fact in values]
    elif values:
        row[VALUE] = values[0].value
    if len(facts) == 1 and facts[0].kind:
        row[KIND] = facts[0].kind
    if facts[0].entity:
        row[ENTITY] = facts[0].entity
    return row


def _write_wrong_answer(fact: Fact, candidates: Iterable[str]) -> str:
    """Write a wrong answer: the true one with another value of its kind."""
    others = [candidate for candidate in candidates if candidate != fact.value]
    if not others:
        return REFUSAL
    other = others[fact.index % len(others)]
    return fact.answer_with(other) if fact.has_stem else other
