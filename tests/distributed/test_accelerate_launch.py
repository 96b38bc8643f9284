"""The real commands: by launch=, by accelerate and by torchrun; what they print, how they end, what
stops them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.test_parallel_modes import deepspeed_is_built, words
from tests.doors import evaluate
from tests.recovery.conftest import after, corpus, spawn, spawn_two  # noqa: F401
from unteach import run_dir
from unteach.distributed import accelerate_launch
from unteach.training import checkpoint

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
UNTEACH = ["-m", "unteach", "unlearn"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
    *UNTEACH,
]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]


def by_file(mode: str) -> list[str]:
    return [
        *ACCELERATE,
        "--config_file",
        str(accelerate_launch.find_launch_file(mode)),
        "--num_processes",
        "2",
        *UNTEACH,
    ]


@pytest.fixture
def command(kit: Path, corpus: Path, tmp_path: Path) -> list[str]:
    return words(kit, corpus, tmp_path / "run", 2, "trainer=GradDiff", "eval=null")


STARTS = {
    "launch=ddp": ([sys.executable, *UNTEACH], ["launch=ddp", "nproc=2"], "ddp"),
    "launch=zero3": ([sys.executable, *UNTEACH], ["launch=zero3", "nproc=2"], "zero3"),
    "accelerate fsdp2": (by_file("fsdp2"), [], "fsdp2"),
    "accelerate zero2": (by_file("zero2"), [], "zero2"),
    "torchrun": (TORCHRUN, [], "ddp"),
    "torchrun fsdp2": (TORCHRUN, ["launch=fsdp2"], "fsdp2"),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_run_starts_and_the_first_process_speaks(
    start: str, command: list[str], tmp_path: Path
) -> None:
    launcher, extra, mode = STARTS[start]
    if mode.startswith("zero"):
        deepspeed_is_built()
    done = subprocess.run(
        [*launcher, *command, *extra], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("model: ") == 1
    told = json.loads((tmp_path / "run" / run_dir.MANIFEST).read_text())
    assert (told["world"], told["mode"]) == (2, mode)
    assert run_dir.is_done(tmp_path / "run")


def test_one_process_where_two_were_asked_for_is_an_error(command: list[str]) -> None:
    start = [*ACCELERATE, "--cpu", "--num_processes", "2", "--num_machines", "1", *UNTEACH]
    done = subprocess.run(
        [*start, *command], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode != 0
    assert "asked for several processes and started one" in done.stderr
    assert "launch=ddp|fsdp2|zero2|zero3 nproc=N" in done.stderr


def test_a_mistake_is_said_once_with_its_code(command: list[str]) -> None:
    start = [sys.executable, *UNTEACH, *command, "launch=ddp", "nproc=2", "tofu_path=nowhere"]
    done = subprocess.run(start, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert "nowhere" in done.stderr


def test_asked_to_stop_it_saves_and_the_same_command_goes_on(
    command: list[str], tmp_path: Path
) -> None:
    start = [
        sys.executable,
        *UNTEACH,
        *command,
        "trainer.args.max_steps=40",
        "launch=fsdp2",
        "nproc=2",
    ]
    with (tmp_path / "log").open("w") as log:
        asked = subprocess.Popen(start, stdout=log, stderr=log)
        metrics, deadline = tmp_path / "run" / run_dir.METRICS, time.monotonic() + 300
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
            time.sleep(0.05)
        asked.send_signal(signal.SIGTERM)
        assert asked.wait(300) == 75, (tmp_path / "log").read_text()[-3000:]
    assert checkpoint.find_newest(tmp_path / "run")[0] is not None
    done = subprocess.run(start, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / run_dir.MANIFEST).read_text())["resumed_at"] > 0


@pytest.mark.parametrize("mode", ["fsdp2", "zero3"])
def test_a_model_is_evaluated_while_it_is_sharded(
    mode: str, kit: Path, corpus: Path, tmp_path: Path
) -> None:
    def asked(folder: Path, *extra: str) -> list[str]:
        return [
            "experiment=eval/tofu/default",
            "model=auto",
            f"model.model_args.pretrained_model_name_or_path={kit / 'retain'}",
            f"tofu_path={corpus}",
            "task_name=t",
            f"paths.output_dir={folder}",
            f"paths.cache_dir={folder}.cache",
            "eval.tofu.metrics=[forget_truth_ratio,forget_Q_A_ROUGE,mia_reference,exact_memorization]",
            f"eval.tofu.reference_model_path={kit / 'policy'}",
            "eval.tofu.batch_size=3",
            "max_new_tokens=20",
            *extra,
        ]

    def values(folder: Path) -> dict[str, Any]:
        return json.loads((folder / "TOFU_EVAL.json").read_text())

    if mode == "zero3":
        deepspeed_is_built()
    one, two, log = tmp_path / "one", tmp_path / "two", tmp_path / "log"
    assert after(spawn(lambda: evaluate(*asked(one)), log), 250) == 0, log.read_text()[-3000:]
    pids = spawn_two(lambda: evaluate(*asked(two, f"launch={mode}")), log)
    assert [after(pid, 250) for pid in pids] == [0, 0], log.with_suffix(".0").read_text()[-3000:]
    assert values(one).keys() == values(two).keys()
    for name, value in values(one).items():
        assert values(two)[name]["agg_value"] == pytest.approx(value["agg_value"], abs=1e-5), name
    log.with_suffix(".0").write_text("")
    pids = spawn_two(
        lambda: evaluate(
            *asked(two, f"launch={mode}", "eval.tofu.metrics=[mia_gradnorm]", "resume=never")
        ),
        log,
    )
    assert [after(pid, 250) for pid in pids] == [2, 2]
    assert "gradients of all weights in one process" in log.with_suffix(".0").read_text()
