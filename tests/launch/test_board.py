"""The live lines of a study on this machine."""

import json
import threading
from pathlib import Path

import pytest

from unteach.launch.local import Board
from unteach.launch.plan import PlannedRun


@pytest.mark.parametrize(("state", "shown"), [("done", (60, 60)), ("stopped", (55, 60))])
def test_a_done_run_shows_its_whole_count(tmp_path: Path, state: str, shown: tuple[int, int]) -> None:
    line = {"step": 55, "progress": 55 / 60, "loss": 0.1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    run = PlannedRun("NPO", "forget", "train", (f"paths.output_dir={tmp_path}",))
    with Board(1) as board:
        board.started(run)
        board.ended(run, state)
    task = board.bars.tasks[1]
    assert (task.completed, task.total) == shown
    assert board.bars.tasks[0].completed == 1


def test_no_thread_stands_beside_the_one_that_forks() -> None:
    """A lock that another thread held at the fork would never be given back in the child."""
    before = threading.active_count()
    with Board(1):
        assert threading.active_count() == before
