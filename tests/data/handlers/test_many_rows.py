"""Many rows are built by several processes, and their tokens kept: the examples, the counts and the
messages are those of few."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unteach import atomic
from unteach.data.handlers import base, built_rows, token_cache
from unteach.data.handlers.chat import ChatDataset
from unteach.data.handlers.preference import FeedbackDataset, PreferenceDataset
from unteach.data.handlers.qa import QADataset, QAwithAlternateDataset
from unteach.data.handlers.token_cache import TokenCache
from unteach.data.row_selection import RowSelection
from unteach.data.template import Template
from unteach.errors import UserError

NUM_ROWS = 60
Make = Callable[[], Any]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are many here."""
    for module in (base, built_rows):
        monkeypatch.setattr(module, "MANY_ROWS", 20)
    monkeypatch.setattr(built_rows, "STRETCH", 7)


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def build_questions() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(NUM_ROWS):
        answer = "" if number % 11 == 3 else f"Answer {number % 25}. " * (1 + number % 9)
        rows.append(
            {
                "question": f"Question {number % 25}?",
                "answer": answer,
                "alternate": f"Other {number}.",
                "forget": number % 2,
            }
        )
    return rows


def read_all(dataset: Any) -> list[Any]:
    return [dataset.examples, dataset.dropped, dataset.notes(), list(dataset.row_hashes)]


def choose_files(file: Path, cache: Path | None = None) -> dict[str, Any]:
    return {"path": str(file), "choice": RowSelection(token_cache=cache and str(cache))}


