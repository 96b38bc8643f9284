"""Killed at any moment and started again, a run of inference ends with the file of one that nobody
disturbed."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.doors import infer
from tests.inference.conftest import questions, words, write_lines
from tests.recovery.conftest import after, spawn, spawn_two
from unteach.engines.progress import RowProgress
from unteach.errors import Preempted
from unteach.inference.result_store import Line, PartWriter, ResultStore, encode_answer

DRAWN = ("temperature=0.9", "num_return_sequences=2")


def kill_until_done(
    model: Path, table: Path, kills: int, longest: float, *more: str, signum: int = signal.SIGKILL
) -> list[int]:
    """Starts again and again, killing `kills` times at random moments once rows are being answered;
    the exit codes."""
    chance, codes = random.Random(kills), list[int]()
    log, parts = table.with_suffix(".log"), table.with_name(f"{table.stem}_output.jsonl.parts")
    for _ in range(kills):
        codes.append(
            after(
                spawn(lambda: infer(*words(model, table, *more)), log),
                chance.uniform(0.0, longest),
                signum,
                parts,
            )
        )
        if codes[-1] == 0:
            return codes
    codes.append(after(spawn(lambda: infer(*words(model, table, *more)), log), 300))
    assert codes[-1] == 0, log.read_text()[-3000:]
    return codes


def outcome(model: Path, rows: int, folder: Path, *more: str) -> bytes:
    """The output of an undisturbed run."""
    folder.mkdir()
    table = write_lines(folder / "in.jsonl", questions(rows))
    assert after(spawn(lambda: infer(*words(model, table, *more)), folder / "log"), 300) == 0, (
        folder / "log"
    ).read_text()
    return (folder / "in_output.jsonl").read_bytes()


def check_tidy(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()} - {"log", "in.log", "in.0", "in.1"}
    assert names == {"in.jsonl", "in_output.jsonl", "in_output.meta.json"}


def test_killed_anywhere(tiny_folder: Path, tmp_path: Path) -> None:
    more = ("max_new_tokens=8", "backend_args.batch_size=2", "perplexity=true")
    whole = outcome(tiny_folder, 150, tmp_path / "whole", *more)
    (tmp_path / "killed").mkdir()
    table = write_lines(tmp_path / "killed" / "in.jsonl", questions(150))
    codes = kill_until_done(tiny_folder, table, 4, 0.5, *more)
    assert -9 in codes
    assert (tmp_path / "killed" / "in_output.jsonl").read_bytes() == whole
    check_tidy(tmp_path / "killed")


def test_asked_to_stop_it_says_75(tiny_folder: Path, tmp_path: Path) -> None:
    table = write_lines(tmp_path / "in.jsonl", questions(24))
    more = ("max_new_tokens=60", "backend_args.batch_size=1")
    codes = kill_until_done(tiny_folder, table, 2, 0.3, *more, signum=signal.SIGTERM)
    assert 75 in codes and set(codes) <= {0, 75, -signal.SIGTERM}, (
        "before it listens, a signal ends it"
    )
    assert "the same command goes on" in table.with_suffix(".log").read_text()


def test_the_first_ctrl_c_keeps_all_answers_and_leaves_python_as_it_was(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As in a notebook: the process lives on, and its own Ctrl-C is what it was."""
    more = ("max_new_tokens=8", "backend_args.batch_size=1")
    table = write_lines(tmp_path / "in.jsonl", questions(6))
    handler, real, rows = signal.getsignal(signal.SIGINT), RowProgress.__call__, list[int]()

    def count(pace: RowProgress, tokens: int) -> None:
        real(pace, tokens)
        rows.append(tokens)
        if len(rows) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RowProgress, "__call__", count)
    with pytest.raises(Preempted, match="the same command goes on"):
        infer(*words(tiny_folder, table, *more))
    said = capfd.readouterr()
    assert "asking 6 rows\n" in said.out
    assert (
        "stopping after the rows at hand; all answers are kept. Ctrl-C again ends now" in said.err
    )
    assert signal.getsignal(signal.SIGINT) is handler
    assert answered(tmp_path / "in_output.jsonl.parts") > 0
    infer(*words(tiny_folder, table, *more))
    assert "asking 6 rows, 2 of them answered before\n" in capfd.readouterr().out
    assert len(rows) == 6, "nothing is asked twice"


