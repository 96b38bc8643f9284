"""The card of a model that a request gives: what it says, and what it leaves out."""

from pathlib import Path
from typing import Any

import pytest

from unteach.forgetting import record as records
from unteach.forgetting.card import explain_evidence, write_card
from unteach.json_files import read_mapping
from unteach.verbs.start import start

from ..conftest import read_rows
from .test_forget_run import rows, words  # noqa: F401  rows is a fixture

RECORD: dict[str, Any] = {
    "sentence": "no leak found by these attacks, of 7 facts",
    "request": {"rows": ["a"] * 7, "num_known": 7, "not_known_before": ["secret.csv, row 2"]},
    "earlier_request": None,
    "candidates": None,
    "done": {
        "model_before": "org/base",
        "method": "NPO",
        "budget": 0.02,
        "kl": 0.0193,
        "held_by": "its own text",
        "meets_budget_and_audit": True,
    },
    "left": {
        "worst_case": 0.0,
        "upper_bound": 0.348,
        "num_facts": 7,
        "forgotten_past_chance": False,
        "not_tested": {"relearn": "it asks by <b>hand</b> | none"},
        "attacks": {"rank": 0.0, "clean": 0.0},
    },
}


def write(folder: Path, evidence: str = "", **changes: Any) -> str:
    written = dict(RECORD)
    for name, part in changes.items():
        known = RECORD[name]
        written[name] = {**known, **part} if isinstance(known, dict) else part
    write_card(folder, written, evidence)
    return (folder / "README.md").read_text()


def test_a_card_says_what_was_done_and_what_is_left(tmp_path: Path) -> None:
    text = write(tmp_path, explain_evidence(has_statement=True, is_signed=True))
    assert text.startswith(
        "---\nlibrary_name: transformers\nbase_model: org/base\ntags:\n- unteach\n"
    )
    assert "knew 7 rows that it was to forget, and did not know 1 more" in text
    assert "NPO, under a budget of 0.02 nats a token" in text and "= 0.0193" in text
    assert "No leak found by these attacks, of 7 facts." in text
    assert "Of 7 facts 0% come out" in text and "up to 35% could" in text
    assert "| rank | 0% |" in text
    assert "- relearn: it asks by \\<b\\>hand\\</b\\> \\| none" in text, "text of others is neutral"
    assert "no proof that data was deleted" in text
    assert "unteach audit verify statement.json model=FOLDER key=public.pem" in text
    assert "secret.csv" not in text
    assert "forgotten past chance" not in text.lower()


@pytest.mark.parametrize("base", ["/data/models/mine", "saves/train/mine", "./mine", "~/mine"])
def test_no_folder_is_published_even_one_that_is_gone(base: str, tmp_path: Path) -> None:
    text = write(tmp_path, done={"model_before": base})
    assert base not in text and "base_model" not in text


def test_a_run_that_was_taught_anew_had_no_budget(tmp_path: Path) -> None:
    text = write(
        tmp_path,
        done={"method": "exact", "budget": None, "meets_budget_and_audit": False},
        candidates=[{"leak": {"is_found": True, "is_tested": True}}],
    )
    assert "taught anew without them, under no budget; it came to KL" in text
    assert "what the attacks bring out does not come from them" in text
    assert "did not meet" not in text


def test_a_card_does_not_make_better(tmp_path: Path) -> None:
    text = write(
        tmp_path,
        explain_evidence(has_statement=False, is_signed=False),
        done={"meets_budget_and_audit": False, "model_before": str(tmp_path)},
        left={"forgotten_past_chance": True},
        earlier_request={"num_facts": 4, "worst_case": 0.25},
    )
    assert "Of the 4 facts that an earlier request took out 25% come out." in text
    assert "did not meet both its budget and its audit" in text
    assert "Forgotten past chance:" in text
    assert "no statement of this request" in text and "audit verify" not in text
    assert "base_model" not in text and str(tmp_path) not in text, "a folder of this machine"


def test_a_given_model_has_a_card_and_verifies(kit: Path, rows: Path) -> None:
    start("forget", words(kit, rows / "cache", "retain=kept.jsonl", "budget=3", "task_name=t"))
    model = rows / "saves/forget/t/model"
    text = (model / "README.md").read_text()
    written = read_mapping(rows / "saves/forget/t/record.json", "a record")
    assert f"= {written['done']['kl']:.3g}" in text and "No key signed it" in text
    for row in read_rows(rows / "gone.jsonl"):
        assert row["question"] not in text and row["answer"] not in text
    assert "gone" not in text and str(rows) not in text
    start("audit", ["verify", "saves/forget/t/statement.json", "model=saves/forget/t/model"])
    # No subject is the card: without it the model is the same.
    (model / "README.md").unlink()
    start("audit", ["verify", "saves/forget/t/statement.json", "model=saves/forget/t/model"])


def test_a_request_that_was_stopped_before_its_record_writes_the_card(
    kit: Path,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = words(kit, rows / "cache", "retain=kept.jsonl", "budget=3", "task_name=t")
    with monkeypatch.context() as stopped:
        stopped.setattr(records, "write_card", lambda *_, **__: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            start("forget", given)
    assert not (rows / "saves/forget/t/record.json").exists()
    start("forget", given)
    assert (
        "# A model that was made to forget" in (rows / "saves/forget/t/model/README.md").read_text()
    )
