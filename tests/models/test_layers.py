"""Ending a pass at a layer: the library's own hidden states, no layer above run or trained, in
every family."""

from typing import Any

import pytest
import torch
import transformers

from tests.models.test_forward import ROWS, batch_of
from unteach.errors import UserError
from unteach.models.forward import OutputSpec, extend
from unteach.models.layer_names import find_layer
from unteach.models.layers import refuse_no_states, train_only

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
DECODERS = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0}
FAMILIES = {
    "Llama": ("Llama", DECODERS, "model.layers"),
    "Qwen2": ("Qwen2", DECODERS, "model.layers"),
    "Phi": ("Phi", {**DECODERS, "num_key_value_heads": 4}, "model.layers"),
    "Phi3": ("Phi3", DECODERS, "model.layers"),
    "Gemma": ("Gemma", {**DECODERS, "head_dim": 8}, "model.layers"),
    "Mistral": ("Mistral", DECODERS, "model.layers"),
    "GPTNeoX": ("GPTNeoX", {**SIZES, "intermediate_size": 48}, "gpt_neox.layers"),
    "GPT2": (
        "GPT2",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
        "transformer.h",
    ),
    "Bloom": (
        "Bloom",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 3, "n_head": 4},
        "transformer.h",
    ),
    "OpenAIGPT": (
        "OpenAIGPT",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4},
        "transformer.h",
    ),
    "OPT": ("OPT", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}, "model.decoder.layers"),
}


def build(family: str) -> tuple[Any, str]:
    kind, config, layers = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**config)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return extend(model.eval()), layers


def gradients(model: Any, layer: str) -> dict[str, torch.Tensor | None]:
    model.zero_grad(set_to_none=True)
    want = {
        "a": OutputSpec(fn=None, positions="labels", layer=layer),
        "b": OutputSpec(fn=None, positions="labels", layer=layer),
    }
    found = model(batch=batch_of(ROWS, 2, False), want=want)
    (found["a"].value.square().sum() + found["b"].value.square().sum()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left", [False, True])
def test_the_output_is_the_librarys(family: str, left: bool) -> None:
    model, layers = build(family)
    found = model(
        batch=batch_of(ROWS, 2, left),
        want={"b": OutputSpec(fn=None, positions="labels", layer=rf"{layers}\.1")},
    )["b"]
    for i, row in enumerate(ROWS[1:]):
        expected = model(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0, 2:]
        assert torch.allclose(found.value[found.row == i], expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_above_is_run_or_trained(family: str) -> None:
    """What `train_only` leaves to train is exactly what a gradient reaches, and the layer above is
    never called."""
    model, layers = build(family)
    called = []
    stack = model.get_submodule(layers)
    for i, layer in enumerate(stack):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    train_only(model, [".*"], [rf"{layers}\.1"])
    chosen = {name for name, p in model.named_parameters() if p.requires_grad}
    model.requires_grad_(True)
    reached = {name for name, grad in gradients(model, rf"{layers}\.1").items() if grad is not None}
    assert chosen == reached
    assert called == [0, 1]
    assert model.get_submodule(layers) is stack


@pytest.mark.parametrize("family", ["Llama", "GPT2", "GPTNeoX"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(family: str, reentrant: bool) -> None:
    model, layers = build(family)
    plain = gradients(model, rf"{layers}\.1")
    model.train()  # no dropout but GPT-2's, which is turned off
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for name, grad in gradients(model, rf"{layers}\.1").items():
        assert (grad is None) == (plain[name] is None), name
        if grad is not None:
            assert torch.allclose(grad, plain[name], atol=1e-5), name


def test_the_layers_are_back_after_an_exception() -> None:
    model, layers = build("Llama")
    stack = model.get_submodule(layers)
    model.model.norm.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gradients(model, r"model\.layers\.0")
    assert model.get_submodule(layers) is stack


def test_streams_of_different_depths_share_no_row(tiny: Any) -> None:
    """One stream to a layer, one to the head: two passes, each over its own rows."""
    rows = []
    handles = [
        layer.register_forward_hook(lambda _m, a, _o: rows.append(len(a[0])))
        for layer in tiny.model.model.layers
    ]
    found = tiny.model(
        batch=batch_of(ROWS, 2, False),
        want={
            "a": OutputSpec(fn=None, positions="labels", layer=r"model\.layers\.0"),
            "b": OutputSpec(),
        },
    )
    for handle in handles:
        handle.remove()
    assert sorted(rows) == [1, 2, 2]
    alone = tiny.model(batch=batch_of(ROWS, 2, False), want={"b": OutputSpec()})["b"]
    assert torch.allclose(found["b"].value, alone.value, atol=1e-6)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"model\.layers\.7", "matches no layer .* model.layers.0 to model.layers.1"),
        (r"model\.layers\..*", "matches 2 layers"),
        ("model.layers.(", "no regular expression"),
    ],
)
def test_a_wrong_layer_is_named(tiny: Any, pattern: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_layer(tiny.model, pattern)


def test_parameters_by_name() -> None:
    model, _ = build("Llama")
    train_only(model, [r"model\.layers\.1\.mlp\.down_proj\.weight"], [r"model\.layers\.1"])
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "model.layers.1.mlp.down_proj.weight"
    ]
    with pytest.raises(UserError, match="leaves no parameter to train up to the layer"):
        train_only(build("Llama")[0], [r"model\.layers\.2\..*"], [r"model\.layers\.1"])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_without_one_state_a_token_is_refused(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Gemma 3n has, whose layers give several states of each token."""
    with torch.device(device):
        model, layers = build("Llama")
    layer = type(model.get_submodule(layers)[0])
    own = layer.forward
    monkeypatch.setattr(
        layer, "forward", lambda self, *args, **kwargs: own(self, *args, **kwargs)[None]
    )
    with pytest.raises(
        UserError,
        match=r"can end at the layer .* \(it gives states of 1 x 1 x 2 x 32 for 2 tokens, ",
    ):
        refuse_no_states(model, [rf"{layers}\.0"])


def test_a_layer_at_which_a_pass_fails_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layers = build("Llama")
    refuse_no_states(model, [rf"{layers}\.0"])
    monkeypatch.setattr(type(model.model), "forward", lambda *_, **__: [][0])
    with pytest.raises(
        UserError, match=r"IndexError: list index out of range\); methods that compare states"
    ):
        refuse_no_states(model, [rf"{layers}\.0"])


def test_a_layer_that_is_run_again_and_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layers = build("Llama")
    own = type(model.model).forward

    def twice(self: Any, *args: Any, **kwargs: Any) -> Any:
        own(self, *args, **kwargs)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", twice)
    with pytest.raises(UserError, match=r"it is run 2 times in a pass"):
        refuse_no_states(model, [rf"{layers}\.0"])
