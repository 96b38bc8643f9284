"""Runs of one-shot edits: folder, lines, check, a second start, landing; and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.doors import train
from unteach import run_dir
from unteach.config.compose import compose
from unteach.errors import UserError
from unteach.verbs import check

PEFT = "model.peft_args={r: 4, lora_alpha: 8, target_modules: all-linear}"
SELECT = ("trainer=RepSelect", "trainer.method_args.n_pcs=16")


def words(kit: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'reference'}",
        f"tofu_path={kit / 'data'}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer.args.per_device_train_batch_size=4",
        "eval=null",
        *extra,
    ]


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / run_dir.FINAL / "model.safetensors")


def run_check(*overrides: str) -> None:
    run: Any = compose("unlearn", list(overrides))
    check.check(run)


def test_an_edit_is_a_run(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    given = words(kit, folder, *SELECT, "trainer.method_args.strength=20")
    train(*given, config_name="unlearn")
    said = capsys.readouterr().out
    assert "edit        12 tensors of 221,184 parameters, once, without steps" in said
    assert "edited by RepSelect: 12 weights; step norm" in said
    assert "learning" not in said and f"results: {folder / run_dir.EDIT}" in said
    assert json.loads((folder / run_dir.EDIT).read_text())["step_norm"] > 0
    manifest = json.loads((folder / run_dir.MANIFEST).read_text())
    assert set(manifest["data"]) == {"forget"} and manifest["models"]
    before = load_file(kit / "reference" / "model.safetensors")
    changed = {name for name, w in read_weights(folder).items() if not torch.equal(w, before[name])}
    assert len(changed) == 12 and all(".mlp." in name for name in changed)

    train(*given, config_name="unlearn")
    assert "finished before" in capsys.readouterr().out


def test_an_edit_that_was_killed_is_made_again_from_the_untouched_weights(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    land = "trainer.land={budget: 0.02, texts: 16, tokens: 32}"
    given = words(kit, folder, *SELECT, "trainer.method_args.strength=20", land)
    train(*given, config_name="unlearn")
    landing = json.loads((folder / run_dir.LANDING).read_text())
    assert landing["met"] and "landed at a = " in capsys.readouterr().out
    expected = (folder / run_dir.FINAL / "model.safetensors").read_bytes()
    (folder / run_dir.DONE).unlink()
    run_dir.move_aside(folder / run_dir.FINAL)
    train(*given, config_name="unlearn")
    assert "the edit is made again, from the untouched weights" in capsys.readouterr().err
    assert (folder / run_dir.FINAL / "model.safetensors").read_bytes() == expected
    assert json.loads((folder / run_dir.LANDING).read_text()) == landing


def test_adaptive_lands_itself(kit: Path, tmp_path: Path) -> None:
    extra = ["trainer=RepSelectAdaptive", "trainer.method_args.n_pcs=16"]
    train(*words(kit, tmp_path / "run", *extra), config_name="unlearn")
    numbers = json.loads((tmp_path / "run" / run_dir.EDIT).read_text())
    assert 0.0095 <= numbers["kl"] <= 0.01 and numbers["strength"] > 0


def test_the_model_before_and_after_is_measured(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    extra = [*SELECT, "trainer.method_args.strength=40", "eval=tofu", "eval.tofu.before=true"]
    extra.append("eval.tofu.metrics=[forget_Q_A_Prob]")
    given = [word for word in words(kit, folder, *extra) if word != "eval=null"]
    train(*given, config_name="unlearn")
    values = []
    for name in (run_dir.EVALS_BEFORE, run_dir.EVALS):
        summary = json.loads((folder / name / "TOFU_SUMMARY.json").read_text())
        values.append(summary["forget_Q_A_Prob"])
    assert values[1] < values[0]


def test_a_task_vector_reads_another_model(kit: Path, tmp_path: Path) -> None:
    extra = ["trainer=TaskVector", f"trainer.method_args.finetuned={kit / 'policy'}"]
    train(*words(kit, tmp_path / "run", *extra), config_name="unlearn")
    before = load_file(kit / "reference" / "model.safetensors")
    taught = load_file(kit / "policy" / "model.safetensors")
    for name, weight in read_weights(tmp_path / "run").items():
        torch.testing.assert_close(weight, 2 * before[name] - taught[name])
    manifest = json.loads((tmp_path / "run" / run_dir.MANIFEST).read_text())
    assert str(kit / "policy") in manifest["models"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["trainer.args.learning_rate=1e-5"], "learning_rate: is for a training, and .*RepSelect"),
        (["trainer.args.num_train_epochs=2"], "num_train_epochs: is for a training"),
        (["trainer.guard.action=stop"], "trainer.guard: watches a training"),
        (["trainer.samples.every=1"], "trainer.samples: watches a training"),
        (["launch=ddp", "nproc=2"], "launch: trainer.handler=RepSelect edits .* in one process"),
        (
            ["model.model_args.quantization_config={load_in_4bit: true}"],
            "model_args.quantization_config: trainer.handler=RepSelect edits weights",
        ),
        (["trainer.method_args.n_pcs=0"], "n_pcs must be at least 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_only_a_training_reads_is_refused(
    kit: Path, tmp_path: Path, extra: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compose("unlearn", words(kit, tmp_path / "run", *SELECT, *extra))


def test_what_an_experiment_sets_for_all_methods_is_no_mistake(kit: Path, tmp_path: Path) -> None:
    config: Any = compose("unlearn", words(kit, tmp_path / "run", *SELECT))
    assert "num_train_epochs" in config.trainer.args


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([*SELECT, PEFT], "has an adapter over them"),
        (["trainer=RepSelect", "trainer.method_args.target_modules=nowhere"], "matches no layer"),
        (["trainer=TaskVector"], "name the model that was taught the forget rows"),
        (["trainer=TaskVector", "trainer.method_args.finetuned=./nowhere"], "no such folder"),
    ],
    ids=lambda value: value[-1][:30] if isinstance(value, list) else "",
)
def test_check_finds_what_the_run_would_refuse(
    kit: Path, tmp_path: Path, extra: list[str], message: str
) -> None:
    for start in (run_check, lambda *given: train(*given, config_name="unlearn")):
        with pytest.raises(UserError, match=message):
            start(*words(kit, tmp_path / "run", *extra))


def test_check_says_what_an_edit_takes(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_check(*words(kit, tmp_path / "run", *SELECT, "trainer.land.budget=0.02"))
    said = capsys.readouterr().out
    assert "edit        12 tensors of 221,184 parameters" in said
    assert "landing     at KL 0.02 nats a token, on 64 texts of 64 tokens" in said
    assert "directions" in said and "both ends of the landing" in said
    assert "optimiser" not in said and "steps  " not in said


PLUGIN = '''
from dataclasses import dataclass

from unteach.lazy import torch
from unteach.methods.edit.base import Edit
from unteach.registry import method


@method("DimmedHead")
@dataclass
class DimmedHead(Edit):
    """Shrinks the head against the gradient of the forget rows."""

    strength: float = 1.0

    def find_weights(self, model):
        return {"lm_head.weight": model.lm_head.weight}

    def edit(self, context):
        weights = self.find_weights(context.model)
        gradients = context.compute_gradients("forget", weights)
        for name, weight in weights.items():
            with torch.no_grad():
                weight += self.strength * gradients[name]
        return {"length": float(sum(g.norm() for g in gradients.values()))}
'''


def test_a_plugin_adds_an_edit(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    extra = [f"plugins=[{tmp_path / 'mine.py'}]", "trainer=DimmedHead"]
    extra += ["trainer.method_args.strength=3", "trainer.land={budget: 0.001}"]
    train(*words(kit, tmp_path / "run", *extra), config_name="unlearn")
    said = capsys.readouterr().out
    assert "edited by DimmedHead: 1 weights; length" in said and "landed at a = " in said
    before = load_file(kit / "reference" / "model.safetensors")
    changed = [
        n for n, w in read_weights(tmp_path / "run").items() if not torch.equal(w, before[n])
    ]
    assert changed == ["model.embed_tokens.weight"], "which is the head too"
