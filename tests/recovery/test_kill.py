"""Killed at any moment and started again, a run ends as if nothing had happened: same weights, same
log, same values."""

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.doors import evaluate, train
from tests.recovery.conftest import after, spawn
from unteach import fingerprints, run_dir
from unteach.training import checkpoint


def command(kit: Path, corpus: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        f"tofu_path={corpus}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer=NPO",
        "trainer.args.learning_rate=1e-3",
        "trainer.args.logging_steps=3",
        "trainer.args.num_train_epochs=4",
        "trainer.args.per_device_train_batch_size=2",
        "trainer.args.gradient_accumulation_steps=2",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=3",
        "trainer.args.eval_strategy=steps",
        "trainer.args.eval_steps=5",
        "eval.tofu.metrics=[forget_truth_ratio,forget_Q_A_ROUGE]",
        "eval.tofu.generation.max_new_tokens=12",
        "eval.tofu.batch_size=4",
        *extra,
    ]


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must be equal: the bytes of the model, the logged lines, the evaluations."""
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    timed = {
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "train_loss",
        "total_flos",
    }
    kept = [
        {k: v for k, v in line.items() if k not in timed}
        for line in lines
        if "train_runtime" not in line
    ]
    evals = {
        p.parent.name: json.loads((p / "TOFU_EVAL.json").read_text())
        for p in folder.glob("checkpoint-*/evals")
    }
    evals["final"] = json.loads((folder / run_dir.EVALS / "TOFU_EVAL.json").read_text())
    return {
        "weights": fingerprints.hash_files(folder / run_dir.FINAL / "model.safetensors"),
        "log": kept,
        "evals": evals,
    }


def tidy(folder: Path) -> None:
    left = [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert not left, f"half-written files are left: {left}"
    assert not checkpoint.list_checkpoints(folder), (
        "the rolling checkpoint of a finished run is deleted"
    )


@pytest.fixture(scope="module")
def undisturbed(
    kit: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    tmp_path = tmp_path_factory.mktemp("undisturbed")
    folder = tmp_path / "undisturbed" / "run"
    pid = spawn(
        lambda: train(*command(kit, corpus, folder), config_name="unlearn"),
        tmp_path / "undisturbed.log",
    )
    assert after(pid, 120) == 0, (tmp_path / "undisturbed.log").read_text()
    tidy(folder)
    return outcome(folder)


def kill_until_done(
    work: Any,
    log: Path,
    kills: int,
    longest: float,
    seed: int,
    signum: int = signal.SIGKILL,
    once: Path | None = None,
) -> list[int]:
    """Starts again and again, interrupting `kills` times at random moments; the exit codes."""
    chance, codes = random.Random(seed), []
    for _ in range(kills):
        codes.append(after(spawn(work, log), chance.uniform(0.05, longest), signum, once))
        if codes[-1] == 0:
            return codes
    codes.append(after(spawn(work, log), 120))
    assert codes[-1] == 0, log.read_text()[-3000:]
    return codes


def test_killed_anywhere_in_training_and_evaluation(
    kit: Path, corpus: Path, tmp_path: Path, undisturbed: Any
) -> None:
    folder = tmp_path / "killed" / "run"
    words = command(kit, corpus, folder)
    codes = kill_until_done(
        lambda: train(*words, config_name="unlearn"), tmp_path / "log", 8, 2.5, seed=0
    )
    assert -9 in codes
    assert outcome(folder) == undisturbed
    tidy(folder)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_killed_many_times(
    kit: Path, corpus: Path, tmp_path: Path, undisturbed: Any, seed: int
) -> None:
    folder = tmp_path / "killed" / "run"
    words = command(kit, corpus, folder)
    codes = kill_until_done(
        lambda: train(*words, config_name="unlearn"), tmp_path / "log", 12, 3, seed=seed + 1
    )
    print(codes)
    assert outcome(folder) == undisturbed
    tidy(folder)


WRAPPED = [
    "trainer.surgery={name: gru, momentum: 0.3}",
    "trainer.perturb={name: SAM, rho: 0.1}",
    "eval=null",
    "trainer.args.eval_strategy=no",
]


@pytest.mark.parametrize(
    "more",
    [
        [],
        pytest.param(
            ["trainer.perturb={name: RandomSmoothing, sigma: 0.01}"], marks=pytest.mark.long
        ),
    ],
    ids=["gru and SAM", "gru and random smoothing"],
)
def test_killed_under_surgery_and_a_perturbation(
    more: list[str], kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """GRU's running mean is in the checkpoints, the noise a function of the step: the same bytes."""
    folders = {name: tmp_path / name / "run" for name in ("whole", "killed")}

    def words(name: str) -> list[str]:
        kept = [w for w in command(kit, corpus, folders[name]) if not w.startswith("eval.")]
        kept = [w for w in kept if not w.startswith("trainer.args.eval_")]
        return [*kept, *(w for w in WRAPPED if not (more and "perturb" in w)), *more]

    work = {name: lambda name=name: train(*words(name), config_name="unlearn") for name in folders}
    assert after(spawn(work["whole"], tmp_path / "log"), 120) == 0, (tmp_path / "log").read_text()
    codes = kill_until_done(work["killed"], tmp_path / "log2", 6, 2.0, seed=1)
    assert -9 in codes
    first, second = (
        fingerprints.hash_files(folder / run_dir.FINAL / "model.safetensors")
        for folder in folders.values()
    )
    assert first == second
    tidy(folders["killed"])


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=pytest.mark.long)]
)
def test_asked_to_stop_it_saves_and_says_75(
    kit: Path, corpus: Path, tmp_path: Path, undisturbed: Any, signum: int
) -> None:
    folder = tmp_path / "stopped" / "run"
    words = command(kit, corpus, folder)
    codes = kill_until_done(
        lambda: train(*words, config_name="unlearn"),
        tmp_path / "log",
        6,
        1.5,
        3,
        signum,
        folder / run_dir.MANIFEST,
    )
    assert 75 in codes
    assert set(codes) <= {0, 75, -signum}, (
        "before it listens, a signal ends it as it ends any program"
    )
    assert outcome(folder) == undisturbed
    assert "the same command goes on" in (tmp_path / "log").read_text()


