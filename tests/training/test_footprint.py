"""What a run takes, the words that make it fit, and weights in bfloat16 that small updates move."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unteach import run_dir
from unteach.config.compose_verb import compose_verb
from unteach.config.reader import ConfigErrors
from unteach.config.verb_options import Options
from unteach.errors import UserError, has_extra
from unteach.training.memory import GIB, describe_fit, find_words_that_fit
from unteach.verbs.start import start

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "make_memory.py"


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("make_memory", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_memory = load_script()
LLAMA_8B = make_memory.build_whole("8B", has_copy=False)
EXPERIMENT = "experiment=unlearn/tofu/default"
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason="torchao (extra quant) is not installed",
)


def test_an_8b_model_takes_16_bytes_a_parameter_whole() -> None:
    parts = LLAMA_8B.estimate()
    counted = parts["weights"] + parts["gradients"] + parts["optimiser"]
    assert counted == 16 * LLAMA_8B.num_trained


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (200, None),
        (80, "bf16_stochastic_round"),
        (24, "model.peft_args"),
        (16, "load_in_4bit"),
    ],
)
def test_an_8b_model_fits_with_the_words_that_cost_least(gpu: int, expected: str | None) -> None:
    words = find_words_that_fit(LLAMA_8B, gpu * GIB)
    assert words is not None
    if expected is None:
        assert words == ()
        return
    said = describe_fit(LLAMA_8B, gpu * GIB)
    assert expected in said and "with these words it does" in said
    assert ("load_in_4bit" in said) == (expected == "load_in_4bit")


def test_what_fits_nowhere_is_said() -> None:
    assert find_words_that_fit(LLAMA_8B, 2 * GIB) is None
    assert "split it over several" in describe_fit(LLAMA_8B, 2 * GIB)


def test_surgery_a_copy_and_a_perturbation_are_counted() -> None:
    size = 4.0 * LLAMA_8B.num_trained
    more = replace(LLAMA_8B, num_gradients=3, reference_bytes=size / 2, perturbed_bytes=size)
    assert more.num_bytes - LLAMA_8B.num_bytes == pytest.approx(2 * size + size / 2 + size)


def test_the_words_that_are_named_compose(kit: Path) -> None:
    base = ["unlearn", EXPERIMENT, f"model={kit / 'policy'}", f"tofu_path={kit / 'data'}"]
    seen = set()
    for gpu in (80, 24, 16):
        words = find_words_that_fit(LLAMA_8B, gpu * GIB)
        assert words
        seen.add(words)
        overrides = [*base, *words, "task_name=x", f"gpu={gpu}GB"]
        if has_extra("quant") or "load_in_4bit" not in str(words):
            compose_verb("check", overrides, Options())
            continue
        with pytest.raises(ConfigErrors) as caught:
            compose_verb("check", overrides, Options())
        assert len(caught.value.problems) == 1 and "[quant]" in caught.value.problems[0]
    assert len(seen) == 3


def test_a_gpu_is_named_by_its_memory(kit: Path) -> None:
    words = ["unlearn", EXPERIMENT, f"model={kit / 'policy'}", f"tofu_path={kit / 'data'}"]
    words.append("task_name=x")
    config: Any = compose_verb("check", [*words, "gpu=80GB"], Options())
    assert config.run.gpu_bytes == 80 * GIB
    with pytest.raises(UserError, match="gpu=80: is the memory of a GPU"):
        compose_verb("check", [*words, "gpu=80"], Options())
    model = f"model={kit / 'policy'}"
    words = ["eval", "experiment=eval/tofu/default", model, "task_name=x", "gpu=80GB"]
    with pytest.raises(UserError, match="a run that trains"):
        compose_verb("check", words, Options())


def test_the_page_has_the_table_that_is_computed() -> None:
    assert make_memory.write_table() in make_memory.PAGE.read_text()


def test_an_optimiser_that_is_not_installed_is_named(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def find_others(module: str, *args: Any) -> Any:
        return None if module == "torchao" else find_spec(module, *args)

    monkeypatch.setattr("importlib.util.find_spec", find_others)
    with pytest.raises(UserError, match=r"adamw_torch_8bit needs packages .*quant"):
        start("unlearn", build_words(kit, tmp_path / "run", "trainer.args.optim=adamw_torch_8bit"))


def build_words(kit: Path, folder: Path, *extra: str) -> list[str]:
    return [
        EXPERIMENT,
        f"model={kit / 'policy'}",
        f"tofu_path={kit / 'data'}",
        "trainer=GradDiff",
        "trainer.args.max_steps=5",
        "eval=null",
        f"task_name={folder.name}",
        f"paths.output_dir={folder}",
        *extra,
    ]


ROUNDED = (
    "model.model_args.dtype=bfloat16",
    "model.pure_bf16=true",
    "trainer.args.optim=adamw_torch_8bit",
    "trainer.args.optim_args='bf16_stochastic_round=True'",
    "trainer.args.save_strategy=steps",
    "trainer.args.save_steps=2",
    "trainer.args.keep_checkpoints=true",
)


@pytest.fixture
def without_compiling() -> Iterator[None]:
    """torchao compiles its step, which takes a minute on a CPU."""
    with torch.compiler.set_stance("force_eager"):
        yield


@needs_torchao
@pytest.mark.long
def test_weights_rounded_at_random_move_as_they_should(without_compiling: None) -> None:
    from torchao.optim import AdamW8bit

    rate, num_steps = 1e-5, 50
    moved = {}
    for name, build in {
        "at random": lambda weight: AdamW8bit([weight], lr=rate, bf16_stochastic_round=True),
        "to the nearest": lambda weight: torch.optim.AdamW([weight], lr=rate),
    }.items():
        torch.manual_seed(0)
        weight = torch.nn.Parameter((torch.rand(64, 256) / 8 + 0.01).bfloat16())
        before = weight.detach().float()
        optimizer = build(weight)
        for _ in range(num_steps):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved[name] = float((weight.detach().float() - before).mean())
    assert moved["at random"] == pytest.approx(-rate * num_steps, rel=0.05)
    assert abs(moved["to the nearest"]) < 0.3 * rate * num_steps


@needs_torchao
@pytest.mark.long
def test_such_a_run_resumes_exactly(kit: Path, tmp_path: Path, without_compiling: None) -> None:
    start("unlearn", build_words(kit, tmp_path / "whole", *ROUNDED))
    start("unlearn", build_words(kit, tmp_path / "parts", *ROUNDED))
    (tmp_path / "parts" / run_dir.DONE).unlink()
    shutil.rmtree(tmp_path / "parts" / run_dir.FINAL)
    start("unlearn", build_words(kit, tmp_path / "parts", *ROUNDED))
    manifest = json.loads((tmp_path / "parts" / run_dir.MANIFEST).read_text())
    assert manifest["resumed_at"] > 0
    weights = [
        (tmp_path / name / run_dir.FINAL / "model.safetensors").read_bytes()
        for name in ("whole", "parts")
    ]
    assert weights[0] == weights[1]


@needs_torchao
@pytest.mark.long
def test_weights_to_the_nearest_are_warned_of(
    kit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        start("unlearn", build_words(kit, tmp_path / "run", *ROUNDED[:2]))
    assert "bf16_stochastic_round=True" in caplog.text
