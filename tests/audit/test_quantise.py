"""Rounded weights: near the originals, the right ones, and gone without a trace."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from unteach import errors
from unteach.audits.quantise import (
    BITS,
    change_linear_weights,
    quantize_weights,
    round_to_four_bits,
    round_to_nearest,
)
from unteach.errors import UserError

SCHEMES = [*BITS, "nf4", "fp4"]


@pytest.fixture(scope="module", autouse=True)
def uncompiled() -> Iterator[None]:
    """bitsandbytes compiles its rounding for each shape, which takes longer than all of these
    tests; the operations are the same without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._dynamo.config, "disable", True)
        yield


def build_llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{
            "vocab_size": 48,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            **changes,
        }
    )
    return transformers.LlamaForCausalLM(config)


def copy_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def list_changed(model: Any, before: dict[str, torch.Tensor]) -> set[str]:
    return {
        name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])
    }


def has_bits(weight: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors have the same bits, NaN and the sign of 0 too."""
    return torch.equal(weight.detach().view(torch.uint8), expected.view(torch.uint8))


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    rows=st.lists(
        st.lists(
            st.floats(-1e3, 1e3, width=32, allow_subnormal=False).filter(
                lambda w: w == 0 or abs(w) > 1e-20
            ),
            min_size=3,
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_no_weight_moves_by_more_than_half_a_step(bits: int, rows: list[list[float]]) -> None:
    weight = torch.tensor(rows)
    step = weight.double().abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    rounded = round_to_nearest(weight, bits)
    error = (rounded.double() - weight.double()).abs()
    assert (error <= step * (0.5 + 1e-4)).all()
    # What is rounded already stays, up to the rounding of fp32.
    assert torch.allclose(round_to_nearest(rounded, bits), rounded, rtol=1e-5, atol=0)


def test_halves_go_to_the_even_and_rows_of_zeros_stay() -> None:
    weight = torch.tensor([[7.0, 0.5, 1.5, -2.5], [0.0, 0.0, 0.0, 0.0]])
    assert round_to_nearest(weight, 4).tolist() == [[7, 0, 2, -2], [0, 0, 0, 0]]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (7, 9)])
def test_four_bits_take_the_nearest_of_sixteen_values(kind: Any, shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason='pip install ".[quant]"')
    code = functional.get_4bit_type(kind, device="cpu").float()
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    padded = torch.zeros(math.ceil(weight.numel() / 64) * 64)
    padded[: weight.numel()] = weight.flatten()
    blocks = padded.view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / scale)[..., None] - code).abs().argmin(-1)
    expected = (code[nearest] * scale).flatten()[: weight.numel()].view(shape)
    assert torch.allclose(round_to_four_bits(weight, kind), expected, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_put_back_bit_for_bit(scheme: Any, dtype: torch.dtype) -> None:
    if scheme not in BITS:
        pytest.importorskip("bitsandbytes", reason='pip install ".[quant]"')
    model = build_llama().to(dtype)
    before = copy_weights(model)
    tensors = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    with quantize_weights(model, scheme) as rounded:
        assert rounded is model
        assert list_changed(model, before)
    with pytest.raises(RuntimeError, match="inside"), quantize_weights(model, scheme):
        raise RuntimeError("inside")
    for name, weight in model.named_parameters():
        assert has_bits(weight, before[name]), name
        assert (id(weight), weight.data_ptr()) == tensors[name]
        assert weight.requires_grad


def test_weights_are_put_back_where_changing_them_fails() -> None:
    model = build_llama()
    before = copy_weights(model)
    shapes = []

    def change(weight: torch.Tensor) -> torch.Tensor:
        shapes.append(weight.shape)
        if len(shapes) == 5:
            raise RuntimeError("out of memory")
        return weight * 2

    with pytest.raises(RuntimeError, match="out of memory"), change_linear_weights(model, change):
        raise AssertionError("never here")
    assert not list_changed(model, before)


@pytest.mark.parametrize("tied", [False, True])
def test_all_linear_layers_but_the_head_are_rounded(tied: bool) -> None:
    model = build_llama(tie_word_embeddings=tied)
    before = copy_weights(model)
    with quantize_weights(model, "rtn3"):
        changed = list_changed(model, before)
    linear = set()
    for name, module in model.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            linear.add(f"model.{name}.weight")
    assert len(linear) == 14 and changed == linear


def test_a_shared_weight_is_changed_once() -> None:
    model = build_llama()
    layers = model.model.layers
    layers[1].mlp.gate_proj.weight = layers[0].mlp.gate_proj.weight
    before = copy_weights(model)
    with change_linear_weights(model, lambda weight: weight * 2):
        shared = layers[1].mlp.gate_proj.weight
        assert torch.equal(shared, 2 * before["model.layers.0.mlp.gate_proj.weight"])
    assert not list_changed(model, before)


def test_output_channels_of_gpt2_are_columns() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=48)
    model = transformers.GPT2LMHeadModel(config)
    weight = model.transformer.h[0].mlp.c_fc.weight
    expected = round_to_nearest(weight.detach().T, 4).T
    before = copy_weights(model)
    with quantize_weights(model, "rtn4"):
        assert torch.equal(weight, expected)
        assert len(list_changed(model, before)) == 4
    assert not list_changed(model, before)


def test_under_an_adapter_the_base_weights_are_rounded() -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(build_llama(), config)
    before = copy_weights(model)
    with quantize_weights(model, "rtn3"):
        changed = list_changed(model, before)
    assert len(changed) == 14
    assert not any("lora_" in name or "lm_head" in name for name in changed)
    assert "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight" in changed
    assert not list_changed(model, before)


def test_what_is_quantised_is_refused_by_name(blocks_folder: Path) -> None:
    pytest.importorskip("bitsandbytes", reason='pip install ".[quant]"')
    model = transformers.AutoModelForCausalLM.from_pretrained(
        blocks_folder, quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True)
    )
    with (
        pytest.raises(UserError, match="quantised already"),
        quantize_weights(model, "rtn4"),
    ):
        raise AssertionError("never here")


def test_a_wrong_scheme_and_a_missing_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_llama()
    before = copy_weights(model)
    with pytest.raises(UserError, match="did you mean nf4"), quantize_weights(model, "nf5"):  # type: ignore[arg-type]
        raise AssertionError("never here")
    monkeypatch.setattr(errors, "has_extra", lambda extra: False)
    with (
        pytest.raises(UserError, match=r'pip install "\.\[quant\]"'),
        quantize_weights(model, "nf4"),
    ):
        raise AssertionError("never here")
    assert not list_changed(model, before)


def test_weights_that_are_not_here_are_refused() -> None:
    model = copy.deepcopy(build_llama()).to("meta")
    with (
        pytest.raises(UserError, match="does not hold the whole weight"),
        quantize_weights(model, "rtn4"),
    ):
        raise AssertionError("never here")


def test_experts_that_stay_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    model = transformers.MixtralForCausalLM(config)
    with quantize_weights(model, "rtn4"):
        pass
    num_kept = sum(weight.numel() for weight in model.parameters() if weight.ndim > 2)
    assert num_kept and f"{num_kept:,} weights are of experts" in caplog.text
