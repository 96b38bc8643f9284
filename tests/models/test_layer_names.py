"""Names of layers: the same in every family, by number and by depth; wrong ones are said."""

import re
from typing import Any

import pytest
import torch
import transformers

from tests.models.test_layers import DECODERS, FAMILIES, SIZES, build
from unteach.errors import UserError
from unteach.models.layer_names import (
    count_layers,
    count_named_layers,
    find_end,
    find_layer,
    find_modules,
)
from unteach.models.layers import drop_layers_above, train_only

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
MIXTURES = {
    "Qwen3Moe": {**DECODERS, **EXPERTS, "num_experts": 4, "decoder_sparse_step": 1},
    "Olmoe": {**DECODERS, "num_experts_per_tok": 2, "num_experts": 4},
    "GptOss": {**DECODERS, **EXPERTS, "num_local_experts": 4},
}


def build_mixture(family: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**MIXTURES[family])
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_has_one_name_in_every_family(family: str) -> None:
    model, own_name = build(family)
    for pattern in ("layers.1", r"layers\.1", rf"{re.escape(own_name)}\.1", "layers.67%"):
        layer = find_layer(model, pattern)
        assert layer.name == f"{own_name}.1"
        assert layer.layers[layer.index] is model.get_submodule(f"{own_name}.1")
    (mlp,) = find_modules(model, "layers.1.mlp")
    assert mlp.name == "layers.1.mlp"
    assert [address.name for address in find_modules(model, r"layers\.\d+\.mlp")] == [
        "layers.0.mlp",
        "layers.1.mlp",
        "layers.2.mlp",
    ]


@pytest.mark.parametrize(
    ("depth", "quarter", "two_thirds"), [(32, 7, 20), (16, 3, 9), (12, 2, 6), (3, 0, 0), (1, 0, 0)]
)
def test_a_depth_names_the_layer_that_ends_it(depth: int, quarter: int, two_thirds: int) -> None:
    with torch.device("meta"):
        config = transformers.LlamaConfig(**{**DECODERS, "num_hidden_layers": depth})
        model = transformers.LlamaForCausalLM(config)
    assert find_layer(model, "layers.25%").index == quarter
    assert find_layer(model, "layers.66.6%").index == two_thirds
    assert find_layer(model, "layers.100%").index == depth - 1
    assert find_layer(model, "layers.0%").index == 0


def test_a_percentage_is_of_whole_layers() -> None:
    with torch.device("meta"):
        config = transformers.LlamaConfig(**{**DECODERS, "num_hidden_layers": 100})
        model = transformers.LlamaForCausalLM(config)
    for percent in range(1, 101):
        assert find_layer(model, f"layers.{percent}%").index == percent - 1


def test_a_depth_is_that_of_the_whole_model() -> None:
    """Also where the layers above were taken away, as from a reference."""
    with torch.device("meta"):
        config = transformers.LlamaConfig(**{**DECODERS, "num_hidden_layers": 8})
        model = transformers.LlamaForCausalLM(config)
    drop_layers_above(model, ["layers.50%"])
    assert len(model.model.layers) == 4
    assert count_layers(model) == 8
    assert find_layer(model, "layers.50%").index == 3


def test_a_pass_ends_at_the_highest() -> None:
    model, _ = build("Llama")
    end = find_end(model, ["layers.1", "embedding", "layers.0.mlp"])
    assert end is not None and end.index == 1
    assert find_end(model, ["layers.0", "last"]) is None


def test_the_text_of_a_model_that_sees_has_the_layers() -> None:
    text = {**DECODERS, "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.Gemma3Config(
        text_config=text, vision_config={**vision, "num_attention_heads": 2}
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert find_layer(model, "layers.2").name == "model.language_model.layers.2"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "layers.3",
            r"matches no layer .* model.layers.0 to model.layers.2 \(layers.0 to layers.2",
        ),
        ("layers.150%", "no layer beyond 100%"),
        ("layers.1.mpl", r"model\.layers\.1 has no module 'mpl'; it has self_attn, mlp, "),
        (r"layers\.\d+\.moe", r"model\.layers\.0 has no module 'moe'"),
        ("layers.7.mlp", "matches no layer"),
        ("layers.(", "no regular expression"),
    ],
)
def test_a_wrong_name_is_said(pattern: str, message: str) -> None:
    model, _ = build("Llama")
    with pytest.raises(UserError, match=message):
        find_modules(model, pattern)


def test_numbers_in_names_are_counted() -> None:
    assert count_named_layers([r"model\.layers\.7", "layers.2", "layers.31.25%"]) == 8
    assert count_named_layers(["layers.25%", "embedding"]) == 0


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("prefix", [r"model\.layers", "layers"])
def test_experts_in_one_tensor_are_named_and_train(family: str, prefix: str) -> None:
    """Fused weights [experts, …]: they alone train, and a gradient arrives at every used one."""
    model = build_mixture(family)
    train_only(model, [rf"{prefix}\.[01]\.mlp\.experts\.down_proj"], ["layers.1"])
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(trained) == {f"model.layers.{i}.mlp.experts.down_proj" for i in (0, 1)}
    model(input_ids=torch.arange(2, 40)[None]).logits.square().mean().backward()
    for parameter in trained.values():
        assert parameter.ndim == 3
        assert parameter.grad is not None
        assert (parameter.grad.flatten(1).norm(dim=-1) > 0).sum() >= 2


def test_a_regex_of_no_parameter_shows_their_names() -> None:
    model = build_mixture("Olmoe")
    with pytest.raises(UserError, match=r"called .*model\.layers\.1\.mlp\.experts\.down_proj"):
        train_only(model, [r"layers\.1\.mlp\.down_proj\.weight"], ["layers.1"])


def test_sizes_are_shared_by_the_families() -> None:
    assert SIZES["num_hidden_layers"] == 3, "names above count on it"
