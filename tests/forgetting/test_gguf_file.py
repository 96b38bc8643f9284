"""`gguf=true`: the adapter that a request gives, as a file for llama.cpp; refused at the start where
there would be none."""

from pathlib import Path
from typing import Any

import gguf
import peft
import pytest
import torch
import transformers

from unteach.config.forget import ForgetConfig
from unteach.errors import NotForgotten, UserError
from unteach.forgetting import gguf_file
from unteach.verbs.start import start

from .test_forget_run import rows, words  # noqa: F401  rows is a fixture

GIVEN = ("retain=kept.jsonl", "budget=3", "task_name=t", "gguf=true")


def save_adapter(kit: Path, folder: Path, **lora: Any) -> Path:
    """An adapter on the model that knows the rows, which changes nothing yet."""
    base = transformers.AutoModelForCausalLM.from_pretrained(kit / "reference")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **lora)
    peft.get_peft_model(base, config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(kit / "reference").save_pretrained(folder)
    return folder


def use(model: Path, given: list[str]) -> list[str]:
    """Name another model; an adapter, which takes more steps to forget."""
    named = [f"model={model}" if word.startswith("model=") else word for word in given]
    named[named.index("trainer.args.max_steps=12")] = "trainer.args.max_steps=40"
    return named


def test_an_adapter_is_given_as_a_file_too(
    kit: Path,
    rows: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = use(save_adapter(kit, rows / "mine"), words(kit, rows / "cache", *GIVEN))
    start("forget", given)
    folder = rows / "saves/forget/t"
    assert "for llama.cpp: saves/forget/t/model-lora.gguf" in capsys.readouterr().out
    reader = gguf.GGUFReader(folder / "model-lora.gguf")
    tensors = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    # What it holds is what was given, and that is not what it began with.
    base = transformers.AutoModelForCausalLM.from_pretrained(kit / "reference")
    model = peft.PeftModel.from_pretrained(base, folder / "model")
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    b = layer.lora_B["default"].weight
    assert torch.equal(tensors["blk.0.ffn_up.weight.lora_b"], b) and b.abs().max() > 0
    assert "library_name: peft" in (folder / "model/README.md").read_text()
    start("audit", ["verify", "saves/forget/t/statement.json", "model=saves/forget/t/model"])
    # A second request begins at the same adapter.
    gguf_file.refuse_unfit(ForgetConfig(["later.jsonl"], model="saves/forget/t", gguf=True))
    # Of a finished request nothing is looked at again, not even the model before.
    (rows / "mine/adapter_config.json").unlink()
    start("forget", given)


def test_one_that_was_stopped_writes_the_file_anew(
    kit: Path,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = use(save_adapter(kit, rows / "mine"), words(kit, rows / "cache", *GIVEN))
    given[given.index("budget=3")] = "budget=1e-4"
    with monkeypatch.context() as stopped:
        stopped.setattr(gguf_file.save, "write", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            start("forget", given)
    folder = rows / "saves/forget/t"
    assert not list(folder.glob("*.gguf")) and not list(folder.glob(".*unteach-tmp"))
    with pytest.raises(NotForgotten):
        start("forget", given)
    assert (folder / "best_candidate-lora.gguf").exists()


def test_what_would_give_no_such_file_is_refused_before_any_work(
    kit: Path,
    rows: Path,
) -> None:
    given = words(kit, rows / "cache", *GIVEN)
    for verb in (["forget"], ["check", "forget"]):
        with pytest.raises(UserError, match=r"reference is no adapter.*as=gguf_adapter"):
            start(verb[0], [*verb[1:], *given])
    adapter = save_adapter(kit, rows / "dora", use_dora=True)
    with pytest.raises(UserError, match=r"dora: no GGUF adapter says the same \(use_dora=True"):
        start("forget", use(adapter, given))
    assert not (rows / "saves").exists()


def test_an_adapter_whose_base_has_moved_is_written_anew_first(kit: Path, rows: Path) -> None:
    """Each of a request's runs and audits finds the base where the adapter says."""
    adapter = save_adapter(kit, rows / "mine")
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace(str(kit / "reference"), "nowhere/any-more"))
    moved = f"model.base_path={kit / 'reference'}"
    with pytest.raises(UserError, match=r"unteach export ADAPTER as=adapter to=FOLDER model\.base"):
        start("forget", use(adapter, words(kit, rows / "cache", *GIVEN, moved)))
    assert not (rows / "saves").exists()
    start("export", [str(adapter), "as=adapter", f"to={rows / 'anew'}", moved])
    gguf_file.refuse_unfit(ForgetConfig(["gone.jsonl"], model=str(rows / "anew"), gguf=True))


def test_half_a_file_is_none(kit: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails while it is copied leaves nothing under the file's name."""
    adapter = save_adapter(kit, rows / "model")

    def copy_half(source: Path, to: Path) -> None:
        to.write_bytes(source.read_bytes()[:100])
        raise OSError("the disk is full")

    with monkeypatch.context() as failing:
        failing.setattr(gguf_file.shutil, "copyfile", copy_half)
        with pytest.raises(OSError, match="the disk is full"):
            gguf_file.write_file(adapter)
    assert not list(rows.glob("*.gguf")) and not list(rows.glob(".*unteach-tmp"))
    gguf_file.write_file(adapter)
    assert gguf.GGUFReader(rows / "model-lora.gguf").tensors
