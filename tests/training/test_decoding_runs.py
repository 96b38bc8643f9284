"""Runs whose result forgets in its decoding: forgetting is seen, a run goes on, what measures half of
the result is refused."""

import json
import logging
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.conftest import TORCHRUN, read_rows
from tests.doors import export, train
from unteach import fingerprints, run_dir
from unteach.config.compose import compose
from unteach.config.schema import PATH, ModelConfig
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.models.decoding import get_decoding, list_models
from unteach.models.loading import load
from unteach.training import checkpoint
from unteach.verbs.check import check

ASSISTANT = "trainer.method_args.num_layers=2"


def words(kit: Path, folder: Path, method: str, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        "model.model_args.dtype=float32",
        f"tofu_path={kit / 'data'}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "eval=null",
        f"trainer={method}",
        *((ASSISTANT,) if method == "ULD" else ()),
        "trainer.args.per_device_train_batch_size=8",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.warmup_epochs=0",
        *extra,
    ]


def unlearn(*command: str) -> Path:
    return train(*command, config_name="unlearn")


def measure(path: Path, kit: Path, name: str, base: Path | None = None) -> float:
    """The mean probability (geometric over tokens) of the answers of a file."""
    config = ModelConfig({PATH: str(path), "dtype": "float32"}, base_path=base and str(base))
    loaded = load(config, training=False)
    rows = read_rows(kit / "data" / f"{name}.jsonl")
    pairs = []
    for row in rows:
        ids = loaded.template.encode(row["question"], row["answer"]).input_ids
        prompt = loaded.template.encode_prompt(row["question"])
        pairs.append((tuple(prompt), tuple(ids[len(prompt) :])))
    scores = HFEngine(loaded.model, loaded.tokenizer).score(pairs)
    return float(np.mean([np.exp(-score.avg_loss) for score in scores]))


@pytest.mark.parametrize("adapter", [False, pytest.param(True, marks=pytest.mark.long)])
def test_whp_forgets_what_its_model_learns(adapter: bool, kit: Path, tmp_path: Path) -> None:
    extra = ["trainer.args.num_train_epochs=10", "trainer.args.learning_rate=1e-3"]
    if adapter:
        extra.append("model.peft_args={r: 8, lora_alpha: 32, target_modules: all-linear}")
    run = unlearn(*words(kit, tmp_path / "run", "WHP", *extra))
    final = run / run_dir.FINAL
    assert json.loads((final / "decoding.json").read_text()) == {
        "decoding": "WHP",
        "base": "base",
        "second": "reinforced",
        "arguments": {"alpha": 1.0},
        "num_layers": None,
    }
    assert (final / "reinforced" / "adapter_model.safetensors").exists() == adapter
    for name, tensor in load_file(final / "base" / "model.safetensors").items():
        assert (tensor == load_file(kit / "policy" / "model.safetensors")[name]).all()

    before, forgotten = measure(kit / "policy", kit, "forget10"), measure(run, kit, "forget10")
    assert forgotten < 0.75 * before
    kept = measure(run, kit, "retain90") / measure(kit / "policy", kit, "retain90")
    assert kept > 1.2 * forgotten / before
    with pytest.MonkeyPatch.context() as patch:
        messages: list[str] = []
        patch.setattr(logging.Logger, "warning", lambda self, text, *_: messages.append(text))
        base = final / "base" if adapter else None
        assert measure(final / "reinforced", kit, "forget10", base) > before
        assert any("is the reinforced model" in text for text in messages)


