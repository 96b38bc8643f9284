"""Keeping the best, stopping early, and going back to a named checkpoint; killed in between, they
end the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.doors import train
from tests.recovery.conftest import after, spawn
from tests.recovery.test_kill import command, kill_until_done, outcome, tidy
from unteach import fingerprints, run_dir
from unteach.errors import UserError
from unteach.training import checkpoint


def words(kit: Path, corpus: Path, folder: Path, *extra: str) -> list[str]:
    """Ascent without end: the sooner it stops, the higher the answers' probability."""
    return [
        *command(kit, corpus, folder),
        "trainer=GradDiff",
        "trainer.args.eval_steps=2",
        "trainer.args.save_steps=2",
        "eval.tofu.metrics=[forget_Q_A_Prob]",
        "trainer.args.load_best_model_at_end=true",
        "trainer.args.metric_for_best_model=tofu_forget_Q_A_Prob",
        "trainer.args.greater_is_better=true",
        *extra,
    ]


def probabilities(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return {
        line["step"]: line["eval_tofu_forget_Q_A_Prob"]
        for line in lines
        if "eval_tofu_forget_Q_A_Prob" in line
    }


def final(folder: Path) -> float:
    return json.loads((folder / run_dir.EVALS / "TOFU_SUMMARY.json").read_text())["forget_Q_A_Prob"]


def test_the_best_is_kept(kit: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "best" / "run"
    train(*words(kit, corpus, folder), config_name="unlearn")
    measured = probabilities(folder)
    assert len(measured) > 3
    best = max(measured, key=lambda step: measured[step])
    assert best != max(measured), "the last is not the best, or this shows nothing"
    assert final(folder) == pytest.approx(measured[best], abs=1e-6)
    tidy(folder)


def stopping(kit: Path, corpus: Path, folder: Path) -> list[str]:
    return words(
        kit,
        corpus,
        folder,
        "trainer.args.early_stopping_patience=2",
        "trainer.args.num_train_epochs=10",
    )


@pytest.fixture(scope="module")
def stopped(kit: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tmp_path = tmp_path_factory.mktemp("stopped")
    folder = tmp_path / "stopped" / "run"
    assert (
        after(
            spawn(
                lambda: train(*stopping(kit, corpus, folder), config_name="unlearn"),
                tmp_path / "log",
            ),
            120,
        )
        == 0
    )
    measured = probabilities(folder)
    best = max(measured, key=lambda step: measured[step])
    assert max(measured) == best + 2 * 2, "two evaluations without a better one, and it ended"
    assert final(folder) == pytest.approx(measured[best], abs=1e-6)
    return outcome(folder)


@pytest.mark.long
def test_stopping_early_survives_being_killed(
    kit: Path, corpus: Path, tmp_path: Path, stopped: dict[str, Any]
) -> None:
    folder = tmp_path / "killed" / "run"
    work = lambda: train(*stopping(kit, corpus, folder), config_name="unlearn")  # noqa: E731
    codes = kill_until_done(work, tmp_path / "log", 6, 1.5, seed=2, once=folder / run_dir.MANIFEST)
    assert -9 in codes
    assert outcome(folder) == stopped
    tidy(folder)


@pytest.mark.long
def test_killed_after_the_last_evaluation_it_does_not_train_on(
    kit: Path, corpus: Path, tmp_path: Path, stopped: dict[str, Any]
) -> None:
    """The checkpoint of the evaluation at which it stopped is all that is left of the end."""
    folder = tmp_path / "again" / "run"
    command = [*stopping(kit, corpus, folder), "trainer.args.keep_checkpoints=true"]
    assert after(spawn(lambda: train(*command, config_name="unlearn"), tmp_path / "log"), 120) == 0
    (folder / run_dir.DONE).unlink()
    shutil.rmtree(folder / run_dir.FINAL)
    assert after(spawn(lambda: train(*command, config_name="unlearn"), tmp_path / "log"), 120) == 0
    assert outcome(folder)["weights"] == stopped["weights"]
    assert outcome(folder)["log"] == stopped["log"]


@pytest.mark.long
def test_a_metric_that_is_absent_is_named(kit: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tofu_forget_quality.*is not measured"):
        train(
            *words(
                kit,
                corpus,
                tmp_path / "a",
                "trainer.args.metric_for_best_model=tofu_forget_quality",
            ),
            config_name="unlearn",
        )
    extra = ("eval.tofu.metrics=default", "trainer.args.metric_for_best_model=tofu_forget_quality")
    with pytest.raises(UserError, match=r"no such value.*With a value: tofu_"):
        train(*words(kit, corpus, tmp_path / "b", *extra), config_name="unlearn")


@pytest.mark.long
def test_going_back_to_a_named_checkpoint(kit: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "back" / "run"
    keep = (
        "trainer.args.keep_checkpoints=true",
        "trainer.args.save_total_limit=3",
        "eval.tofu.metrics=[forget_Q_A_Prob]",
    )
    train(*command(kit, corpus, folder, *keep), config_name="unlearn")
    first = outcome(folder)
    start = checkpoint.list_checkpoints(folder)[-1][1]
    train(*command(kit, corpus, folder, *keep, f"resume={start}"), config_name="unlearn")
    assert (folder / f"{run_dir.FINAL}.old1").exists(), "the model made before is moved aside"
    assert json.loads((folder / run_dir.MANIFEST).read_text())[
        "resumed_at"
    ] == checkpoint.parse_step(start)
    assert outcome(folder) == first
    marker = (folder / run_dir.DONE).stat().st_mtime_ns
    train(*command(kit, corpus, folder, *keep, f"resume={start}"), config_name="unlearn")
    assert (folder / run_dir.DONE).stat().st_mtime_ns == marker, (
        "the same command once more has nothing to do"
    )


@pytest.mark.long
def test_a_checkpoint_of_another_run_can_be_gone_on_from_only_with_its_configuration(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    keep = ("trainer.args.keep_checkpoints=true", "eval=null", "trainer.args.eval_strategy=no")
    train(
        *[
            w
            for w in command(kit, corpus, tmp_path / "one" / "run", *keep)
            if not w.startswith("eval.")
        ],
        config_name="unlearn",
    )
    start = checkpoint.list_checkpoints(tmp_path / "one" / "run")[0][1]
    other = [
        w
        for w in command(kit, corpus, tmp_path / "two" / "run", *keep, f"resume={start}")
        if not w.startswith("eval.")
    ]
    train(*other, config_name="unlearn")
    first, second = (
        fingerprints.hash_files(tmp_path / name / "run" / run_dir.FINAL / "model.safetensors")
        for name in ("one", "two")
    )
    assert first == second
    with pytest.raises(UserError, match=r"another configuration.*trainer\.args\.learning_rate"):
        train(
            *other,
            "trainer.args.learning_rate=1e-5",
            f"paths.output_dir={tmp_path / 'three'}",
            config_name="unlearn",
        )


@pytest.mark.long
def test_a_checkpoint_with_the_model_alone_is_not_gone_on_from(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    extra = (
        "trainer.args.save_only_model=true",
        "trainer.args.keep_checkpoints=true",
        "eval.tofu.metrics=[forget_Q_A_Prob]",
    )
    train(*command(kit, corpus, tmp_path / "run", *extra), config_name="unlearn")
    assert checkpoint.find_newest(tmp_path / "run")[0] is None
    assert "model only" in checkpoint.find_newest(tmp_path / "run")[1][0]
