"""The output is the checkpoint: what is known is kept, what is torn is asked again, what does not
fit is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows
from tests.inference.conftest import Infer, questions, write_lines
from unteach import owner
from unteach.errors import RowsFailed, UserError
from unteach.inference import answer_index
from unteach.inference.answer_index import RowFinder
from unteach.inference.backends import hf
from unteach.inference.result_store import Line, ResultStore

LINES = [Line(id_, {"input": id_}, f"d{id_}") for id_ in ("a", "b", "c")]


def answer(text: str | None, error: str | None = None) -> dict[str, Any]:
    return {"output": text, "error": error}


@pytest.fixture
def ledger(tmp_path: Path) -> ResultStore:
    made = ResultStore(tmp_path / "x.jsonl", ("output", "error"))
    made.open({"seed": 0}, LINES, "auto", "refuse")
    return made


def put(ledger: ResultStore, **answers: dict[str, Any]) -> None:
    with ledger.writing(0) as write:
        for line in LINES:
            if line.id in answers:
                write(line, answers[line.id])


def watch_asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the numbers of the rows that are asked from here on."""
    seen: list[int] = []
    real = hf.CausalLMSession.generate

    def watched(self: Any, requests: Any, sampling: Any, done: Any) -> Any:
        seen.extend(request.number for request in requests if request.number not in done)
        return real(self, requests, sampling, done)

    monkeypatch.setattr(hf.CausalLMSession, "generate", watched)
    return seen


def test_answers_end_in_the_order_of_the_rows(ledger: ResultStore) -> None:
    put(ledger, c=answer("C"), a=answer(None, "broken"))
    assert ledger.done(LINES) == {2}
    put(ledger, b=answer("B\u2028\ud800"), a=answer("A"))
    put(ledger, a=answer(None, "late"))
    ledger.finish(LINES)
    read = [json.loads(line) for line in ledger.output.read_bytes().split(b"\n")[:-1]]
    assert [line["output"] for line in read] == ["A", "B\u2028\ud800", "C"], (
        "an answer is worth more than an error"
    )
    assert not ledger.parts.exists()
    assert ledger.done(LINES) == {0, 1, 2}


