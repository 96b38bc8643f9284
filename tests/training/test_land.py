"""Runs that land on a budget: whole models, adapters, after a kill, over processes; and what
cannot."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.doors import train
from unteach import run_dir
from unteach.config.compose import compose
from unteach.data.user_files import resolve_files
from unteach.errors import UserError
from unteach.models.weight_path import WeightPath
from unteach.training.drift import DriftMeter

ADAPTER = "model.peft_args={r: 4, lora_alpha: 8, target_modules: all-linear}"


def words(kit: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'reference'}",
        f"tofu_path={kit / 'data'}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer.args.max_steps=4",
        "trainer.args.per_device_train_batch_size=4",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.warmup_steps=0",
        "trainer.land={budget: 0.02, texts: 16, tokens: 32}",
        "eval=null",
        *extra,
    ]


def read_landing(folder: Path) -> dict[str, Any]:
    landing: dict[str, Any] = json.loads((folder / run_dir.LANDING).read_text())
    return landing


def read_weights(folder: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(folder / run_dir.FINAL / f"{name}.safetensors")


def test_a_run_lands_on_its_budget(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["trainer=GradAscent", "trainer.args.learning_rate=1e-3"]
    train(*words(kit, tmp_path / "run", *extra), config_name="unlearn")
    landing = read_landing(tmp_path / "run")
    assert landing["met"] and 0.95 * 0.02 <= landing["kl"] <= 0.02
    assert landing["evaluations"][0][1] > 0.02 and len(landing["evaluations"]) <= 8
    assert f"landed at a = {landing['a']:.4g}: KL" in capsys.readouterr().out

    # What is saved is the landed model, on the line between the two.
    without = [
        word for word in words(kit, tmp_path / "far", *extra) if not word.startswith("trainer.land")
    ]
    train(*without, config_name="unlearn")
    before = load_file(kit / "reference" / "model.safetensors")
    far, landed = read_weights(tmp_path / "far"), read_weights(tmp_path / "run")
    for name, weight in landed.items():
        expected = before[name] + landing["a"] * (far[name] - before[name])
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["file", "dataset"])
def test_a_landing_is_measured_on_answers_to_prompts(kit: Path, tmp_path: Path, form: str) -> None:
    """Of a file of prompts in a run of one's own files, of a dataset beside a benchmark's."""
    prompts = [f"Question: Where is house {number}?\nAnswer:" for number in range(5)]
    own = tmp_path / "prompts.jsonl"
    own.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    extra = ["trainer=GradAscent", "trainer.args.learning_rate=1e-3"]
    if form == "dataset":
        args = f"{{prompt_key: prompt, hf_args: {{path: {tmp_path}, name: prompts, split: train}}}}"
        extra.append(f"data.landing={{own: {{handler: PromptDataset, args: {args}}}}}")
        given = words(kit, tmp_path / "run", *extra)
    else:
        rows = [{"question": "Who?", "answer": "Nobody."}] * 8
        gone = tmp_path / "gone.jsonl"
        gone.write_text("\n".join(map(json.dumps, rows)))
        given = [
            word
            for word in words(kit, tmp_path / "run", *extra)
            if not word.startswith(("experiment", "tofu_path"))
        ]
        given += [f"forget={gone}", f"data.landing_file={own}", "template=raw"]
    train(*given, config_name="unlearn")
    kept = load_file(tmp_path / "run" / "reference" / "landing.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(kit / "reference")
    asked = {tokenizer.decode(kept[f"prompt.{index}"]) for index in range(16)}
    assert len(asked) == len(prompts) and f"prompt.{16}" not in kept
    assert all(any(f"house {number}?" in text for text in asked) for number in range(5))
    assert read_landing(tmp_path / "run")["kl"] <= 0.02


def test_prompts_without_a_landing_are_refused(kit: Path, tmp_path: Path) -> None:
    given = words(kit, tmp_path / "run", "trainer=NPO", "data.landing=TOFU_QA_retain")
    compose("unlearn", given)
    with pytest.raises(UserError, match=r"data\.landing: is what a landing is measured on"):
        compose("unlearn", [*given, "trainer.land=null"])


def test_a_file_of_prompts_without_a_landing_is_refused(kit: Path, tmp_path: Path) -> None:
    for name in ("gone", "prompts"):
        (tmp_path / f"{name}.jsonl").write_text('{"question": "Who?", "answer": "Nobody."}\n')
    given = [
        "trainer=GradAscent",
        f"model={kit / 'reference'}",
        f"forget={tmp_path / 'gone.jsonl'}",
        f"data.landing_file={tmp_path / 'prompts.jsonl'}",
    ]
    config: Any = compose("unlearn", given)
    with pytest.raises(UserError, match=r"data\.landing_file: is what a landing is measured on"):
        resolve_files(config)


def test_an_adapter_lands_by_its_scale(kit: Path, tmp_path: Path) -> None:
    extra = [ADAPTER, "trainer=GradAscent", "trainer.args.learning_rate=2e-2"]
    train(*words(kit, tmp_path / "run", *extra), config_name="unlearn")
    landing = read_landing(tmp_path / "run")
    assert landing["met"]
    without = [
        word for word in words(kit, tmp_path / "far", *extra) if not word.startswith("trainer.land")
    ]
    train(*without, config_name="unlearn")
    far = read_weights(tmp_path / "far", "adapter_model")
    landed = read_weights(tmp_path / "run", "adapter_model")
    for name, weight in landed.items():
        factor = landing["a"] if "lora_B" in name else 1.0
        torch.testing.assert_close(weight, factor * far[name], rtol=1e-4, atol=1e-7)


def test_a_budget_that_nothing_meets_keeps_the_start(
    kit: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DriftMeter, "measure", lambda meter: float("nan"))
    extra = ["trainer=GradAscent", "trainer.args.learning_rate=1e-3"]
    train(*words(kit, tmp_path / "run", *extra), config_name="unlearn")
    landing = read_landing(tmp_path / "run")
    assert landing["a"] == 0 and not landing["met"] and len(landing["evaluations"]) == 8
    assert "landed at a = 0: the model is what it was before" in capsys.readouterr().out
    before = load_file(kit / "reference" / "model.safetensors")
    for name, weight in read_weights(tmp_path / "run").items():
        assert torch.equal(weight, before[name])


def test_a_run_under_its_budget_goes_to_the_limit(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["trainer=GradAscent", "trainer.args.learning_rate=1e-6", "trainer.land.budget=5"]
    train(*words(kit, tmp_path / "run", *extra), config_name="unlearn")
    assert read_landing(tmp_path / "run")["a"] == 1.3
    assert "goes no further than 1.3" in capsys.readouterr().out


def test_a_run_that_was_stopped_lands_where_it_would_have(kit: Path, tmp_path: Path) -> None:
    """The checkpoint has other weights than the run began from, and the landing knows those."""
    extra = ["trainer=GradAscent", "trainer.args.learning_rate=1e-3"]
    extra += ["trainer.args.save_strategy=steps", "trainer.args.save_steps=2"]
    train(*words(kit, tmp_path / "whole", *extra), config_name="unlearn")
    keep = [*extra, "trainer.args.keep_checkpoints=true", "trainer.args.save_total_limit=5"]
    train(*words(kit, tmp_path / "cut", *keep), config_name="unlearn")
    expected = (tmp_path / "whole" / run_dir.FINAL / "model.safetensors").read_bytes()
    # As after a kill before anything was saved, at the end, and in the middle.
    for newest in (4, 2):
        for path in (run_dir.DONE, run_dir.LANDING):
            (tmp_path / "cut" / path).unlink()
        run_dir.move_aside(tmp_path / "cut" / run_dir.FINAL)
        if newest == 2:
            run_dir.move_aside(tmp_path / "cut" / "checkpoint-4")
        train(*words(kit, tmp_path / "cut", *keep), config_name="unlearn")
        landed = (tmp_path / "cut" / run_dir.FINAL / "model.safetensors").read_bytes()
        assert landed == expected, f"after checkpoint-{newest}"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("trainer.land.budget=0", "budget must be above 0"),
        ("trainer.land.steps=3", "no such key"),
        ("launch=fsdp2", "trainer.land: launch=fsdp2: no process holds all weights"),
        ("launch=zero2", "trainer.land: launch=zero2: no process"),
        ("trainer.args.do_train=false", "trainer.land: nothing is trained"),
        ("trainer=RepSelectAdaptive", "lands by a search of its own"),
    ],
)
def test_what_cannot_land_is_refused(kit: Path, tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose("unlearn", words(kit, tmp_path / "run", "trainer=GradAscent", extra))


def test_a_path_ends_where_it_ends() -> None:
    """Both ends come back to the last bit, in half precision too; what lies between is rounded
    once."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, generator=generator).bfloat16(), False)
    start = weight.clone()
    path = WeightPath({"w": weight})
    weight.data += torch.randn(64, generator=generator).bfloat16() / 7
    end = weight.clone()
    path.end_here()
    for a in (0.3, 1.3, 0.0):
        path.move_to(a)
        expected = (start.float() + a * (end.float() - start.float())).bfloat16()
        assert torch.equal(weight, expected)
    path.move_to(1.0)
    assert torch.equal(weight, end)


