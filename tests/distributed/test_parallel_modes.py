"""Two processes in every way a run can be spread: the steps, weights and evaluation of one process,
and exact resume."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.doors import train
from tests.recovery.conftest import after, corpus, free_port, spawn, spawn_two  # noqa: F401
from unteach import run_dir
from unteach.models import forward
from unteach.training import checkpoint

LONG = pytest.mark.long
SHARDED = ["fsdp2", pytest.param("zero3", marks=LONG)]
EVERY = [*(pytest.param(mode, marks=LONG) for mode in ("ddp", "zero2", "fsdp2", "zero3"))]
CASES = {
    "a table and a frozen copy's head": ["trainer=NPO", "trainer.method_args.retain_loss_type=KL"],
    "plain gradient descent, clipped": ["trainer=GradDiff", "trainer.args.optim=sgd"],
    "a pass that ends at a layer, some weights frozen": [
        "trainer=RMU",
        r"trainer.method_args.module_regex='model\.layers\.1'",
        "trainer.method_args.adaptive=true",
        "trainer.method_args.trainable_params_regex=['.*mlp.*']",
    ],
    "states at several modules": [
        "trainer=CircuitBreaker",
        "trainer.method_args.retain_layers=[embedding,layers.0.mlp,layers.1]",
        "trainer.method_args.ramp_steps=4",
        "trainer.args.max_steps=2",
    ],
    "a lens, and modules inside layers": [
        "trainer=RepNoise",
        "data.forget=TOFU_QA_forget_idk",
        "trainer.method_args.beta=0.0",
    ],
    "an adapter, and the model without it": [
        "trainer=NPO",
        "trainer.method_args.retain_loss_type=KL",
        "model.peft_args.r=4",
        "model.peft_args.target_modules=all-linear",
    ],
}
EVALUATED = [
    "eval.tofu.metrics=[forget_truth_ratio,forget_Q_A_ROUGE]",
    "eval.tofu.generation.max_new_tokens=20",
    "trainer.args.eval_strategy=steps",
    "trainer.args.eval_steps=2",
]


def words(kit: Path, rows: Path, folder: Path, accumulation: int, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        f"tofu_path={rows}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer.args.logging_steps=1",
        "trainer.args.max_steps=2",
        "trainer.args.learning_rate=1e-3",
        "trainer.args.lr_scheduler_type=constant",
        "trainer.args.warmup_epochs=0",
        "trainer.args.adam_epsilon=1e-5",
        "trainer.args.per_device_train_batch_size=1",
        f"trainer.args.gradient_accumulation_steps={accumulation}",
        *extra,
    ]


def alone(command: list[str], log: Path) -> None:
    assert after(spawn(lambda: train(*command, config_name="unlearn"), log), 200) == 0, (
        log.read_text()[-3000:]
    )


@functools.cache
def deepspeed_is_built() -> None:
    """DeepSpeed compiles what it needs on the CPU at its first start: no run's time is for that."""
    build = (
        "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as builder; builder().load()"
    )
    subprocess.run(
        [sys.executable, "-c", build],
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        timeout=800,
        check=True,
    )


def together(command: list[str], log: Path) -> list[int | None]:
    if any(word.startswith("launch=zero") for word in command):
        deepspeed_is_built()
    return [
        after(pid, 250) for pid in spawn_two(lambda: train(*command, config_name="unlearn"), log)
    ]


def said(log: Path) -> str:
    return "\n".join(log.with_suffix(f".{rank}").read_text()[-2000:] for rank in (0, 1))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    [file] = (folder / run_dir.FINAL).glob("*.safetensors")
    return load_file(file)