def test_of_several_parts_the_answered_one_counts(
    ledger: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stands among those that failed, and with fewer files open than there are."""
    monkeypatch.setattr(answer_index, "MAX_OPEN", 2)
    for failed in (["a", "b", "c"], ["b", "c"], ["c"], ["b"]):
        put(ledger, **{id_: answer(None, f"{id_} failed") for id_ in failed})
    put(ledger, a=answer("A"))
    put(ledger, b=answer("B"))
    for failed in (["a", "b", "c"], ["a"], ["c"]):
        put(ledger, **{id_: answer(None, f"{id_} failed") for id_ in failed})
    assert ledger.done(LINES) == {0, 1}
    counts = ledger.finish(LINES)
    assert [row["output"] for row in read_rows(ledger.output)] == ["A", "B", None]
    assert (counts.num_rows, counts.num_failed, counts.num_skipped) == (3, 1, 0)
    assert counts.errors == ["c failed"]
    put(ledger, c=answer("C"))
    ledger.finish(LINES)
    assert [row["output"] for row in read_rows(ledger.output)] == ["A", "B", "C"]


def test_ids_of_one_hash_are_told_apart() -> None:
    """-1 and -2 have one hash in Python, and so may any two texts."""
    lines = [Line(id_, {}, "") for id_ in (-1, "x", -2, 7)]
    finder = RowFinder(lines)
    for number, line in enumerate(lines):
        assert finder.find(line.id) == (number, line)
    assert finder.find("7") is None and finder.find(8) is None


def test_torn_and_foreign_lines_are_passed_over(ledger: ResultStore) -> None:
    put(ledger, a=answer("A"), b=answer("B"), c=answer("C"))
    [part] = ledger.parts.iterdir()
    whole = part.read_bytes()
    first = len(whole.split(b"\n")[0]) + 1
    for end in range(first, len(whole.split(b"\n")[0] + whole.split(b"\n")[1]) + 2):
        part.write_bytes(whole[:end])
        assert ledger.done(LINES) == {0}, "a line counts once its end is there"
    part.write_bytes(b"\x00\x00\n[1]\n" + whole.replace(b'"db"', b'"other"'))
    ledger.damaged = 0
    assert ledger.done(LINES) == {0, 2}
    assert ledger.damaged == 2


def test_one_writer_at_a_time(ledger: ResultStore) -> None:
    other = ResultStore(ledger.output, ("output", "error"))
    with (
        ledger.held(),
        pytest.raises(
            UserError, match=f"another process is writing there .process {os.getpid()} on"
        ),
        other.held(),
    ):
        pass
    with other.held():
        assert owner.find_lock(other.output).exists()
    assert not owner.find_lock(other.output).exists()


def test_other_rows_are_refused_or_asked(
    ask: Infer, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask()
    changed = [*questions(7)[1:], {"input": "And this?", "topic": 9}]
    changed[2]["input"] += " Really?"
    write_lines(table, changed)
    with pytest.raises(UserError, match=r"7 rows changed \(0, 1, 2, 3, 4 and 2 more\)"):
        ask()
    write_lines(table, rows := [*questions(7)[:6], {"input": "And this?", "topic": 9}])
    with pytest.raises(UserError, match=r"1 row changed \(6\).*\n.*changed=redo"):
        ask()
    seen = watch_asked(monkeypatch)
    again = ask("changed=redo")
    assert seen == [6]
    assert again[:6] == first[:6] and again[6]["input"] == rows[6]["input"]
    assert (table.parent / "in_output.jsonl.old1").exists()


def test_rows_of_custom_ids_are_kept_asked_again_and_reordered(
    ask: Infer, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"name": f"row {i}", **row} for i, row in enumerate(questions(6))]
    rows[4]["name"] = 4
    write_lines(table, rows)
    first = ask("id_column=name")
    assert [row["row_id"] for row in first] == [row["name"] for row in rows]

    # One is gone, one has changed, one is new, and the others stand in another order.
    changed = [*reversed(rows[1:]), {"name": "new", "input": "And this?", "topic": 9}]
    changed[0] = {**changed[0], "input": "What else?"}
    write_lines(table, changed)
    with pytest.raises(UserError, match=r"1 row changed \(row 5\); 1 row is new \(new\); 1 row is"):
        ask("id_column=name")
    seen = watch_asked(monkeypatch)
    again = ask("id_column=name", "changed=redo")
    assert seen == [0, 5]
    assert [row["row_id"] for row in again] == [row["name"] for row in changed]
    assert again[1:5] == first[4:0:-1]

    write_lines(table, [*changed[:2], {**changed[2], "name": "row 5"}, *changed[3:]])
    with pytest.raises(UserError, match=r"line 3: has the name 'row 5', and so has .*line 1; ids"):
        ask("id_column=name")


def test_other_options_are_refused_or_asked(ask: Infer, table: Path) -> None:
    first = ask()
    output = table.parent / "in_output.jsonl"
    before = output.read_bytes()
    with pytest.raises(
        UserError,
        match=r"other settings: max_new_tokens, temperature(.*\n)+.*add "
        r"output_file=\S*in_output_2\.jsonl",
    ):
        ask("max_new_tokens=9", "temperature=2.0")
    assert output.read_bytes() == before
    assert ask("backend_args.batch_size=2") == first, "a batch's size changes nothing"
    longer = ask("max_new_tokens=9", "changed=redo")
    assert longer != first
    assert (table.parent / "in_output.jsonl.old1").read_bytes() == before
    assert ask("max_new_tokens=9", "resume=false") == longer
    assert (table.parent / "in_output.jsonl.old2").exists()


def test_what_infer_did_not_write_stays(ask: Infer, table: Path) -> None:
    (table.parent / "in_output.jsonl").write_text("precious\n")
    with pytest.raises(UserError, match="did not write it"):
        ask()
    ask("resume=never")
    assert (table.parent / "in_output.jsonl.old1").read_text() == "precious\n"


def test_a_finished_file_costs_nothing_and_only_what_failed_is_asked(
    ask: Infer, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unteach.inference.backends.base import Failure

    asked: list[list[int]] = []
    real = hf.CausalLMSession.generate

    def failing(self: Any, requests: Any, sampling: Any, done: Any) -> Any:
        asked.append([request.number for request in requests if request.number not in done])
        for number, found in real(self, requests, sampling, done):
            yield number, Failure("no luck") if len(asked) == 1 and number in (2, 5) else found

    monkeypatch.setattr(hf.CausalLMSession, "generate", failing)
    with pytest.raises(RowsFailed, match="2 of 7 rows"):
        ask()
    lines = ask()
    assert asked == [list(range(7)), [2, 5]]
    assert all(line["error"] is None for line in lines)
    capsys.readouterr()
    assert ask() == lines
    assert len(asked) == 2 and "finished before" in capsys.readouterr().out


def test_a_torn_line_is_said_and_its_row_asked_again(
    ask: Infer, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask()
    output = table.parent / "in_output.jsonl"
    whole = output.read_bytes()
    output.write_bytes(whole[:-9])
    capsys.readouterr()
    ask()
    assert "note: 1 torn or damaged lines are passed over" in capsys.readouterr().err
    assert output.read_bytes() == whole
