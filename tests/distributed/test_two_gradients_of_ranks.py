"""Two processes with surgery and perturbations take the steps of one, and go on exactly."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.test_parallel_modes import (
    alone,
    logged,
    said,
    same,
    together,
    weights,
    words,
)
from tests.doors import train
from tests.recovery.conftest import after, corpus, spawn_two  # noqa: F401
from unteach import run_dir

pytestmark = pytest.mark.long
LORA = ["model.peft_args.r=4", "model.peft_args.target_modules=all-linear"]
LAT = r"trainer.perturb={name: LAT, steps: 2, module: 'model\.layers\.1\.mlp'}"
SGD = "trainer.args.optim=sgd"
CASES = {
    "pcgrad, a frozen copy's head": [
        "trainer=NPO",
        "trainer.method_args.retain_loss_type=KL",
        "trainer.surgery=pcgrad",
    ],
    "gru and SAM, passes that end at a layer": [
        "trainer=RMU",
        r"trainer.method_args.module_regex='model\.layers\.1'",
        "trainer.method_args.retain_loss_type=NLL",
        "trainer.surgery={name: gru, ce_coeff: 1.0}",
        "trainer.perturb={name: SAM, rho: 0.1}",
        SGD,
    ],
    "blur and random smoothing": [
        "trainer=GradDiff",
        "trainer.surgery=blur",
        "trainer.perturb={name: RandomSmoothing, sigma: 0.01, n: 2}",
        SGD,
    ],
    "ngdiff and an attack": ["trainer=GradDiff", "trainer.surgery=ngdiff", LAT, SGD],
    "an adapter": [
        "trainer=NPO",
        "trainer.method_args.retain_loss_type=KL",
        "trainer.surgery={name: pcgrad, per: global}",
        "trainer.perturb={name: SAM, rho: 0.1}",
        *LORA,
        SGD,
        "trainer.args.learning_rate=0.1",
    ],
    "an adapter under attack": ["trainer=GradDiff", LAT, *LORA, SGD],
}


@pytest.fixture(scope="module")
def of_one(kit: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a case carried out by one process; made once."""
    made: dict[str, Path] = {}

    def run(case: str) -> Path:
        if case not in made:
            made[case] = tmp_path_factory.mktemp("one") / "run"
            command = words(kit, corpus, made[case], 4, *CASES[case], "eval=null")
            alone(command, made[case].with_suffix(".log"))
        return made[case]

    return run


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_two_processes_step_as_one(
    case: str, mode: str, kit: Path, corpus: Path, tmp_path: Path, of_one: Any
) -> None:
    one, two = of_one(case), tmp_path / "run"
    command = words(kit, corpus, two, 2, *CASES[case], "eval=null", f"launch={mode}")
    assert together(command, tmp_path / "log") == [0, 0], said(tmp_path / "log")
    same(one, two)


def test_two_processes_take_turns_as_one(kit: Path, corpus: Path, tmp_path: Path) -> None:
    """DualOptim: steps of one side, each with moments of its own."""
    dual = ["trainer=NPO", "trainer.dual_optim={retain_steps: 2}", "eval=null"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone(words(kit, corpus, one, 4, *dual), tmp_path / "one.log")
    log = tmp_path / "two.log"
    assert together(words(kit, corpus, two, 2, *dual, "launch=ddp"), log) == [0, 0], said(log)
    same(one, two)


def test_half_precision_is_computed_and_the_weights_come_back(
    kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """FSDP2 gathers weights in bf16: moved shards are gathered anew."""
    extra = ("trainer=GradDiff", "eval=null", SGD, "model.model_args.dtype=bfloat16")
    perturb = ("trainer.perturb={name: RandomSmoothing, sigma: 0.02, n: 2}", "trainer.surgery=gru")
    alone(words(kit, corpus, tmp_path / "one", 2, *extra, *perturb), tmp_path / "one.log")
    log = tmp_path / "two.log"
    command = words(kit, corpus, tmp_path / "two", 1, *extra, *perturb, "launch=fsdp2")
    assert together(command, log) == [0, 0], said(log)
    for alone_, together_ in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert together_["loss"] == pytest.approx(alone_["loss"], rel=3e-2)
        assert together_["grad_norm"] == pytest.approx(alone_["grad_norm"], rel=3e-2)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_killed_it_goes_on_with_the_memory_of_gru(
    mode: str, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    """The same bytes as a run that nobody killed: the running mean is in checkpoints, by shards
    under FSDP2."""

    def command(folder: Path) -> list[str]:
        extra = [
            "trainer=NPO",
            "trainer.surgery={name: gru, momentum: 0.3}",
            "trainer.perturb={name: SAM, rho: 0.1}",
            "trainer.args.max_steps=12",
            "trainer.args.save_strategy=steps",
            "trainer.args.save_steps=4",
            "eval=null",
            f"launch={mode}",
        ]
        return words(kit, corpus, folder, 1, *extra)

    whole, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"
    assert together(command(whole), tmp_path / "whole.log") == [0, 0], said(tmp_path / "whole.log")
    chance = random.Random(0)
    for signum in (signal.SIGTERM, signal.SIGKILL):
        pids = spawn_two(lambda: train(*command(cut), config_name="unlearn"), tmp_path / "log")
        metrics = cut / run_dir.METRICS
        lines = (len(logged(cut)) if metrics.exists() else 0) + chance.randint(1, 4)
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not (metrics.exists() and len(logged(cut)) >= lines):
            time.sleep(0.02)
        for pid in pids:
            os.kill(pid, signum)
        for pid in pids:
            after(pid, 100)
    assert together(command(cut), tmp_path / "log") == [0, 0], said(tmp_path / "log")
    assert json.loads((cut / run_dir.MANIFEST).read_text())["resumed_at"] > 0
    assert logged(cut) == logged(whole)
    first, second = weights(whole), weights(cut)
    assert all(torch.equal(first[name], second[name]) for name in first)