def build_lora(**names: torch.Tensor) -> dict[str, torch.nn.Parameter]:
    weights = {}
    for name, value in names.items():
        factor, _, layer = name.partition("_")
        weights[f"{layer}.lora_{factor}.default.weight"] = torch.nn.Parameter(value, False)
    return weights


def test_a_fresh_lora_is_moved_by_its_scale_and_others_by_their_tensors() -> None:
    ones = torch.ones(2, 2)
    weights = build_lora(A_fresh=ones, B_fresh=0 * ones, A_old=ones.clone(), B_old=2 * ones)
    weights["dora.lora_A.default.weight"] = torch.nn.Parameter(ones.clone(), False)
    weights["dora.lora_B.default.weight"] = torch.nn.Parameter(0 * ones, False)
    weights["dora.lora_magnitude_vector.default.weight"] = torch.nn.Parameter(torch.ones(2), False)
    path = WeightPath(weights)
    for weight in weights.values():
        weight.data += 4
    path.end_here()
    path.move_to(0.5)
    found = {name: float(weight.flatten()[0]) for name, weight in weights.items()}
    assert found == {
        "fresh.lora_A.default.weight": 5.0,
        "fresh.lora_B.default.weight": 2.0,
        "old.lora_A.default.weight": 3.0,
        "old.lora_B.default.weight": 4.0,
        "dora.lora_A.default.weight": 3.0,
        "dora.lora_B.default.weight": 2.0,
        "dora.lora_magnitude_vector.default.weight": 3.0,
    }


@pytest.mark.long
def test_two_processes_land_where_one_does(kit: Path, tmp_path: Path) -> None:
    extra = ["trainer=GradAscent", "trainer.args.learning_rate=1e-3"]
    train(*words(kit, tmp_path / "one", *extra), config_name="unlearn")
    two = words(kit, tmp_path / "two", *extra)
    two += ["launch=ddp", "nproc=2", "trainer.args.per_device_train_batch_size=2"]
    command = [sys.executable, "-m", "unteach", "unlearn", *two]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = read_landing(tmp_path / "one")
    assert read_landing(tmp_path / "two")["a"] == pytest.approx(one["a"], rel=1e-3)
    landed = read_weights(tmp_path / "two")
    for name, weight in read_weights(tmp_path / "one").items():
        torch.testing.assert_close(landed[name], weight, rtol=1e-3, atol=1e-5)