def logged(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return [line for line in lines if "train_runtime" not in line]


def same(one: Path, two: Path, start: Path | None = None) -> None:
    """Losses, true gradient norms and final weights within fp32 rounding; and where they started,
    they are no longer.

    Adam makes whole steps of gradients that are mere rounding; with an epsilon above that of fp32
    (`words`) it does not.
    """
    for alone_, together_ in zip(logged(one), logged(two), strict=True):
        assert alone_.keys() == together_.keys()
        assert together_ == pytest.approx(alone_, rel=1e-4, abs=1e-5)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    moved = 0.0
    began = load_file(start / "model.safetensors") if start else {}
    for name, value in first.items():
        assert second[name].dtype == value.dtype == torch.float32
        assert torch.allclose(second[name], value, atol=2e-6, rtol=1e-5), name
        moved += float((value - began.get(name, 0)).abs().max())
    assert moved > 1e-4
    assert (one / run_dir.FINAL / "tokenizer.json").exists()


@pytest.fixture(scope="module")
def of_one(kit: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a case carried out by one process; made once."""
    made: dict[str, Path] = {}

    def run(case: str, *extra: str) -> Path:
        if case not in made:
            made[case] = tmp_path_factory.mktemp("one") / "run"
            alone(
                words(kit, corpus, made[case], 4, *CASES[case], *extra),
                made[case].with_suffix(".log"),
            )
        return made[case]

    return run


@pytest.mark.parametrize("mode", SHARDED)
def test_a_sharded_run_steps_and_measures_as_one_process(
    mode: str,
    kit: Path,
    corpus: Path,
    tmp_path: Path,
    of_one: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table, a frozen copy, chunks of unequal count, generation of unequal length; suites while
    training and after."""
    case = "a table and a frozen copy's head"
    monkeypatch.setattr(forward, "CHUNK_ELEMENTS", 8 * 1024)
    one, two = of_one(case, *EVALUATED), tmp_path / "run"
    command = words(kit, corpus, two, 2, *CASES[case], *EVALUATED, f"launch={mode}")
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    same(one, two, kit / "policy")
    files = sorted(file.relative_to(one) for file in one.rglob("TOFU_EVAL.json"))
    assert len(files) == 2, "once while training, and once after"
    for file in files:
        found, wanted = (json.loads((folder / file).read_text()) for folder in (two, one))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name]["agg_value"] == pytest.approx(value["agg_value"], abs=1e-5), (
                file,
                name,
            )
    assert json.loads((two / run_dir.MANIFEST).read_text())["mode"] == mode


@pytest.mark.parametrize("case", list(CASES)[1:])
@pytest.mark.parametrize("mode", EVERY)
def test_every_way_steps_as_one_process(
    case: str,
    mode: str,
    kit: Path,
    corpus: Path,
    tmp_path: Path,
    of_one: Any,
) -> None:
    one, two = of_one(case, "eval=null"), tmp_path / "run"
    command = words(kit, corpus, two, 2, *CASES[case], "eval=null", f"launch={mode}")
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    same(one, two)


def stopping(kit: Path, rows: Path, folder: Path, mode: str, case: str) -> list[str]:
    extra = [
        "trainer.args.max_steps=12",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=4",
        "eval=null",
    ]
    return words(kit, rows, folder, 1, *CASES[case], *extra, f"launch={mode}")


@LONG
@pytest.mark.timeout(1200)  # five runs of two processes
@pytest.mark.parametrize(
    "case", ["a table and a frozen copy's head", "an adapter, and the model without it"]
)
@pytest.mark.parametrize("mode", ["ddp", "fsdp2", "zero2", "zero3"])
def test_stopped_and_killed_it_ends_as_if_nothing_had_happened(
    mode: str,
    case: str,
    kit: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    whole, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"
    command = stopping(kit, corpus, whole, mode, case)
    assert together(command, tmp_path / "whole.log") == [0, 0], said(tmp_path / "whole.log")
    command, chance, codes = stopping(kit, corpus, cut, mode, case), random.Random(0), []
    if mode.startswith("zero"):
        deepspeed_is_built()
    for signum in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        pids = spawn_two(lambda: train(*command, config_name="unlearn"), tmp_path / "log")
        lines = (len(logged(cut)) if (cut / run_dir.METRICS).exists() else 0) + chance.randint(1, 3)
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not (
            (cut / run_dir.METRICS).exists() and len(logged(cut)) >= lines
        ):
            time.sleep(0.02)
        for pid in pids if signum == signal.SIGKILL else pids[:1]:
            os.kill(pid, signum)
        codes.append([after(pid, 100) for pid in pids])
    assert codes == [[75, 75], [-9, -9], [-9, -9]], said(tmp_path / "log")
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    assert json.loads((cut / run_dir.MANIFEST).read_text())["resumed_at"] > 0
    assert logged(cut) == logged(whole)
    first, second = weights(whole), weights(cut)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not checkpoint.list_checkpoints(cut)


@LONG
@pytest.mark.parametrize("mode", ["fsdp2", "zero2", "zero3"])
def test_the_best_is_kept_and_a_run_that_was_over_trains_no_further(
    mode: str,
    kit: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    command = words(
        kit,
        corpus,
        folder,
        2,
        "trainer=GradDiff",
        *EVALUATED,
        "trainer.args.eval_steps=1",
        "trainer.args.save_steps=1",
        "eval.tofu.metrics=[forget_Q_A_Prob]",
        "trainer.args.save_strategy=steps",
        "trainer.args.keep_checkpoints=true",
        "trainer.args.max_steps=3",
        "trainer.args.load_best_model_at_end=true",
        "trainer.args.metric_for_best_model=tofu_forget_Q_A_Prob",
        "trainer.args.greater_is_better=true",
        f"launch={mode}",
    )
    command = [
        word for word in command if word != "trainer.args.eval_steps=2" and word != EVALUATED[0]
    ]
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")

    def probability(where: Path) -> float:
        return json.loads((where / "TOFU_SUMMARY.json").read_text())["forget_Q_A_Prob"]

    measured = {
        step: probability(folder / f"checkpoint-{step}" / run_dir.EVALS) for step in (1, 2, 3)
    }
    assert measured[1] > measured[2] > measured[3], "ascent: the first is the best"
    assert probability(folder / run_dir.EVALS) == pytest.approx(measured[1], abs=1e-5)
    first = weights(folder)
    (folder / run_dir.DONE).unlink()
    (folder / run_dir.FINAL).rename(tmp_path / "moved")
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    assert len(logged(folder)) == len({(line["step"], "loss" in line) for line in logged(folder)})
    again = weights(folder)
    assert all(torch.equal(first[name], again[name]) for name in first)


@LONG
@pytest.mark.parametrize("mode", ["ddp", "fsdp2", "zero2", "zero3"])
def test_a_gradient_that_is_not_finite_ends_all_before_the_step(
    mode: str,
    kit: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    extra = ("trainer=GradDiff", "eval=null", "trainer.args.learning_rate=1e30", f"launch={mode}")
    codes = together(words(kit, corpus, tmp_path / "run", 1, *extra), tmp_path / "log")
    assert codes == [3, 3], said(tmp_path / "log")
    assert "the gradient is not finite" in (tmp_path / "log.0").read_text()


@LONG
def test_bfloat16_is_computed_and_float32_kept(kit: Path, corpus: Path, tmp_path: Path) -> None:
    """By plain gradient descent, whose steps are as near as the gradients; Adam makes whole steps
    of rounding."""
    extra = (
        "trainer=GradDiff",
        "trainer.args.optim=sgd",
        "eval=null",
        "model.model_args.dtype=bfloat16",
    )
    alone(words(kit, corpus, tmp_path / "one", 2, *extra), tmp_path / "one.log")
    began, one = load_file(kit / "policy" / "model.safetensors"), weights(tmp_path / "one")
    moved = torch.cat([(one[name] - began[name]).flatten() for name in began])
    for mode in ("fsdp2", "zero2", "zero3"):
        log = tmp_path / f"{mode}.log"
        assert together(words(kit, corpus, tmp_path / mode, 1, *extra, f"launch={mode}"), log) == [
            0,
            0,
        ], said(log)
        two = weights(tmp_path / mode)
        assert all(value.dtype == torch.float32 for value in two.values())
        apart = torch.cat([(two[name] - one[name]).flatten() for name in began])
        assert apart.norm() < 0.05 * moved.norm(), mode


@LONG
@pytest.mark.parametrize("mode", ["fsdp2", "zero2", "zero3"])
def test_in_bfloat16_too_a_run_goes_on_from_its_own_masters(
    mode: str,
    kit: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    command = words(
        kit,
        corpus,
        folder,
        1,
        "trainer=GradDiff",
        "eval=null",
        "model.model_args.dtype=bfloat16",
        f"launch={mode}",
        "trainer.args.max_steps=3",
        "trainer.args.save_strategy=steps",
        "trainer.args.save_steps=1",
        "trainer.args.keep_checkpoints=true",
        "trainer.args.save_total_limit=3",
    )
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    whole, lines = weights(folder), logged(folder)
    for gone in (folder / run_dir.FINAL, folder / "checkpoint-2", folder / "checkpoint-3"):
        shutil.rmtree(gone)
    (folder / run_dir.DONE).unlink()
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    assert json.loads((folder / run_dir.MANIFEST).read_text())["resumed_at"] == 1
    assert logged(folder) == lines
    assert all(torch.equal(value, weights(folder)[name]) for name, value in whole.items())


@LONG
@pytest.mark.parametrize("mode", ["ddp", "fsdp2", "zero3"])
def test_the_watch_of_an_ascent_speaks_once_for_all_processes(
    mode: str,
    kit: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    extra = (
        "trainer=GradAscent",
        "eval=null",
        "trainer.args.learning_rate=3e-2",
        "trainer.args.max_steps=20",
    )
    command = words(kit, corpus, tmp_path / "run", 1, *extra, f"launch={mode}")
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    of_main, of_other = (
        (tmp_path / f"log.{rank}").read_text().replace("\n", " ") for rank in (0, 1)
    )
    assert of_main.count("the model is collapsing") == 1
    assert "the model is collapsing" not in of_other
