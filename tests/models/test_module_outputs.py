"""Outputs of several modules in one pass: the library's own, and nothing above them is run."""

from typing import Any

import pytest
import torch

from tests.models.test_forward import ROWS, batch_of
from tests.models.test_layer_names import build_mixture
from tests.models.test_layers import FAMILIES, build
from unteach.errors import UserError
from unteach.models.forward import OutputSpec, extend, logprob
from unteach.models.layers import find_final_norm, refuse_no_lens, refuse_no_states, train_only

MODULES = ("layers.1", "embedding", "layers.0.mlp", "layers.0")
SPEC = OutputSpec(fn=None, positions="real", modules=MODULES)


def record_by_hooks(model: Any, own_name: str, row: list[int]) -> dict[str, torch.Tensor]:
    """What the library's own pass over a row gives, at the same modules."""
    seen = {}
    stack = model.get_submodule(own_name)
    mlps = [child for name, child in stack[0].named_children() if name == "mlp"]

    def note(name: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output)[0]

        return hook

    handles = [
        stack[0].register_forward_hook(note("layers.0")),
        stack[1].register_forward_hook(note("layers.1")),
        *[mlp.register_forward_hook(note("layers.0.mlp")) for mlp in mlps],
    ]
    states = model(torch.tensor([row]), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    seen["embedding"] = states[0][0]
    return seen


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "OPT"])
@pytest.mark.parametrize("packed", [False, True])
def test_each_module_gives_what_it_gives_in_the_librarys_pass(family: str, packed: bool) -> None:
    if packed and family in ("Bloom", "OpenAIGPT"):
        pytest.skip("it does not tell packed rows apart, and is refused for it")
    model, own_name = build(family)
    extend(model, packed)
    for left in (False, True):
        found = model(batch=batch_of(ROWS, 2, left), want={"a": SPEC, "b": SPEC})
        assert list(found["b"].states) == ["embedding", "layers.0.mlp", "layers.0", "layers.1"]
        assert found["b"].lengths().tolist() == [len(row) for row in ROWS[1:]]
        assert torch.equal(found["b"].value, found["b"].states["layers.1"])
        for i, row in enumerate(ROWS[1:]):
            expected = record_by_hooks(model, own_name, row)
            for name, states in found["b"].states.items():
                own = states[found["b"].row == i]
                assert torch.allclose(own, expected[name], atol=1e-5), (name, left)


def test_streams_that_end_at_one_layer_share_a_pass_and_none_above_is_run() -> None:
    model, own_name = build("Llama")
    called = []
    for i, layer in enumerate(model.get_submodule(own_name)):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    below = OutputSpec(
        fn=None, positions="real", modules=("embedding", r"layers\.\d+"), until=("layers.1",)
    )
    found = model(batch=batch_of(ROWS, 2, False), want={"a": SPEC, "b": below})
    assert called == [0, 1]
    assert list(found["b"].states) == ["embedding", "layers.0", "layers.1"]


def test_a_state_behind_the_final_norm_needs_all_layers() -> None:
    model, _ = build("Llama")
    spec = OutputSpec(fn=None, positions="real", modules=("layers.2", "last"))
    found = model(batch=batch_of(ROWS, 2, False), want={"b": spec})["b"]
    normed = model.model.norm(found.states["layers.2"])
    assert torch.allclose(normed, found.states["last"], atol=1e-6)
    train_only(model, [".*"], ["layers.2", "last"])
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["lm_head.weight"], "only the head gets no gradient"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lens_reads_each_layer_as_the_head_reads_the_last(family: str) -> None:
    model, own_name = build(family)
    norm = find_final_norm(model)
    if norm is None:
        assert family == "OpenAIGPT"
        with pytest.raises(UserError, match="not one norm alone"):
            refuse_no_lens(model)
        return
    refuse_no_lens(model)
    spec = OutputSpec(positions="real", lens=("embedding", r"layers\.\d+"))
    found = model(batch=batch_of(ROWS, 2, False), want={"b": spec})["b"]
    assert torch.allclose(found.lens["layers.2"], found.value, atol=1e-5)
    row = ROWS[1]
    states = record_by_hooks(model, own_name, row)["layers.0"]
    logits = model.get_output_embeddings()(norm(states))
    following = torch.tensor([*row[1:], 0])
    own = found.lens["layers.0"][found.row == 0]
    assert torch.allclose(own, logprob(logits, following), atol=1e-4)


