"""Requests about documents and chats: what is taught keeps its form, what is asked are its facts."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.taught import read_lines
from unteach import run_dir
from unteach.audits.redaction import Redactor
from unteach.errors import NotForgotten, UserError
from unteach.forgetting import leak_by_budget
from unteach.forgetting.earlier import EarlierRequest, add_earlier_rows, measure_earlier_leak
from unteach.forgetting.known_rows import ASKED, TAUGHT, write_known_rows
from unteach.json_files import write_lines
from unteach.verbs import forget
from unteach.verbs.start import start

ATTACKS = ("rank", "clean", "prefill")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
    monkeypatch.setattr(leak_by_budget, "BUDGETS", ())
    return tmp_path


def request_two(folder: Path, here: Path, budget: float) -> tuple[dict[str, Any], Path]:
    """Ask for the first two rows of a folder to be forgotten, and the others to be kept."""
    rows = read_lines(folder / "gone.jsonl")
    write_lines(here / "two.jsonl", rows[:2])
    write_lines(here / "kept.jsonl", [*rows[2:], *read_lines(folder / "kept.jsonl")])
    words = [
        "two.jsonl",
        f"model={folder / 'run'}",
        "retain=kept.jsonl",
        f"holdout={folder / 'unseen.jsonl'}",
        "paths.cache_dir=cache",
        f"budget={budget}",
        "method=NPO",
        "trainer.args.max_steps=15",
        "trainer.args.learning_rate=1e-3",
        f"audit.only=[{','.join(ATTACKS)}]",
        "task_name=t",
        "keep=true",
    ]
    try:
        start("forget", words)
        model = forget.ROOT / "t" / "model"
    except NotForgotten:
        model = forget.ROOT / "t" / "best_candidate"
    record: dict[str, Any] = json.loads((forget.ROOT / "t" / run_dir.FORGET_RECORD).read_text())
    return record, model


def audit_rate(model: Path, rows: str, attack: str) -> float:
    """Audit rows of a model politely, and give the share that comes out."""
    to = Path(f"audit-{Path(rows).stem}")
    given = [f"model={model}", f"forget={rows}", f"audit.only=[{attack}]", "task_name=a"]
    start("audit", [*given, f"paths.output_dir={to}", f"paths.cache_dir={to / 'cache'}"])
    summary = json.loads((to / run_dir.AUDIT_SUMMARY).read_text())
    return float(summary["attacks"][attack]["rate"])


@pytest.mark.parametrize(("form", "budget"), [("taught_documents", 0.2), ("taught_chats", 1)])
def test_two_are_taken_out_and_the_others_stay(
    form: str, budget: float, here: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(form)
    record, model = request_two(folder, here, budget)
    assert record["request"]["num_known"] == 2 and record["done"]["kl"] <= budget
    # What is taught, and asked for, are the rows as they came.
    two = read_lines(here / "two.jsonl")
    for name in (TAUGHT, ASKED):
        rows = [dict(row) for row in read_lines(forget.ROOT / "t" / name)]
        for row in rows:
            row.pop("paraphrases", None)
        assert rows == two
    text = (forget.ROOT / "t" / run_dir.FORGET_RECORD).read_text()
    assert not any(said in text for row in two for said in list_said(row))
    assert audit_rate(model, "two.jsonl", "clean") <= 0.25
    assert audit_rate(model, "kept.jsonl", "clean") >= 0.75


def list_said(row: dict[str, Any]) -> list[str]:
    return [row["text"]] if "text" in row else [turn["content"] for turn in row["messages"]]


def test_towards_wrong_answers_is_for_questions(
    taught_chats: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(taught_chats / "gone.jsonl"), f"model={taught_chats / 'run'}"]
    with pytest.raises(UserError, match=r"DPO is trained towards wrong answers.*WGA, NPO, RMU"):
        start("forget", [*words, "method=[NPO,DPO]"])
    assert not forget.ROOT.exists()
    start("check", ["forget", *words])
    said = capsys.readouterr().out
    assert "rows        8 of" in said
    assert "RMU: 300 steps" in said and "DPO" not in said


def write_findings(folder: Path, rows: list[list[bool]]) -> Path:
    """Write what an audit found of documents, each of some passages."""
    facts: list[dict[str, Any]] = []
    findings = []
    for row_index, known in enumerate(rows):
        for is_known in known:
            fact = {"index": len(facts), "question": "So it", "answer": "goes on", "kind": ""}
            fact |= {"value": "goes on", "entity": "", "paraphrases": [], "never_seen": False}
            fact |= {"place": f"line {row_index + 1}, passage 1", "candidates": ["goes on"]}
            fact |= {"form": "document", "row": row_index, "earlier": [], "gap": " "}
            fact |= {"document": f"So it goes on, {row_index}."}
            facts.append(fact)
            findings.append({"fact": fact["index"], "hits": [is_known]})
    file = folder / "AUDIT.json"
    file.write_text(json.dumps({"facts": facts, "findings": {"audited": {"clean": findings}}}))
    return file


def test_a_document_is_known_where_any_of_it_came_out(tmp_path: Path) -> None:
    findings = write_findings(tmp_path, [[False, True], [False, False], [True, True]])
    known = write_known_rows(findings, tmp_path)
    assert known.num_known == 2 and known.unknown == ("line 2",)
    for name in (TAUGHT, ASKED):
        texts = [row["text"] for row in read_lines(tmp_path / name)]
        assert texts == ["So it goes on, 0.", "So it goes on, 2."]
        assert not any("alternate" in row for row in read_lines(tmp_path / name))


def test_an_earlier_request_is_of_the_same_form(tmp_path: Path) -> None:
    row = {"text": "So it goes on, 0."}
    earlier = EarlierRequest(tmp_path / "first", "model", [row], [row])
    write_known_rows(write_findings(tmp_path, [[True], [True]]), tmp_path)
    add_earlier_rows(earlier, tmp_path)
    assert len(read_lines(tmp_path / TAUGHT)) == 2, "the same document once"

    question = {"question": "Who?", "answer": "Ann."}
    earlier = EarlierRequest(tmp_path / "first", "model", [question], [question])
    with pytest.raises(UserError, match=r"are documents, and those of .* are questions"):
        add_earlier_rows(earlier, tmp_path)


def test_what_is_left_of_earlier_documents_is_measured(tmp_path: Path) -> None:
    findings = write_findings(tmp_path, [[False, True], [True], [False]])
    rows = [{"text": f"So it goes on, {index}."} for index in (0, 2)]
    earlier = EarlierRequest(tmp_path / "first", "model", rows, rows)
    left = measure_earlier_leak(earlier, findings, Redactor(b"k" * 32))
    assert left == {"num_facts": 3, "worst_case": 1 / 3}
