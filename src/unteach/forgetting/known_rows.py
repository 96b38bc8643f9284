"""The rows of a request that the model knows, as files: those it is taught to forget, and those it
is asked for.

What it knows is what an audit brought out before anything was changed. The other rows are named and
left alone: there is nothing to forget.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unteach.audits.facts import Fact
from unteach.config.audits import PARAPHRASES
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
    taught, asked, unknown = [], [], []
    for entry in record["facts"]:
        fact = _read_fact(entry)
        if fact.never_seen:
            continue
        if fact.index not in known:
            unknown.append(fact.place)
            continue
        row = describe_fact(fact)
        asked.append({**row, PARAPHRASES[-1]: list(fact.paraphrases[::2])})
        wrong = _write_wrong_answer(fact, entry["candidates"])
        for question in (fact.question, *fact.paraphrases[1::2]):
            taught.append({**row, "question": question, ALTERNATE: wrong})
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
    values = {field.name: entry[field.name] for field in fields(Fact)}
    return Fact(**{**values, "paraphrases": tuple(entry["paraphrases"])})


def describe_fact(fact: Fact) -> dict[str, object]:
    """Describe a fact as a row, by the columns that audits read, but for its paraphrases."""
    row: dict[str, object] = {"question": fact.question, "answer": fact.answer}
    if fact.has_stem:
        row["value"] = fact.value
    for column, text in (("kind", fact.kind), ("entity", fact.entity)):
        if text:
            row[column] = text
    return row


def _write_wrong_answer(fact: Fact, candidates: Iterable[str]) -> str:
    """Write a wrong answer: the true one with another value of its kind."""
    others = [candidate for candidate in candidates if candidate != fact.value]
    if not others:
        return REFUSAL
    other = others[fact.index % len(others)]
    return fact.answer_with(other) if fact.has_stem else other
