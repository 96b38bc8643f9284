"""A model that is not what its folder says is an error everywhere, and never random layers or
numbers that are none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from unteach.config.schema import ModelConfig
from unteach.errors import UserError
from unteach.models.heads import Head
from unteach.models.hub import PATH
from unteach.models.integrity import load_model
from unteach.models.loading import load, load_empty

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refused(path: Path, **config: Any) -> str:
    """The message of a run and of a look at it before it starts, which are the same."""
    messages = []
    for way in (lambda asked: load(asked, training=False), load_empty):
        with pytest.raises(UserError) as error:
            way(ModelConfig({PATH: str(path)}, **config))
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    return messages[0]


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def test_more_layers_than_weights(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit(folder / "config.json", num_hidden_layers=5)
    message = refused(folder)
    assert (
        "it holds no weights for model.layers.2.input_layernorm.weight, " in message
        and " and 24 more" in message
    )
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_weights_of_another_architecture(folder: Path) -> None:
    edit(folder / "config.json", model_type="gpt_neox")
    assert "it holds no weights for" in refused(folder)


def test_a_single_weight_is_missing(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    assert "it holds no weights for model.norm.weight; the folder is damaged" in refused(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=48)
    message = refused(folder)
    assert (
        "mlp.down_proj.weight is 32 x 64 in its weights and 32 x 48 by its config.json" in message
    )


def test_weights_that_have_no_place_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder / "config.json", num_hidden_layers=1)
    load(ModelConfig({PATH: str(folder)}), training=False)
    told = capsys.readouterr().err
    assert (
        "note: " in told
        and "no place for, and they are left out: model.layers.1.input_layernorm.weight" in told
    )


def test_a_tied_head_is_not_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder / "config.json", tie_word_embeddings=True)
    change_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    load(ModelConfig({PATH: str(folder)}), training=True)
    assert "note" not in capsys.readouterr().err


def test_an_index_that_names_a_file_that_is_not_there(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    next(folder.glob("model-00002-*")).unlink()
    assert "model-00002-of" in refused(folder)


def test_a_classifiers_new_head_is_drawn_and_nothing_else(folder: Path) -> None:
    head = Head(("a", "b"))
    assert load(ModelConfig({PATH: str(folder)}), training=True, head=head).head == head
    change_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(UserError, match=r"it holds no weights for model\.norm\.weight"):
        load(ModelConfig({PATH: str(folder)}), training=True, head=head)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    change_weights(folder, lambda weights: weights["model.norm.weight"].__setitem__(3, value))
    for training in (True, False):
        with pytest.raises(
            UserError, match=r"model\.norm\.weight holds numbers that are infinite or not a number"
        ):
            load(ModelConfig({PATH: str(folder)}), training=training)
    with pytest.raises(UserError, match=r"model\.norm\.weight holds numbers"):
        load(ModelConfig({PATH: str(folder), "dtype": "bfloat16"}), training=False)


def test_large_weights_are_finite(folder: Path) -> None:
    """Only their sum is infinite."""
    change_weights(folder, lambda weights: weights["model.norm.weight"].fill_(3e38))
    load(ModelConfig({PATH: str(folder)}), training=False)


def test_a_tokenizer_larger_than_the_embedding(folder: Path) -> None:
    def cut(weights: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = weights[name][:300].clone()

    change_weights(folder, cut)
    edit(folder / "config.json", vocab_size=300)
    message = refused(folder)
    assert (
        "has the id 399, and the model's embedding 300 rows. Set model.tokenizer_args." in message
    )


def test_a_padding_token_beyond_the_embedding(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert "the token '[PAD]' has the id 400" in refused(folder)
    named = load(
        ModelConfig({PATH: str(folder)}, tokenizer_args={"pad_token": "</s>"}), training=False
    )
    assert named.tokenizer.pad_token_id == named.tokenizer.eos_token_id


def test_a_special_token_that_no_text_has_may_lie_beyond_the_embedding(folder: Path) -> None:
    """As the images' of a tokenizer that a text model shares with a larger one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    load(ModelConfig({PATH: str(folder)}), training=False)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "[]"),
        ("config.json", "3"),
        ("generation_config.json", '{"eos_token_id": "x"}'),
    ],
)
def test_a_file_of_another_form(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=f"cannot load {folder}"):
        load(ModelConfig({PATH: str(folder)}), training=False)


def test_an_adapter_that_lacks_weights(folder: Path, tmp_path: Path) -> None:
    args = {"r": 2, "target_modules": ["q_proj"]}
    adapted = load(ModelConfig({PATH: str(folder)}, peft_args=args), training=True)
    adapted.model.save_pretrained(tmp_path / "adapter")
    adapted.tokenizer.save_pretrained(tmp_path / "adapter")
    config = ModelConfig({PATH: str(tmp_path / "adapter")})
    load(config, training=False)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(dict(list(weights.items())[1:]), file, {"format": "pt"})
    with pytest.raises(UserError, match="holds no weights for base_model"):
        load(config, training=False)


def test_a_model_of_another_kind_is_loaded_by_the_same_rule(folder: Path) -> None:
    with pytest.raises(UserError, match=r"it holds no weights for score\.weight"):
        load_model(transformers.AutoModelForSequenceClassification, str(folder))
