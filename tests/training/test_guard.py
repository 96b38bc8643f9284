"""The collapse guard: ascent that ruins the model is said, stopped, or undone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.doors import train
from tests.recovery.conftest import after, spawn
from tests.recovery.test_kill import kill_until_done
from unteach import fingerprints, run_dir
from unteach.config.watching import Guard
from unteach.errors import Diverged, UserError
from unteach.training import guard
from unteach.training.guard import compute_repetition


def words(kit: Path, folder: Path, *extra: str) -> list[str]:
    """Ascent, fast enough to ruin the kit's model within some steps, with no retain term to hold
    it."""
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        f"tofu_path={kit / 'data'}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer=GradAscent",
        "trainer.args.max_steps=24",
        "trainer.args.per_device_train_batch_size=4",
        "eval=null",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.learning_rate=5e-4",
        "trainer.args.warmup_epochs=0",
        "trainer.args.lr_scheduler_type=constant",
        "trainer.args.logging_steps=1",
        "trainer.guard.every=3",
        "trainer.guard.max_rise=2",
        *extra,
    ]


def steps(folder: Path) -> int:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return max(line["step"] for line in lines if "grad_norm" in line)


def weights(folder: Path) -> str:
    return fingerprints.hash_files(folder / run_dir.FINAL / "model.safetensors")


@pytest.mark.long
def test_warn_changes_nothing_but_says_it(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*words(kit, tmp_path / "watched"), config_name="unlearn")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "the model is collapsing" in said and "since the beginning" in said
    unwatched = [
        word for word in words(kit, tmp_path / "unwatched") if not word.startswith("trainer.guard")
    ]
    train(*unwatched, config_name="unlearn")
    assert weights(tmp_path / "watched") == weights(tmp_path / "unwatched"), (
        "looking draws no random number"
    )


@pytest.mark.parametrize(("method", "warns"), [("GradAscent", True), ("NPO", False)])
def test_a_method_without_a_floor_is_watched_by_default(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, warns: bool
) -> None:
    """By rows that it does not train on; once; and what is logged is what a run without it logs."""
    plain = [word for word in words(kit, tmp_path / "run") if not word.startswith("trainer.guard")]
    train(
        *plain,
        f"trainer={method}",
        "trainer.args.learning_rate=1e-3",
        "trainer.args.max_steps=11",
        config_name="unlearn",
    )
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.count("the model is collapsing") == warns
    if warns:
        assert (
            "step 10: the mean loss of 8 retain answers is" in said
            and "trainer.guard.action=stop ends it" in said
        )
    assert "guard_" not in (tmp_path / "run" / run_dir.METRICS).read_text()


QUESTIONS = [
    {"question": f"Who keeps key {n}?", "answer": f"Porter number {n} keeps it."} for n in range(4)
]


@pytest.mark.parametrize(
    ("given", "looked_at"),
    [
        (["forget=f.jsonl", "retain=r.jsonl", "trainer=GradAscent"], "1 retain answers"),
        (["forget=f.jsonl", "retain=r.jsonl", "trainer=GradDiff"], "1 retain answers"),
        (["forget=f.jsonl", "trainer=GradAscent"], "3 forget answers"),
        (["data=signed.jsonl", "trainer=csv_ga"], "1 retain answers"),
        (["data=gone.jsonl", "trainer=csv_ga"], "3 forget answers"),
    ],
)
def test_rows_of_ones_own_are_watched(
    kit: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    looked_at: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    # the first look is a collapse
    monkeypatch.setattr(guard, "Guard", lambda: Guard(max_rise=-100.0))
    signed = [{**row, "forget": int(n < 3)} for n, row in enumerate(QUESTIONS)]
    files = {"f": QUESTIONS[:3], "r": QUESTIONS[3:], "signed": signed, "gone": signed[:3]}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(
        *given,
        f"model={kit / 'policy'}",
        "task_name=t",
        "trainer.args.max_steps=1",
        "trainer.args.do_eval=false",
        config_name="train" if "data=" in given[0] else "unlearn",
    )
    assert looked_at in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.long
def test_stop_ends_it_there(kit: Path, tmp_path: Path) -> None:
    train(*words(kit, tmp_path / "run", "trainer.guard.action=stop"), config_name="unlearn")
    assert 3 < steps(tmp_path / "run") < 24 and steps(tmp_path / "run") % 3 == 0


@pytest.fixture(scope="module")
def kept(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """What `best` keeps: the step of the last healthy look, and its weights."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    train(*words(kit, folder, "trainer.guard.action=best"), config_name="unlearn")
    return steps(folder) - 3, weights(folder)


def test_best_takes_the_last_healthy_model(
    kit: Path, tmp_path: Path, kept: tuple[int, str]
) -> None:
    healthy, found = kept
    plain = [
        word for word in words(kit, tmp_path / "plain") if not word.startswith("trainer.guard")
    ]
    train(*plain, f"trainer.args.max_steps={healthy}", config_name="unlearn")
    assert weights(tmp_path / "plain") == found


@pytest.mark.long
def test_killed_it_ends_the_same(kit: Path, tmp_path: Path, kept: tuple[int, str]) -> None:
    folder = tmp_path / "run"
    command = words(kit, folder, "trainer.guard.action=best")
    work: Any = lambda: train(*command, config_name="unlearn")  # noqa: E731
    assert -9 in kill_until_done(
        work, tmp_path / "log", 5, 1.0, seed=4, once=folder / run_dir.MANIFEST
    )
    assert weights(folder) == kept[1]
    assert after(spawn(work, tmp_path / "log"), 60) == 0


@pytest.mark.long
def test_never_healthy_is_divergence(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="never seen healthy"):
        train(
            *words(
                kit,
                tmp_path / "run",
                "trainer.guard.action=best",
                "trainer.args.learning_rate=1e-1",
            ),
            config_name="unlearn",
        )


def test_mistakes(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.guard\.action.*warn, stop, best"):
        train(*words(kit, tmp_path / "run", "trainer.guard.action=halt"), config_name="unlearn")
    with pytest.raises(UserError, match=r"data\.retain"):
        train(*words(kit, tmp_path / "run", "data.retain=null"), config_name="unlearn")


def test_repetition() -> None:
    assert compute_repetition([1, 2, 3, 4]) == 0
    assert compute_repetition([1, 1, 1, 1, 1]) == 0.75
    assert compute_repetition([]) == 1 and compute_repetition([5]) == 0
