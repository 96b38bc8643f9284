"""Which rows of a request are taught and asked for, and which are left alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach.errors import UserError
from unteach.forgetting.known_rows import ASKED, TAUGHT, write_known_rows


def write_findings(folder: Path, known: list[bool], **fields: Any) -> Path:
    facts, findings = [], []
    for index, is_known in enumerate(known):
        fact = {
            "index": index,
            "place": f"row {index + 1}",
            "question": f"Where does person {index} live?",
            "answer": f"In town{index}.",
            "value": f"town{index}",
            "kind": "town",
            "entity": "",
            "paraphrases": [
                f"Person {index} lives where?",
                f"The home of person {index}?",
                "Home?",
            ],
            "candidates": [f"town{index}", "town90", "town91"],
            "never_seen": False,
        }
        facts.append({**fact, **fields})
        findings.append({"fact": index, "hits": [is_known, False, False]})
    file = folder / "AUDIT.json"
    record = {"facts": facts, "findings": {"audited": {"rank": findings, "clean": findings[:1]}}}
    file.write_text(json.dumps(record))
    return file


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_that_the_model_does_not_know_are_named_and_left_alone(tmp_path: Path) -> None:
    known = write_known_rows(write_findings(tmp_path, [True, False, True]), tmp_path)
    assert known.num_known == 2 and known.unknown == ("row 2",)
    assert [row["value"] for row in read(tmp_path / ASKED)] == ["town0", "town2"]
    assert not any("person 1 " in row["question"] for row in read(tmp_path / TAUGHT))


def test_half_of_the_paraphrases_are_kept_for_the_audits(tmp_path: Path) -> None:
    write_known_rows(write_findings(tmp_path, [True]), tmp_path)
    taught = [row["question"] for row in read(tmp_path / TAUGHT)]
    (asked,) = read(tmp_path / ASKED)
    assert taught == ["Where does person 0 live?", "The home of person 0?"]
    assert asked["paraphrases"] == ["Person 0 lives where?", "Home?"]


def test_a_wrong_answer_has_another_value_of_the_same_kind(tmp_path: Path) -> None:
    write_known_rows(write_findings(tmp_path, [True, True]), tmp_path)
    wrong = {row["alternate"] for row in read(tmp_path / TAUGHT)}
    assert wrong == {"In town90.", "In town91."}


def test_a_whole_answer_is_no_value(tmp_path: Path) -> None:
    values = ["In town0.", "In town90."]
    findings = write_findings(tmp_path, [True], value="In town0.", candidates=values)
    write_known_rows(findings, tmp_path)
    (asked,) = read(tmp_path / ASKED)
    assert "value" not in asked
    assert read(tmp_path / TAUGHT)[0]["alternate"] == "In town90."


def test_controls_are_no_rows_of_the_request(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="knows none of the 0 rows"):
        write_known_rows(write_findings(tmp_path, [True], never_seen=True), tmp_path)


def test_where_nothing_is_known_there_is_nothing_to_forget(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"knows none of the 2 rows.*nothing to forget"):
        write_known_rows(write_findings(tmp_path, [False, False]), tmp_path)
    assert not (tmp_path / TAUGHT).exists()
