"""Two processes of one run: they stop together whichever was asked first, and end as one process
would."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.doors import train
from tests.recovery.conftest import after, spawn, spawn_two
from tests.recovery.test_kill import command, outcome, tidy
from unteach import run_dir


def words(kit: Path, corpus: Path, folder: Path, ranks: int) -> list[str]:
    return [
        *command(kit, corpus, folder),
        "eval.tofu.metrics=[forget_truth_ratio,forget_Q_A_ROUGE,exact_memorization]",
        "trainer.args.per_device_train_batch_size=1",
        f"trainer.args.gradient_accumulation_steps={4 // ranks}",
    ]


def run_two(command: list[str], log: Path) -> list[int | None]:
    return [
        after(pid, 120) for pid in spawn_two(lambda: train(*command, config_name="unlearn"), log)
    ]


@pytest.fixture(scope="module")
def two(kit: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tmp_path = tmp_path_factory.mktemp("two")
    folder = tmp_path / "two" / "run"
    assert run_two(words(kit, corpus, folder, 2), tmp_path / "two.log") == [0, 0], (
        tmp_path / "two.0"
    ).read_text()
    tidy(folder)
    return outcome(folder)


def test_two_processes_take_the_steps_of_one_and_find_the_same_values(
    kit: Path, corpus: Path, tmp_path: Path, two: dict[str, Any]
) -> None:
    folder = tmp_path / "one" / "run"
    command = words(kit, corpus, folder, 1)
    assert (
        after(spawn(lambda: train(*command, config_name="unlearn"), tmp_path / "one.log"), 120) == 0
    )
    one = outcome(folder)
    for alone, together in zip(one["log"], two["log"], strict=True):
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name
    assert one["evals"].keys() == two["evals"].keys()
    assert len(one["evals"]) > 2, "it was evaluated during training too"


LONG = pytest.mark.long
SKEWS = [
    (0, 0.4),
    *(
        pytest.param(first, skew, marks=LONG)
        for first, skew in [(0, 0.0), (0, 2.0), (1, 0.4), (1, 2.0)]
    ),
]


@pytest.mark.parametrize(("first", "skew"), SKEWS)
def test_signals_that_reach_the_ranks_apart(
    kit: Path, corpus: Path, tmp_path: Path, two: dict[str, Any], first: int, skew: float
) -> None:
    folder = tmp_path / "asked" / "run"
    command = words(kit, corpus, folder, 2)
    pids = spawn_two(lambda: train(*command, config_name="unlearn"), tmp_path / "log")
    while not (folder / run_dir.MANIFEST).exists():
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(pids[first], signal.SIGTERM)
    time.sleep(skew)
    os.kill(pids[1 - first], signal.SIGTERM)
    assert [after(pid, 60) for pid in pids] == [75, 75], (tmp_path / "log.0").read_text()
    assert run_two(command, tmp_path / "log") == [0, 0], (tmp_path / "log.0").read_text()
    assert (tmp_path / "log.1").read_text() == "", (
        "the first speaks for all, the libraries' warnings included"
    )
    assert json.loads((folder / run_dir.MANIFEST).read_text())["world"] == 2
    assert outcome(folder) == two
    tidy(folder)


def test_an_old_folder_is_moved_aside_once_and_a_refusal_reaches_both(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "again" / "run"
    quick = [
        w for w in words(kit, corpus, folder, 2) if "eval" not in w or w.startswith("experiment")
    ]
    quick += ["eval=null", "trainer.args.max_steps=1"]
    assert run_two(quick, tmp_path / "log") == [0, 0], (tmp_path / "log.0").read_text()
    assert run_two([*quick, "resume=never"], tmp_path / "log") == [0, 0], (
        tmp_path / "log.0"
    ).read_text()
    assert [path.name for path in folder.parent.iterdir() if "old" in path.name] == ["run.old1"]
    assert run_two([*quick, "trainer.args.learning_rate=1e-4"], tmp_path / "refused") == [2, 2]
    assert "trainer.args.learning_rate" in (tmp_path / "refused.0").read_text()
    assert (tmp_path / "refused.1").read_text() == "", "the first speaks for all"
