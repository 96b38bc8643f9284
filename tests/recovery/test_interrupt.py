"""Ctrl-C: the first saves as SIGTERM does, the second ends at once, and what was whole before is
gone on from.

Signals are raised at chosen points of the run itself, not after some time.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.doors import train
from tests.recovery.conftest import after, spawn, spawn_two
from tests.recovery.test_kill import command, tidy
from unteach import fingerprints, run_dir
from unteach.training import checkpoint

INTERRUPTED = "unteach: interrupted; what was whole is kept, and the same command goes on from it\n"


def interrupting(
    owner: type, method: str, at: Callable[[Any], bool], times: int
) -> Callable[[], None]:
    """Has a process send itself Ctrl-C when a method begins where `at` is true; to be called in the
    child."""

    def prepare() -> None:
        real = getattr(owner, method)

        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            if at(self):
                for _ in range(times):
                    os.killpg(0, signal.SIGINT)
            return real(self, *args, **kwargs)

        setattr(owner, method, wrapped)

    return prepare


def start(words: list[str], log: Path, *prepared: Callable[[], None]) -> int:
    """The run in a process group of its own, as a terminal's foreground job is."""

    def work() -> None:
        os.setpgid(0, 0)
        for prepare in prepared:
            prepare()
        train(*words, config_name="unlearn")

    return spawn(work, log)


def at_step(step: int) -> Callable[[Any], bool]:
    return lambda trainer: trainer.state.global_step == step


def ask_in_step(step: int) -> Callable[[], None]:
    """Ctrl-C while a step is made, before anything looks whether it was asked to stop."""
    from unteach.training.trainer import Trainer

    return interrupting(Trainer, "get_batch_samples", at_step(step - 1), times=1)


def quick(kit: Path, corpus: Path, folder: Path, *extra: str) -> list[str]:
    """Eight steps, a checkpoint every three, no evaluation."""
    plain = [
        word
        for word in command(kit, corpus, folder)
        if "eval" not in word or word.startswith("experiment")
    ]
    return [*plain, "eval=null", "trainer.args.num_train_epochs=2", *extra]


def result(folder: Path) -> tuple[str, list[Any]]:
    """The weights, and the losses that were logged."""
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    return fingerprints.hash_files(folder / run_dir.FINAL / "model.safetensors"), losses


@pytest.fixture(scope="module")
def undisturbed(
    kit: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Any]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert after(start(quick(kit, corpus, folder), folder.parent / "log"), 120) == 0
    return result(folder)


def test_the_first_saves_and_the_same_command_goes_on(
    kit: Path, corpus: Path, tmp_path: Path, undisturbed: Any
) -> None:
    """At a step that writes no checkpoint of its own, with workers that hear the terminal's Ctrl-C
    too."""
    folder, log = tmp_path / "stopped" / "run", tmp_path / "log"
    words = quick(kit, corpus, folder, "trainer.args.dataloader_num_workers=1")
    assert after(start(words, log, ask_in_step(4)), 120) == 75, log.read_text()
    said = log.read_text()
    assert (
        said.count("stopping after this step, to save it. Ctrl-C again ends now, without saving")
        == 1
    )
    assert said.endswith("unteach: saved step 4 of 8; the same command goes on\n")
    assert "KeyboardInterrupt" not in said
    assert checkpoint.find_newest(folder)[0] == folder / "checkpoint-4"
    assert after(start(words, log), 120) == 0
    assert f"goes on     from step 4 of 8 ({folder / 'checkpoint-4'})" in log.read_text()
    assert result(folder) == undisturbed
    tidy(folder)


@pytest.mark.parametrize(
    "inside",
    ["_save_optimizer_and_scheduler", pytest.param("_save_rng_state", marks=pytest.mark.long)],
)
def test_the_second_inside_a_save_leaves_the_checkpoint_before(
    kit: Path, corpus: Path, tmp_path: Path, undisturbed: Any, inside: str
) -> None:
    from unteach.training.trainer import Trainer

    folder, log = tmp_path / "cut" / "run", tmp_path / "log"
    words = quick(kit, corpus, folder)
    cut = interrupting(Trainer, inside, at_step(4), times=1)
    assert after(start(words, log, ask_in_step(4), cut), 120) == 130, log.read_text()
    assert log.read_text().endswith(INTERRUPTED)
    assert (folder / "checkpoint-4").exists() and checkpoint.find_fault(
        folder / "checkpoint-4"
    ) == "it was not finished"
    assert checkpoint.find_newest(folder)[0] == folder / "checkpoint-3"
    assert after(start(words, log), 120) == 0
    assert "goes on     from step 3 of 8" in log.read_text()
    assert result(folder) == undisturbed
    tidy(folder)


def test_an_evaluation_that_was_due_does_not_put_its_only_checkpoint_at_risk(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """Stopped in the evaluation of step 5, and again when the run goes on with it: nothing is
    written once more."""
    from unteach.training.trainer import Trainer

    folder, log = tmp_path / "due" / "run", tmp_path / "log"
    words = command(kit, corpus, folder)
    asked = interrupting(Trainer, "evaluate", lambda trainer: True, times=1)
    assert after(start(words, log, asked), 120) == 75, log.read_text()
    assert checkpoint.find_newest(folder)[0] == folder / "checkpoint-5"
    whole = {path.name: path.stat().st_mtime_ns for path in (folder / "checkpoint-5").iterdir()}
    assert after(start(words, log, asked), 120) == 75, log.read_text()
    assert {
        path.name: path.stat().st_mtime_ns for path in (folder / "checkpoint-5").iterdir()
    } == whole


def test_while_the_model_is_loaded_one_ends_it(kit: Path, corpus: Path, tmp_path: Path) -> None:
    from unteach.models import loading

    def prepare() -> None:
        real = loading.load

        def load(*args: Any, **kwargs: Any) -> Any:
            os.killpg(0, signal.SIGINT)
            return real(*args, **kwargs)

        loading.load = load

    log = tmp_path / "log"
    assert after(start(quick(kit, corpus, tmp_path / "run"), log, prepare), 60) == 130
    assert log.read_text() == INTERRUPTED


def test_a_job_that_ignores_it_keeps_to_that(kit: Path, corpus: Path, tmp_path: Path) -> None:
    """As a shell starts jobs in the background, and a study its runs."""
    words = quick(kit, corpus, tmp_path / "run", "trainer.args.max_steps=2")
    ignored = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    assert after(start(words, tmp_path / "log", ignored, ask_in_step(1)), 60) == 0


def test_two_ranks_save_together(kit: Path, corpus: Path, tmp_path: Path) -> None:
    """Both hear the Ctrl-C; both stop after the same step, and the first alone speaks."""
    folder = tmp_path / "run"
    words = quick(kit, corpus, folder, "trainer.args.per_device_train_batch_size=1")

    def work() -> None:
        os.setpgid(0, 0)
        ask_in_step(2)()
        train(*words, config_name="unlearn")

    pids = spawn_two(work, tmp_path / "log")
    assert [after(pid, 120) for pid in pids] == [75, 75], (tmp_path / "log.0").read_text()
    first, second = ((tmp_path / f"log.{rank}").read_text() for rank in (0, 1))
    assert first.endswith("unteach: saved step 2 of 8; the same command goes on\n")
    assert "unteach" not in second and "stopping" not in second
    assert checkpoint.find_newest(folder)[0] == folder / "checkpoint-2"
    assert not (folder / run_dir.FINAL).exists()
