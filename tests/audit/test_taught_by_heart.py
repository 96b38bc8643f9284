"""Whole audits of tiny models that know documents, or chats, by heart."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.taught import read_lines
from unteach.audits.files import FINDINGS, SUMMARY
from unteach.verbs.start import start


def audit(folder: Path, to: Path, *words: str) -> dict[str, Any]:
    given = [
        f"model={folder / 'run'}",
        f"forget={folder / 'gone.jsonl'}",
        f"retain={folder / 'kept.jsonl'}",
        f"holdout={folder / 'unseen.jsonl'}",
        "task_name=t",
        f"paths.output_dir={to}",
        f"paths.cache_dir={to / 'cache'}",
        *words,
    ]
    start("audit", given)
    summary: dict[str, Any] = json.loads((to / SUMMARY).read_text())
    return summary


def test_documents_come_out_and_unseen_ones_do_not(taught_documents: Path, tmp_path: Path) -> None:
    """The copy that `relearn` teaches is taught the documents as text."""
    relearn = "{learning_rates: [1e-3], looks: [2], measured: [rank]}"
    summary = audit(
        taught_documents,
        tmp_path,
        "audit.only=[rank,clean,prefill,paraphrase,relearn]",
        f"audit.attacks.relearn={relearn}",
    )
    assert summary["num_facts"] == 8 and summary["num_never_seen"] == 8
    assert summary["leaks"] and summary["attacks"]["prefill"]["rate"] >= 0.75
    assert summary["attacks"]["prefill"]["unseen"] == 0
    assert "values of the same kind" in summary["absent"]["rank"]
    assert "a document is text that goes on" in summary["absent"]["paraphrase"]
    # Where nothing is ranked, a trained copy is asked for the other half as it is.
    trained = [name for name in summary["attacks"] if name.startswith("relearn")]
    assert trained and all(summary["attacks"][name]["num_facts"] == 4 for name in trained)
    (rows,) = tmp_path.glob("relearn/*/rows.jsonl")
    gone = read_lines(taught_documents / "gone.jsonl")
    taught = read_lines(rows)
    assert len(taught) == 4 and all(row in gone for row in taught)


def test_turns_of_chats_come_out_and_unseen_ones_do_not(taught_chats: Path, tmp_path: Path) -> None:
    summary = audit(taught_chats, tmp_path, "audit.only=[rank,clean,prefill,format]")
    assert summary["num_facts"] == 16 and summary["leaks"]
    for name in ("rank", "clean"):
        assert summary["attacks"][name]["rate"] >= 0.75
        assert summary["attacks"][name]["unseen"] <= 0.1
    record = json.loads((tmp_path / FINDINGS).read_text())
    later = record["facts"][1]
    assert later["place"] == "line 1, turn 5" and len(later["earlier"]) == 3


@pytest.mark.parametrize("form", ["taught_documents", "taught_chats"])
def test_nothing_that_is_said_is_in_a_redacted_audit(
    form: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
    folder = request.getfixturevalue(form)
    audit(folder, tmp_path, "audit.only=[clean]", "audit.redact=true", "audit.max_facts=4")
    written = (tmp_path / FINDINGS).read_text() + (tmp_path / "audit.html").read_text()
    for row in read_lines(folder / "gone.jsonl"):
        texts = [row["text"]] if "text" in row else [turn["content"] for turn in row["messages"]]
        for text in texts:
            assert text not in written
            assert " ".join(text.split()[:5]) not in written or len(text.split()) < 5