QUESTIONS: dict[str, tuple[type[QADataset], dict[str, Any]]] = {
    "plain": (QADataset, {}),
    "signed": (QADataset, {"forget_key": "forget"}),
    "split": (QADataset, {"too_long": "split"}),
    "alternates": (QAwithAlternateDataset, {}),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_of_several_processes_are_those_of_one(
    tiny: Any, tmp_path: Path, many: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    handler, arguments = QUESTIONS[name]
    hf_args = choose_files(write_rows(tmp_path, build_questions()))

    def build() -> list[Any]:
        return read_all(handler(tiny.template, hf_args, max_length=40, **arguments))

    by_several = build()
    monkeypatch.setattr(built_rows, "MANY_ROWS", 10**6)
    assert by_several == build()
    assert (by_several[1] and "cut at" in str(by_several[2])) or name == "split"


def test_conversations_and_preferences_are_too(
    tiny: Any, tmp_path: Path, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for number in range(NUM_ROWS):
        rows.append(
            {
                "prompt": f"Question {number}?",
                "chosen": f"Yes, {number}.",
                "rejected": "" if number == 30 else "No.",
                "completion": f"Yes, {number}.",
                "label": number % 2,
            }
        )
    hf_args = choose_files(write_rows(tmp_path, rows))

    def build() -> list[Any]:
        pairs = PreferenceDataset(tiny.template, hf_args)
        judged = FeedbackDataset(tiny.template, hf_args)
        both = FeedbackDataset(tiny.template, hf_args, chosen_key="chosen", rejected_key="rejected")
        assert list(pairs.dropped.values()) == list(both.dropped.values()) == [1]
        return [read_all(dataset) for dataset in (pairs, judged, both)]

    by_several = build()
    monkeypatch.setattr(built_rows, "MANY_ROWS", 10**6)
    assert by_several == build()


def test_what_is_wrong_is_said_of_all_rows_at_once(
    chat: Template, tmp_path: Path, many: None
) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(NUM_ROWS):
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        rows.append({"messages": "no list" if number in (5, 50) else turns})
    hf_args = choose_files(write_rows(tmp_path, rows))
    with pytest.raises(UserError, match=r"lines 6, 51"):
        ChatDataset(chat, hf_args)


@pytest.fixture
def make(tiny: Any, tmp_path: Path, many: None) -> Make:
    file = write_rows(tmp_path, build_questions())

    def make_dataset(**arguments: Any) -> QADataset:
        hf_args = choose_files(file, tmp_path / "cache")
        return QADataset(tiny.template, hf_args, max_length=arguments.pop("max_length", 40))

    return make_dataset


@pytest.fixture
def tokenizes_nothing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def encode_row(*_: Any) -> Any:
            raise AssertionError("a row is tokenised")

        monkeypatch.setattr(QADataset, "encode_row", encode_row)

    return forbid


def test_tokens_are_made_once(make: Make, tokenizes_nothing: Callable[[], None]) -> None:
    first = read_all(make())
    tokenizes_nothing()
    assert read_all(make()) == first


def test_another_length_is_tokenised_again(make: Make, tmp_path: Path) -> None:
    make()
    assert max(len(example["input_ids"]) for example in make(max_length=30)) == 30
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_entry_is_made_again(make: Make, tmp_path: Path) -> None:
    first = read_all(make())
    (ids,) = (tmp_path / "cache").glob("*/ids.npy")
    stored = bytearray(ids.read_bytes())
    stored[-1] ^= 1
    ids.write_bytes(stored)
    assert read_all(make()) == first
    (ids,) = (tmp_path / "cache").glob("*/ids.npy")
    assert ids.read_bytes()[-1] != stored[-1]


def test_rows_that_are_looked_at_leave_nothing(tiny: Any, tmp_path: Path, many: None) -> None:
    file = write_rows(tmp_path, build_questions())
    choice = RowSelection(tokenized=5, token_cache=str(tmp_path / "cache"))
    looked_at = QADataset(tiny.template, {"path": str(file), "choice": choice})
    assert not looked_at.is_tokenized(10) and looked_at.is_tokenized(2)
    assert looked_at[10]["input_ids"]
    signed = QADataset(tiny.template, {"path": str(file), "choice": choice}, forget_key="forget")
    assert len(signed) == len(looked_at)
    assert not (tmp_path / "cache").exists()


def test_what_was_not_used_for_longest_goes(make: Make, tmp_path: Path) -> None:
    make()
    (entry,) = (tmp_path / "cache").iterdir()
    size = token_cache._measure(entry)
    cache = TokenCache(tmp_path / "cache", most_bytes=2 * size + 100)
    for index, name in enumerate(("old", "older")):
        shutil.copytree(entry, entry.with_name(name))
        np.testing.assert_equal(token_cache._measure(entry.with_name(name)), size)
        os.utime(entry.with_name(name), (1000 - index, 1000 - index))
    cache._evict(entry.name)
    assert {left.name for left in entry.parent.iterdir()} == {entry.name, "old"}


def test_check_finds_what_is_wrong_in_any_of_many_rows(
    tiny: Any, tmp_path: Path, many: None
) -> None:
    hf_args = {
        "path": str(write_rows(tmp_path, build_questions())),
        "choice": RowSelection(tokenized=5),
    }
    looked_at = QADataset(tiny.template, hf_args)
    assert (
        looked_at.dropped == QADataset(tiny.template, choose_files(Path(hf_args["path"]))).dropped
    )
    rows = build_questions()
    rows[50]["answer"] = 7
    write_rows(tmp_path, rows)
    with pytest.raises(UserError, match="answer must be text"):
        QADataset(tiny.template, hf_args)


def test_a_pair_without_room_is_no_mistake_where_rows_are_looked_at(
    tiny: Any, tmp_path: Path
) -> None:
    long = {"prompt": "Why? " * 99, "chosen": "Yes.", "rejected": "No."}
    rows = [{"prompt": "Who?", "chosen": "Ann.", "rejected": "Bob."}, long]
    hf_args = {"path": str(write_rows(tmp_path, rows)), "choice": RowSelection(tokenized=1)}
    pairs = PreferenceDataset(tiny.template, hf_args, max_length=40)
    assert len(pairs) == 1 and "chosen" in pairs[0]


def test_rows_to_forget_may_have_another_answer(tiny: Any, tmp_path: Path) -> None:
    hf_args = choose_files(write_rows(tmp_path, build_questions()))
    dataset = QAwithAlternateDataset(tiny.template, hf_args, forget_key="forget", max_length=200)
    for example in dataset:
        sign = -1.0 if example["original"]["index"] % 2 else 1.0
        assert example["original"]["weight"] == sign


def test_two_runs_may_keep_the_same_tokens(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    (entry,) = (tmp_path / "cache").iterdir()
    # The other run wrote the entry after this one had looked for it.
    monkeypatch.setattr(TokenCache, "read", lambda *_: None)
    exists = Path.exists
    seen = []

    def find_late(path: Path, **settings: Any) -> bool:
        if path == entry and not seen:
            seen.append(path)
            return False
        return exists(path, **settings)

    monkeypatch.setattr(Path, "exists", find_late)
    assert len(make()) and seen
    assert [left.name for left in (tmp_path / "cache").iterdir()] == [entry.name]


def test_what_cannot_be_kept_is_said_and_the_run_goes_on(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("no folder")
    with caplog.at_level("INFO"):
        assert len(make())
    assert "are not kept in" in caplog.text


def test_what_others_are_writing_is_not_evicted(make: Make, tmp_path: Path) -> None:
    make()
    (entry,) = (tmp_path / "cache").iterdir()
    other = atomic.make_temporary_path(entry.with_name("other"))
    shutil.copytree(entry, other)
    TokenCache(tmp_path / "cache", most_bytes=1)._evict(entry.name)
    assert other.exists()
