"""Four bits where a layer is not as wide as bitsandbytes' blocks of 64."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from unteach.config.schema import ModelConfig
from unteach.errors import UserError
from unteach.lazy import bitsandbytes_functional
from unteach.models import four_bits, loading
from unteach.models.hub import PATH

bitsandbytes = pytest.importorskip("bitsandbytes", reason='pip install ".[quant]"')
WIDTHS = [(72, 100), (96, 200), (64, 128)]
"""Of the hidden states and of the MLP; the last is the blocks' own."""


@pytest.fixture(params=WIDTHS, ids=str)
def folder(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path: Path) -> Path:
    """A random model of these widths."""
    config = transformers.AutoConfig.from_pretrained(tiny_folder)
    config.hidden_size, config.intermediate_size = request.param
    config.head_dim = config.hidden_size // config.num_attention_heads
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path, training: bool, double: bool = False) -> Any:
    quantization = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
    }
    config = ModelConfig(
        {PATH: str(folder), "quantization_config": quantization},
        peft_args={"r": 2, "target_modules": "all-linear"} if training else None,
    )
    return loading.load(config, training=training).model


def round_flat(weight: torch.Tensor, double: bool) -> torch.Tensor:
    packed, state = bitsandbytes_functional.quantize_4bit(
        weight.flatten(), blocksize=64, compress_statistics=double, quant_type="nf4"
    )
    return bitsandbytes_functional.dequantize_4bit(packed, state).reshape(weight.shape)


def assert_near(values: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within what rounding to bfloat16 takes; another block's scale is far beyond."""
    difference = (values - wanted).detach().abs().max()
    assert difference < 0.02 * wanted.detach().abs().max()


def list_layers(model: Any) -> dict[str, Any]:
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            plain = name.removeprefix("base_model.model.").removesuffix(".base_layer")
            layers[plain] = module
    return layers


@pytest.mark.parametrize("training", [False, True], ids=["inference", "QLoRA"])
@pytest.mark.parametrize("double", [False, True], ids=["", "double"])
def test_a_layer_says_what_its_flat_blocks_say(folder: Path, training: bool, double: bool) -> None:
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layers = list_layers(load(folder, training, double))
    assert len(layers) >= 7
    for name, layer in layers.items():
        weight = round_flat(whole.get_submodule(name).weight.detach(), double)
        for num_rows in (1, 5):
            states = torch.randn(num_rows, weight.shape[1], requires_grad=training)
            answer, wanted = layer(states).float(), states @ weight.T
            assert_near(answer, wanted)
            if training:
                (gradient,) = torch.autograd.grad(answer.sum(), states)
                right = weight.sum(0).expand_as(gradient)
                assert_near(gradient, right)


def test_what_the_kernel_of_a_cpu_cannot_take_is_not_packed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CPU with AVX-512, whose kernel packs 32 output channels of whole blocks."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    # A layer that can be packed is computed by a kernel that not every machine has.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True)
    )
    four_bits.repair_cpu_layers(model)
    for layer in list_layers(model).values():
        num_rows, width = layer.weight.quant_state.shape
        assert layer.support_avx512bf16_for_cpu == (num_rows % 32 == 0 and width % 64 == 0)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "QLoRA"])
def test_wrong_scales_are_refused_by_the_name_of_a_layer(
    folder: Path, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = bitsandbytes_functional.dequantize_4bit

    def count_blocks_by_row(packed: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        weight = right(packed, state, *args, **kwargs)
        if len(state.shape) == 2 and state.shape[1] % 64:
            return weight * 1.5
        return weight

    monkeypatch.setattr("bitsandbytes.functional.dequantize_4bit", count_blocks_by_row)
    if transformers.AutoConfig.from_pretrained(folder).hidden_size % 64 == 0:
        load(folder, training)
        return
    with pytest.raises(UserError, match=r"q_proj has rows of \d+ weights, no multiple of the 64"):
        load(folder, training)