def compute_gradients(model: Any, spec: OutputSpec) -> dict[str, torch.Tensor | None]:
    model.zero_grad(set_to_none=True)
    found = model(batch=batch_of(ROWS, 2, False), want={"a": spec, "b": spec})
    outputs = [output for stream in found.values() for output in stream.states.values()]
    sum(output.square().sum() for output in outputs).backward()  # type: ignore[union-attr]
    return {name: p.grad for name, p in model.named_parameters()}


def test_checkpointing_changes_no_gradient_of_a_module_inside_a_layer() -> None:
    model, _ = build("Llama")
    plain = compute_gradients(model, SPEC)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, gradient in compute_gradients(model, SPEC).items():
        expected = plain[name]
        assert (gradient is None) == (expected is None), name
        if gradient is not None and expected is not None:
            assert torch.allclose(gradient, expected, atol=1e-5), name


def test_reentrant_checkpointing_is_refused_where_it_would_hide_a_gradient() -> None:
    model, _ = build("Llama")
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(UserError, match=r"layers\.0\.mlp gives, .*use_reentrant=false"):
        compute_gradients(model, SPEC)
    compute_gradients(model, OutputSpec(fn=None, positions="real", modules=("layers.1",)))


def test_a_pass_that_ends_inside_a_layer_leaves_none_of_its_weights_without_gradient() -> None:
    """DistributedDataParallel would wait for it, and FSDP2 not gather the weights."""
    model, _ = build("Llama")
    spec = OutputSpec(fn=None, positions="real", modules=("layers.1.self_attn",))
    gradients = compute_gradients(model, spec)
    inside = {n: g for n, g in gradients.items() if n.startswith("model.layers.1.")}
    assert all(gradient is not None for gradient in inside.values())
    assert not inside["model.layers.1.mlp.down_proj.weight"].any()  # type: ignore[union-attr]
    assert inside["model.layers.1.self_attn.o_proj.weight"].any()  # type: ignore[union-attr]


def test_hooks_and_layers_are_as_before_after_an_exception() -> None:
    model, own_name = build("Llama")
    stack = model.get_submodule(own_name)
    model.model.norm.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(batch=batch_of(ROWS, 2, False), want={"b": SPEC})
    assert model.get_submodule(own_name) is stack
    assert not stack[0].mlp._forward_hooks


@pytest.mark.parametrize("family", ["Qwen3Moe", "Olmoe", "GptOss"])
def test_a_mixture_of_experts_gives_its_states_as_an_mlp_does(family: str) -> None:
    model = build_mixture(family)
    refuse_no_states(model, [r"layers\.\d+\.mlp", "layers.1"])
    extend(model.eval())
    found = model(batch=batch_of(ROWS, 2, False), want={"b": SPEC})["b"]
    expected = record_by_hooks(model, "model.layers", ROWS[2])
    own = found.states["layers.0.mlp"][found.row == 1]
    assert torch.allclose(own, expected["layers.0.mlp"], atol=1e-5)


def test_a_module_without_one_state_a_token_is_refused() -> None:
    """OPT's MLP lays the tokens of all rows in one list."""
    model, _ = build("OPT")
    refuse_no_states(model, [r"layers\.\d+"])
    with pytest.raises(
        UserError, match=r"at layers\.0\.mlp of OPTFor.* \(it gives states of 2 x 32 for 2 tokens"
    ):
        refuse_no_states(model, [r"layers\.\d+\.mlp"])