@pytest.mark.parametrize("lora", [True, pytest.param(False, marks=pytest.mark.long)])
def test_uld_forgets_what_its_assistant_learns(lora: bool, kit: Path, tmp_path: Path) -> None:
    extra = ("trainer.args.num_train_epochs=20", f"trainer.method_args.lora={str(lora).lower()}")
    extra += ("trainer.args.learning_rate=3e-3", "trainer.method_args.tau=0.001")
    run = unlearn(*words(kit, tmp_path / "run", "ULD", *extra))
    final = run / run_dir.FINAL
    assert (final / "assistant" / "adapter_model.safetensors").exists() == lora

    moved = Path(shutil.move(final, tmp_path / "moved"))
    loaded = load(ModelConfig({PATH: str(moved)}), training=False)
    sizes = [part.config.num_hidden_layers for part in list_models(loaded.model)]
    assert sizes == [4, 2]
    before, forgotten = measure(kit / "policy", kit, "forget10"), measure(moved, kit, "forget10")
    kept = measure(moved, kit, "retain90") / measure(kit / "policy", kit, "retain90")
    assert forgotten < 0.75 * before
    assert kept > 1.2 * forgotten / before


def test_a_suite_measures_the_whole_before_and_after(kit: Path, tmp_path: Path) -> None:
    """The start is the base as it is, the end is both models."""
    command = words(kit, tmp_path / "run", "WHP", "trainer.args.learning_rate=1e-3")
    command.remove("eval=null")
    command += ["eval=tofu", "eval.tofu.metrics=[forget_Q_A_Prob]", "eval.tofu.before=true"]
    run = unlearn(*command)
    before = json.loads((run / run_dir.EVALS_BEFORE / "TOFU_SUMMARY.json").read_text())
    after = json.loads((run / run_dir.EVALS / "TOFU_SUMMARY.json").read_text())
    assert after["forget_Q_A_Prob"] < 0.8 * before["forget_Q_A_Prob"]
    expected = measure(kit / "policy", kit, "forget10")
    assert before["forget_Q_A_Prob"] == pytest.approx(expected, rel=1e-3)
    assert after["forget_Q_A_Prob"] == pytest.approx(measure(run, kit, "forget10"), rel=1e-3)


