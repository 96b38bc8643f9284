"""Task negation of whole models and of adapters."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.methods.edit.context import build_context
from unteach.config.schema import ModelConfig
from unteach.errors import UserError
from unteach.models.loading import LoadedModel, load
from unteach.testing import build_method
from unteach.testing.tiny_world import build_tiny_world

PEFT = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.fixture
def world() -> tuple[Any, Any]:
    loaded, other, _ = build_tiny_world(build_method("GradDiff"))
    return loaded, other


def read_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_it_steps_back_by_alpha(world: Any) -> None:
    loaded, other = world
    before, taught = read_weights(loaded.model), read_weights(other)
    context = build_context(loaded, {}, load_weights=lambda path: taught)
    numbers = build_method("TaskVector", {"finetuned": "there", "alpha": 0.5}).edit(context)
    squared = 0.0
    for name, weight in read_weights(loaded.model).items():
        torch.testing.assert_close(weight, before[name] - 0.5 * (taught[name] - before[name]))
        squared += float((taught[name] - before[name]).square().sum())
    assert numbers["vector_norm"] == pytest.approx(squared**0.5)


def test_half_precision_is_rounded_once(world: Any) -> None:
    loaded, other = world
    loaded.model.bfloat16()
    before, taught = read_weights(loaded.model), read_weights(other)
    context = build_context(loaded, {}, load_weights=lambda path: taught)
    build_method("TaskVector", {"finetuned": "there", "alpha": 0.3}).edit(context)
    for name, weight in read_weights(loaded.model).items():
        exact = before[name].float() - 0.3 * (taught[name] - before[name].float())
        assert torch.equal(weight, exact.bfloat16())


def test_a_model_that_does_not_fit_and_one_that_was_taught_nothing_are_named(world: Any) -> None:
    loaded, _ = world
    same = read_weights(loaded.model)
    edit = build_method("TaskVector", {"finetuned": "there"})
    with pytest.raises(UserError, match="same weights as the model before"):
        edit.edit(build_context(loaded, {}, load_weights=lambda path: same))
    name = "model.layers.1.mlp.down_proj.weight"
    less = {**same, name: same[name][:-1]}
    with pytest.raises(UserError, match=r"finetuned: .*down_proj\.weight of \(32, 64\), and this"):
        edit.edit(build_context(loaded, {}, load_weights=lambda path: less))


def save_adapter(tiny_folder: Path, target: Path, **more: Any) -> LoadedModel:
    """A LoRA whose B is not 0, as after training."""
    args = {"pretrained_model_name_or_path": str(tiny_folder), "dtype": "float32"}
    loaded = load(ModelConfig(args, peft_args={**PEFT, **more}), training=True)
    generator = torch.Generator().manual_seed(0)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    loaded.model.save_pretrained(target)
    loaded.tokenizer.save_pretrained(target)
    return loaded


def test_an_adapter_is_negated_as_its_whole_model_is(tiny_folder: Path, tmp_path: Path) -> None:
    """The adapter at the scale -alpha is the base stepped back by what the adapter adds."""
    taught = save_adapter(tiny_folder, tmp_path / "adapter")
    merged = copy.deepcopy(taught.model).merge_and_unload()
    args = {"pretrained_model_name_or_path": str(tiny_folder), "dtype": "float32"}
    whole = load(ModelConfig(args), training=True)
    finetuned = read_weights(merged)
    edit = build_method("TaskVector", {"finetuned": "there", "alpha": 0.7})
    edit.edit(build_context(whole, {}, load_weights=lambda path: finetuned))

    args["pretrained_model_name_or_path"] = str(tmp_path / "adapter")
    adapter = load(ModelConfig(args), training=True)
    negation = build_method("TaskVector", {"alpha": 0.7})
    negation.refuse_model(adapter)
    negation.edit(build_context(adapter, {}))
    for name, weight in read_weights(adapter.model.merge_and_unload()).items():
        torch.testing.assert_close(weight, whole.model.get_parameter(name).data)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"use_dora": True}, "is a DoRA"),
        ({"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "trained biases"),
    ],
)
def test_adapters_that_are_more_than_pairs_are_refused(
    tiny_folder: Path, tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    loaded = save_adapter(tiny_folder, tmp_path / "adapter", **more)
    loaded.adapter = str(tmp_path / "adapter")
    with pytest.raises(UserError, match=reason):
        build_method("TaskVector").refuse_model(loaded)


def test_what_it_lacks_is_said(tiny: LoadedModel, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name the model that was taught"):
        build_method("TaskVector").refuse_model(tiny)
    fresh = save_adapter(tiny_folder, tmp_path / "adapter")
    with pytest.raises(UserError, match="a fresh adapter adds nothing"):
        build_method("TaskVector").refuse_model(fresh)
    fresh.adapter = str(tmp_path / "adapter")
    with pytest.raises(UserError, match="leave finetuned and pretrained out"):
        build_method("TaskVector", {"finetuned": "x"}).refuse_model(fresh)