def test_a_broken_newest_checkpoint_is_skipped_and_named(
    kit: Path, corpus: Path, tmp_path: Path, undisturbed: Any
) -> None:
    folder = tmp_path / "broken" / "run"
    words = command(
        kit, corpus, folder, "trainer.args.save_total_limit=2", "trainer.args.keep_checkpoints=true"
    )
    assert after(spawn(lambda: train(*words, config_name="unlearn"), tmp_path / "log"), 120) == 0
    (step, newest), (_, older) = checkpoint.list_checkpoints(folder)
    (folder / run_dir.DONE).unlink()
    for gone in (folder / run_dir.FINAL).iterdir():
        gone.unlink()
    (folder / run_dir.FINAL).rmdir()
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert after(spawn(lambda: train(*words, config_name="unlearn"), tmp_path / "log2"), 120) == 0
    said = (tmp_path / "log2").read_text()
    assert f"checkpoint-{step}" in said.replace("\n", "")
    assert "instead of" in said
    assert json.loads((folder / run_dir.MANIFEST).read_text())["resumed_at"] == int(
        older.name.rpartition("-")[2]
    )
    assert outcome(folder)["weights"] == undisturbed["weights"]


@pytest.mark.long
@pytest.mark.parametrize("seed", [5, 6, 7, 8])
def test_eval_killed_anywhere(kit: Path, corpus: Path, tmp_path: Path, seed: int) -> None:
    def words(name: str) -> list[str]:
        return [
            "experiment=eval/tofu/default",
            "model=auto",
            f"model.model_args.pretrained_model_name_or_path={kit / 'retain'}",
            f"tofu_path={corpus}",
            "task_name=t",
            f"paths.output_dir={tmp_path / name / 'run'}",
            f"paths.cache_dir={tmp_path / name / 'cache'}",
            "eval.tofu.batch_size=2",
            "eval.tofu.generation.max_new_tokens=20",
        ]

    assert after(spawn(lambda: evaluate(*words("whole")), tmp_path / "log"), 120) == 0
    codes = kill_until_done(
        lambda: evaluate(*words("killed")), tmp_path / "log", 10, 1.5, seed=seed
    )
    assert -9 in codes
    files = [(tmp_path / name / "run/TOFU_EVAL.json").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