@pytest.mark.parametrize("method", ["WHP", "ULD"])
def test_a_run_that_is_cut_off_ends_with_the_same_model(
    method: str, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off while the two models are written, and before that at a step."""
    steps = ("trainer.args.max_steps=4", "trainer.args.save_strategy=steps")
    steps += ("trainer.args.save_steps=2", "trainer.args.keep_checkpoints=true")
    steps += ("trainer.args.save_total_limit=9", "trainer.args.learning_rate=1e-3")
    whole = unlearn(*words(kit, tmp_path / "whole", method, *steps)) / run_dir.FINAL

    command = words(kit, tmp_path / "cut", method, *steps)
    real = checkpoint.complete

    def fail(folder: Path) -> None:
        if (folder / "decoding.json").exists():
            raise KeyboardInterrupt
        real(folder)

    monkeypatch.setattr(checkpoint, "complete", fail)
    with pytest.raises(KeyboardInterrupt):
        unlearn(*command)
    monkeypatch.setattr(checkpoint, "complete", real)
    assert not (tmp_path / "cut" / run_dir.FINAL).exists()
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    final = unlearn(*command) / run_dir.FINAL
    assert checkpoint.find_model_fault(final) is None

    memory = tmp_path / "memory.json"
    assert fingerprints.hash_weights(final / "base", memory) == fingerprints.hash_weights(
        whole / "base", memory
    )
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        one, other = load_file(whole / file), load_file(final / file)
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one)
    note = tmp_path / "cut" / "checkpoint-2" / "unteach_second.json"
    assert json.loads(note.read_text())["decoding"] == method


@pytest.mark.long
@pytest.mark.parametrize("method", ["WHP", "ULD"])
def test_two_processes_train_the_same_second_model(method: str, kit: Path, tmp_path: Path) -> None:
    extra = ("trainer.args.max_steps=3", "trainer.args.learning_rate=1e-4")
    if method == "ULD":
        extra += ("trainer.method_args.lora=false",)  # no dropout
    one = unlearn(*words(kit, tmp_path / "one", method, *extra)) / run_dir.FINAL
    split = "trainer.args.per_device_train_batch_size=4"
    command = [*TORCHRUN, "unlearn", *words(kit, tmp_path / "two", method, *extra, split)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "two" / run_dir.FINAL
    for file in one.rglob("*.safetensors"):
        found = load_file(two / file.relative_to(one))
        for name, tensor in load_file(file).items():
            assert float((found[name] - tensor).abs().max()) < 1e-5


REFUSED = [
    (
        "eval=tofu trainer.args.eval_strategy=epoch",
        "trainer.args.eval_strategy: looks at the model",
    ),
    ("trainer.samples={every:1}", "trainer.samples: looks at the model"),
    ("data.validation=TOFU_QA_forget", "data.validation: looks at the model"),
    ("trainer.land={budget:0.02}", "trainer.land: lands the model that trains"),
    ("launch=fsdp2", "launch: fsdp2 shards one model"),
    ("launch=zero2", "launch: zero2 shards one model"),
    ("trainer.method_args.alpha=-1", "alpha must not be negative"),
]


@pytest.mark.parametrize(("word", "message"), REFUSED)
def test_what_measures_half_of_the_result_is_refused(
    word: str, message: str, kit: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        compose("unlearn", words(kit, tmp_path / "run", "WHP", *word.split()))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.added_tokens=['<x>']", r"model\.added_tokens: trainer=ULD saves the model"),
        ("model.merge_adapter=true", r"model\.merge_adapter: trainer=ULD saves"),
        ("model.model_args.device_map=auto", r"device_map: trainer=ULD saves"),
        ("trainer.method_args.num_layers=5", "num_layers=5: this model has 4 layers"),
    ],
)
def test_check_finds_what_the_run_refuses(
    word: str, message: str, kit: Path, tmp_path: Path
) -> None:
    command = words(kit, tmp_path / "run", "ULD", word)
    with pytest.raises(UserError, match=message):
        check(compose("unlearn", command))
    with pytest.raises(UserError, match=message):
        unlearn(*command)


def test_nothing_is_trained_on_two_models(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unlearn(*words(kit, tmp_path / "run", "WHP", "trainer.args.max_steps=1"))
    again = words(kit, tmp_path / "again", "NPO", f"model.model_args.{PATH}={run}")
    for start in (lambda: check(compose("unlearn", again)), lambda: unlearn(*again)):
        with pytest.raises(UserError, match=r"forgets in its decoding.*start from the base/"):
            start()
    with pytest.raises(UserError, match="forgets in its decoding"):
        export(run, tmp_path / "plain")

    evaluation = [f"model={run}", "eval=tofu", f"tofu_path={kit / 'data'}", "task_name=e"]
    evaluation.append(f"paths.output_dir={tmp_path / 'eval'}")
    check(compose("eval", evaluation))
    assert "it forgets in its decoding, WHP(alpha=1.0)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"launch=fsdp2: .* is two models"):
        check(compose("eval", [*evaluation, "launch=fsdp2", "nproc=2"]))


def test_an_adapter_is_merged_before(kit: Path, tmp_path: Path) -> None:
    lora = "model.peft_args={r: 2, target_modules: all-linear}"
    run = unlearn(*words(kit, tmp_path / "npo", "NPO", lora, "trainer.args.max_steps=1"))
    command: list[Any] = words(kit, tmp_path / "run", "WHP", f"model.model_args.{PATH}={run}")
    with pytest.raises(UserError, match=r"is an adapter\. Merge it first"):
        unlearn(*command)


def test_the_loaded_model_combines(kit: Path, tmp_path: Path) -> None:
    """`alpha` reaches the folder and the model that is loaded from it."""
    extra = ("trainer.args.max_steps=1", "trainer.method_args.alpha=0.5")
    run = unlearn(*words(kit, tmp_path / "run", "WHP", *extra))
    attached = get_decoding(load(ModelConfig({PATH: str(run)}), training=False).model)
    assert attached is not None
    assert vars(attached.rule) == {"alpha": 0.5}
