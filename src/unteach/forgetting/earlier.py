"""A request on what came of an earlier one: what was forgotten then stays forgotten.

It begins at the model that the earlier one began at, with the rows of both to forget, so that the
budget counts from there; the earlier rows are asked for again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.audits.redaction import Redactor
from unteach.audits.taught_rows import list_texts
from unteach.errors import UserError
from unteach.forgetting.known_rows import ASKED, TAUGHT
from unteach.json_files import read_json, read_log, read_mapping, write_lines

FORMS = {
    "messages": "chats",
    "text": "documents",
    "prompt": "prompts",
    "instruction": "instructions",
}
"""Rows by the column that no other form has."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class EarlierRequest:
    """What an earlier request forgot.

    Attributes:
        folder: of it.
        model: that it began at.
        taught: the rows that its methods were taught to forget, those of requests before it among
            them.
        asked: the facts that its audits asked for, likewise.
    """

    folder: Path
    model: str
    taught: Rows
    asked: Rows

    def list_words(self) -> list[str]:
        """List all that is said in each row that was asked for."""
        return [" ".join(list_texts(row)) for row in self.asked]


def find_earlier(model: str) -> EarlierRequest | None:
    """Find the request that a model came of: one that trained, and did not teach anew without the
    rows.

    Raises:
        UserError: the model that it began at is not there any more.
    """
    for folder in (Path(model), Path(model).parent):
        if (folder / run_dir.FORGET_RECORD).exists():
            break
    else:
        return None
    done = read_mapping(folder / run_dir.FORGET_RECORD, "the record of a request")["done"]
    if done["method"] == "exact":
        return None
    before = str(done["model_before"])
    # A name with one slash or none may be a model's on the hub.
    if before.count("/") > 1 and not Path(before).exists():
        raise UserError(
            f"model={model}: it came of the request {folder}, which began at {before}, and that is "
            "not there any more. A second request begins there too, with the rows of both, so that "
            "its budget counts from it: put it back. A copy of the model in another folder is "
            "taken as a model like any other, which may say again what the first request took out"
        )
    return EarlierRequest(folder, before, _read(folder / TAUGHT), _read(folder / ASKED))


def add_earlier_rows(earlier: EarlierRequest, folder: Path) -> None:
    """Add the rows of an earlier request to those of one: to be forgotten, and to be asked for.

    Raises:
        UserError: they are of another form, and a run reads rows of one.
    """
    forms = [_find_form(rows) for rows in (_read(folder / ASKED), earlier.asked)]
    if forms[0] != forms[1]:
        raise UserError(
            f"the rows to forget are {forms[0]}, and those of the earlier request {earlier.folder} "
            f"are {forms[1]}; both are forgotten together, and a run reads rows of one form. Write "
            "them in the form of the earlier ones"
        )
    for name, rows in ((TAUGHT, earlier.taught), (ASKED, earlier.asked)):
        own = _read(folder / name)
        write_lines(folder / name, [*own, *_leave_out(rows, own)])


def _find_form(rows: Rows) -> str:
    """Find how rows are written, by the column that each form has alone."""
    for column, form in FORMS.items():
        if column in rows[0]:
            return form
    return "questions"


def measure_earlier_leak(
    earlier: EarlierRequest, findings: Path, redactor: Redactor
) -> dict[str, Any]:
    """Measure what share of an earlier request's facts comes out by any attack.

    Args:
        findings: AUDIT.json of the model that is given.
        redactor: reads one whose texts are redacted.
    """
    record = read_json(findings, "the findings of an audit")
    begun: set[tuple[str, ...]] = set()
    for row in earlier.asked:
        texts = list_texts(row)
        begun |= {tuple(texts[:end]) for end in range(1, len(texts) + 1)}
    begun |= {tuple(map(redactor.redact_text, texts)) for texts in begun}
    facts = {fact["index"] for fact in record["facts"] if _list_asked(fact) in begun}
    leaking = set()
    for found in record["findings"]["audited"].values():
        leaking |= {finding["fact"] for finding in found if finding["hits"][0]}
    share = len(facts & leaking) / len(facts) if facts else None
    return {"num_facts": len(facts), "worst_case": share}


def _list_asked(fact: Mapping[str, Any]) -> tuple[str, ...]:
    """List what was said up to the question of a fact of AUDIT.json; of a document all of it."""
    if fact["form"] == "document":
        return (str(fact["document"]),)
    earlier = [content for _, content, *_ in fact["earlier"]]
    return (*earlier, str(fact["question"]))


def _read(file: Path) -> Rows:
    rows, _ = read_log(file)
    return rows


def _leave_out(rows: Rows, others: Rows) -> Rows:
    """Leave out the rows that stand among others."""
    known = {tuple(list_texts(row)) for row in others}
    return [row for row in rows if tuple(list_texts(row)) not in known]