def answered(parts: Path) -> int:
    """Bytes of answers on disk."""
    return sum(part.stat().st_size for part in parts.glob("*.jsonl"))


def killed_once_more_is_known(pid: int, parts: Path, seconds: float) -> int | None:
    """Kills a run a moment after it has put more answers on disk than it found there."""
    before, started = answered(parts), time.monotonic()
    while answered(parts) <= before and time.monotonic() - started < 120:
        time.sleep(0.002)
    return after(pid, seconds)


@pytest.mark.long
@pytest.mark.parametrize("more", [(), DRAWN], ids=str)
def test_a_thousand_rows_killed_ten_times(
    tiny_folder: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Five times while answers are written, and five times at moments near the start."""
    more = (*more, "backend_args.batch_size=8")
    whole = outcome(tiny_folder, 1000, tmp_path / "whole", *more)
    (tmp_path / "killed").mkdir()
    table = write_lines(tmp_path / "killed" / "in.jsonl", questions(1000))
    parts, chance, known = tmp_path / "killed" / "in_output.jsonl.parts", random.Random(10), [0]
    for number in range(10):
        pid = spawn(lambda: infer(*words(tiny_folder, table, *more)), tmp_path / "killed" / "log")
        writing = number % 2 == 0
        code = (
            killed_once_more_is_known(pid, parts, chance.uniform(0, 0.1))
            if writing
            else after(pid, chance.uniform(0, 0.5))
        )
        assert code == -9
        known.append(answered(parts))
    assert known == sorted(known) and len(set(known)) >= 6, "what was known stays, and more comes"
    assert (
        after(
            spawn(lambda: infer(*words(tiny_folder, table, *more)), tmp_path / "killed" / "log"),
            300,
        )
        == 0
    )
    assert (tmp_path / "killed" / "in_output.jsonl").read_bytes() == whole
    check_tidy(tmp_path / "killed")


def killed_while_it_writes(part: PartWriter, line: Line, answer: dict[str, Any]) -> None:
    """In place of `PartWriter.__call__`, in the second of two processes: its second answer ends in the
    middle, and it too."""
    whole = encode_answer(line.id, line.digest, answer)
    last = os.environ["RANK"] == "1" and part.file.tell() > 0
    part.file.write(whole[:20] if last else whole)
    part.file.flush()
    if last:
        os.kill(os.getpid(), signal.SIGKILL)


def test_two_processes_share_the_rows(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of which is killed in the middle of a line; then two go on, and the file is that of one
    process."""
    more = ("max_new_tokens=12", "backend_args.batch_size=2")
    whole = outcome(tiny_folder, 30, tmp_path / "whole", *more)
    (tmp_path / "two").mkdir()
    table = write_lines(tmp_path / "two" / "in.jsonl", questions(30))

    def work() -> object:
        return infer(*words(tiny_folder, table, *more))

    with monkeypatch.context() as dying:
        dying.setattr(PartWriter, "__call__", killed_while_it_writes)
        pids = spawn_two(work, table)
        assert after(pids[1], 60) == -9
    assert after(pids[0], 60) != 0, "the one that is left says so"
    assert answered(table.with_name("in_output.jsonl.parts")) > 0
    ledger = ResultStore(tmp_path / "two" / "in_output.jsonl", ())
    with ledger.held():
        pass
    pids = spawn_two(work, table)
    assert [after(pid, 120) for pid in pids] == [0, 0], [
        table.with_suffix(f".{rank}").read_text() for rank in (0, 1)
    ]
    assert (tmp_path / "two" / "in_output.jsonl").read_bytes() == whole
    check_tidy(tmp_path / "two")
