"""Added special tokens: embeddings only grow, new rows are means, they train under LoRA and are
reloaded by anyone."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from tests.doors import export
from tests.export.test_export import logits, run
from unteach import run_dir
from unteach.config.schema import ModelConfig
from unteach.errors import UserError
from unteach.models import added_tokens
from unteach.models.loading import load as load_config
from unteach.verbs.load import load

NAMES = ["<|user|>", "<|model|>"]
ADDED = "model.added_tokens=['<|user|>', '<|model|>']"
LORA = "model.peft_args={r: 4, target_modules: all-linear}"


def loaded(folder: Path, **given: Any) -> Any:
    return load_config(
        ModelConfig({"pretrained_model_name_or_path": str(folder)}, **given), training=True
    )


def padded(folder: Path, to: Path, rows: int, tied: bool) -> Path:
    """The tiny model with its vocabulary padded to `rows`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(2)
    model.resize_token_embeddings(rows, mean_resizing=False)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.save_pretrained(to)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(to)
    return to


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [400, 401, 402, 448])
def test_rows_only_grow_and_new_ones_are_means(
    rows: int, tied: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = padded(tiny_folder, tmp_path / "m", rows, tied)
    before, after = loaded(folder).model, loaded(folder, added_tokens=[*NAMES, "</s>"])
    assert after.added == (400, 401)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(before, get)().weight, getattr(after.model, get)().weight
        assert (
            len(new) == max(rows, 402)
            and torch.equal(new[:400], old[:400])
            and torch.equal(new[402:], old[402:])
        )
        assert torch.allclose(new[400:402], old[:400].mean(0).expand(2, -1), atol=1e-6)
    assert after.model.config.vocab_size == max(rows, 402)
    assert (
        after.model.get_input_embeddings().weight is after.model.get_output_embeddings().weight
    ) is tied


def test_a_token_that_is_there_changes_nothing(tiny_folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    assert added_tokens.add(tokenizer, ["</s>", "a"]) == [] and len(tokenizer) == 400
    assert (
        added_tokens.add(tokenizer, [NAMES[0], NAMES[0]])
        == [400]
        == [tokenizer(NAMES[0]).input_ids[-1]]
    )
    with pytest.raises(UserError, match="is no token"):
        added_tokens.add(tokenizer, [" "])


@pytest.mark.parametrize("tied", [True, False])
def test_under_lora_only_the_new_rows_train(tied: bool, tiny_folder: Path, tmp_path: Path) -> None:
    """And every one of them does: read off the gradients of one pass over the new tokens."""
    folder = padded(tiny_folder, tmp_path / "m", 400, tied)
    given = loaded(folder, added_tokens=NAMES, peft_args={"r": 4, "target_modules": "all-linear"})
    ids = torch.tensor([[5, 400, 6, 401, 7]])
    given.model(input_ids=ids, labels=ids).loss.backward()
    deltas = {
        name: p for name, p in given.model.named_parameters() if "trainable_tokens_delta" in name
    }
    assert len(deltas) == (1 if tied else 2)
    assert all(
        p.shape == (2, 32) and p.grad is not None and (p.grad.abs().sum(-1) > 0).all()
        for p in deltas.values()
    )
    trained = {name for name, p in given.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name in deltas for name in trained)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.long)])
def test_saved_exported_and_reloaded_by_plain_libraries(
    tied: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    base = padded(tiny_folder, tmp_path / "m", 400, tied)
    folder = run(
        base,
        tmp_path / "run",
        ADDED,
        LORA,
        "template=qa",
        "model.template_args.user_start_tag='<|user|>'",
        "model.template_args.asst_start_tag='<|model|>'",
        "trainer.args.learning_rate=0.1",
    )
    ours = load(str(folder))
    ids = torch.tensor([[5, 400, 6, 401, 7]])
    with torch.no_grad():
        wanted = ours.model(ids).logits
    assert wanted.shape[-1] == 402 and ours.tokenizer.convert_tokens_to_ids(NAMES) == [400, 401]
    saved = peft.load_peft_weights(str(folder / run_dir.FINAL))
    assert max(len(tensor) for name, tensor in saved.items() if "tokens" in name) == 2, (
        "whole tables are not saved"
    )
    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    plain.resize_token_embeddings(
        len(transformers.AutoTokenizer.from_pretrained(folder / run_dir.FINAL))
    )
    plain = peft.PeftModel.from_pretrained(plain, folder / run_dir.FINAL)
    for name in (run_dir.FINAL, "checkpoint-2"):
        export(str(folder / name), str(tmp_path / name / "merged"))
        export(str(folder / name), str(tmp_path / name / "adapter"), "adapter")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / run_dir.FINAL / "merged")
    again = load(str(tmp_path / "checkpoint-2" / "adapter")).model
    with torch.no_grad():
        start = logits(loaded(base, added_tokens=NAMES).model)
        for other in (plain, merged, again):
            assert torch.allclose(other.eval()(ids).logits, wanted, atol=1e-5)
    assert not torch.allclose(logits(ours.model), start, atol=1e-3), "it has learned"
    rows = ours.model.get_input_embeddings()(torch.tensor([400, 401]))
    assert (rows[0] - rows[1]).abs().max() > 1e-4, "the two new rows have moved apart"


def test_an_adapter_goes_on_with_its_tokens_and_refuses_others(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = run(tiny_folder, tmp_path / "run", ADDED, LORA)
    again = loaded(folder / run_dir.FINAL)
    assert again.added == (400, 401) and any(
        "tokens_delta" in n for n, p in again.model.named_parameters() if p.requires_grad
    )
    with pytest.raises(UserError, match="was trained without them"):
        loaded(folder / run_dir.FINAL, added_tokens=["<|other|>"])


def test_the_reference_of_an_adapter_has_the_means(tiny_folder: Path) -> None:
    from unteach.models.adapters import BasePolicy

    given = loaded(
        tiny_folder, added_tokens=NAMES, peft_args={"r": 4, "target_modules": "all-linear"}
    )
    ids = torch.tensor([[5, 400, 6, 401, 7]])
    with torch.no_grad():
        began = given.model(ids).logits
        for parameter in given.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        reference = BasePolicy(given.model, "")
        assert not torch.allclose(given.model(ids).logits, began, atol=1e-2)
        assert torch.allclose(reference(input_ids=ids).logits, began, atol=1e-6)
        assert reference.head_is_adapted, "its rows of the head train"
