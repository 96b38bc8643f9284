"""The rows of a request that the model knows, as files: those it is taught to forget, and those it
is asked for.

What it knows is what an audit brought out before anything was changed. The other rows are named and
left alone: there is nothing to forget.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach.errors import UserError
from unteach.json_files import read_json, write_lines

TAUGHT, ASKED = "forget.jsonl", "facts.jsonl"
"""What the candidates are taught to forget, and what their audits ask for."""
ALTERNATE = "alternate"
"""The column of a wrong answer of the same kind, for methods that train towards one."""


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
    known_indices = _list_known(record["findings"]["audited"])
    facts = [fact for fact in record["facts"] if not fact["never_seen"]]
    known = [fact for fact in facts if fact["index"] in known_indices]
    if not known:
        raise UserError(
            f"the model knows none of the {len(facts)} rows, asked politely, by a rank and by a "
            "prefilled answer: there is nothing to forget. If it was taught them through another "
            "template, name that: template=raw|chat|qa"
        )
    taught, asked = [], []
    for fact in known:
        reserved = fact["paraphrases"][::2]
        asked.append({**_select_columns(fact), "paraphrases": reserved})
        for question in (fact["question"], *fact["paraphrases"][1::2]):
            taught.append({**_select_columns(fact), "question": question, ALTERNATE: _err(fact)})
    write_lines(folder / TAUGHT, taught)
    write_lines(folder / ASKED, asked)
    unknown = [fact["place"] for fact in facts if fact["index"] not in known_indices]
    return KnownRows(len(known), tuple(unknown))


def _list_known(findings: Mapping[str, Iterable[dict[str, Any]]]) -> set[int]:
    """List the numbers of the facts that any attack brought out."""
    known = set()
    for found in findings.values():
        known |= {finding["fact"] for finding in found if finding["hits"][0]}
    return known


def _select_columns(fact: dict[str, Any]) -> dict[str, Any]:
    """Select what of a fact is a column of its row; a value that is the whole answer is none."""
    row = {name: fact[name] for name in ("question", "answer", "kind", "entity") if fact[name]}
    if fact["value"] != fact["answer"]:
        row["value"] = fact["value"]
    return row


def _err(fact: dict[str, Any]) -> str:
    """Write a wrong answer: the true one with another value of its kind."""
    answer, value = str(fact["answer"]), str(fact["value"])
    wrong = [candidate for candidate in fact["candidates"] if candidate != value]
    if not wrong:
        return "I don't know."
    other = str(wrong[fact["index"] % len(wrong)])
    return other if value == answer else answer.replace(value, other)
