"""What is shown of a study on this machine: live lines on a terminal, plain ones elsewhere."""

import json
import threading
from pathlib import Path

import pytest

from unteach.studies import status_board
from unteach.studies.plan import PlannedRun
from unteach.studies.status_board import LineBoard, LiveBoard, Phase, read_phase


@pytest.fixture
def run(tmp_path: Path) -> PlannedRun:
    folder = tmp_path / "study" / "NPO"
    folder.mkdir(parents=True)
    (folder.parent / "logs").mkdir()
    return PlannedRun("NPO", "forget", "train", (f"paths.output_dir={folder}",))


def log(run: PlannedRun, step: int, total: int) -> None:
    line = {"step": step, "progress": step / total, "loss": 0.1}
    (Path(run.folder) / "metrics.jsonl").write_text(json.dumps(line) + "\n")


@pytest.mark.parametrize(("state", "shown"), [("done", (60, 60)), ("stopped", (55, 60))])
def test_a_done_run_shows_its_whole_count(
    run: PlannedRun, state: str, shown: tuple[int, int]
) -> None:
    log(run, 55, 60)
    with LiveBoard(1) as live:
        live.start(run)
        live.end(run, state)
    task = live.bars.tasks[1]
    assert (task.completed, task.total) == shown
    assert live.bars.tasks[0].completed == 1


def test_a_run_shows_its_phase(run: PlannedRun) -> None:
    assert read_phase(run).what == "starting"
    log(run, 60, 60)
    assert read_phase(run) == Phase("training", 60, 60, 0.1)
    written = status_board.get_log_path(run)
    written.write_text("step 60/60  loss 0.1\nscoring: 1,200 of 3,000, 0:45 left\n")
    assert read_phase(run) == Phase("scoring", 1200, 3000)
    assert str(read_phase(run)) == "scoring 1200/3000"
    written.write_text(written.read_text() + "  forget_quality = 0.2\n")
    (Path(run.folder) / "final_checkpoint").mkdir()
    assert read_phase(run) == Phase("evaluating", 60, 60)
    (Path(run.folder) / "final_checkpoint").rmdir()
    assert read_phase(run, log_start=written.stat().st_size).what == "training", (
        "an earlier attempt's pass is over"
    )
    with LiveBoard(1) as live:
        live.start(run)
        written.write_text(written.read_text() + "generating: 5 of 10, 0:01 left\n")
        live.refresh()
    assert (live.bars.tasks[1].completed, live.bars.tasks[1].total) == (5, 10)
    assert live.bars.tasks[1].fields["phase"] == "generating"


def test_without_a_terminal_each_run_has_a_line(
    run: PlannedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_board, "SAY_EVERY", -1.0)
    log(run, 30, 60)
    with status_board.make_board(2) as lines:
        assert isinstance(lines, LineBoard)
        lines.start(run)
        lines.refresh()
        lines.end(run, "done")
    began, running, ended = capsys.readouterr().out.splitlines()
    assert began.startswith("NPO: begins (its log: ") and began.endswith("NPO.log)")
    assert running == "0 of 2 runs ended; NPO training 30/60, loss 0.100"
    assert ended == "NPO: done, took 0:00 (1 of 2 runs ended)"


def test_no_thread_stands_beside_the_one_that_forks() -> None:
    """A lock that another thread held at the fork would never be given back in the child."""
    before = threading.active_count()
    with LiveBoard(1):
        assert threading.active_count() == before


def test_a_log_neither_steers_the_terminal_nor_is_markup(run: PlannedRun) -> None:
    with LiveBoard(1) as live:
        live.start(run)
        status_board.get_log_path(run).write_text("sc[bold]or\x1b[2Jing: 5 of 10, 0:01 left\n")
        live.refresh()
        shown = [
            column for column in live.bars.columns if "phase" in getattr(column, "text_format", "")
        ]
        assert shown[0].render(live.bars.tasks[1]).plain == "sc[bold]or\ufffd[2Jing"
