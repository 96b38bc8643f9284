"""bitsandbytes' four bits on a CPU, where a layer is not as wide as its blocks.

Weights of four bits share a scale in blocks of the flat weight, so a block may span two rows. On a
CPU with AVX-512 bitsandbytes counts blocks row by row in two places: where it packs a layer for
its inference kernel, which fails, and where it turns weights back, which gives the scale of
another block. The first is left out for such a layer; the second is tried, and refused by name.
"""

import copy
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.lazy import bitsandbytes_functional, torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PACKED_ROWS = 32
"""The inference kernel takes output channels by so many."""


def repair_cpu_layers(model: "PreTrainedModel") -> None:
    """Have every four-bit layer on the CPU computed with its own scales.

    Raises:
        UserError: a layer's weights are turned back with other scales than they were rounded with.
    """
    tried_widths = set()
    for name, module in model.named_modules():
        layer: Any = module
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if not hasattr(layer, "support_avx512bf16_for_cpu") or state is None:
            continue
        if layer.weight.device.type != "cpu":
            continue
        num_rows, width = state.shape
        if num_rows % PACKED_ROWS or width % 2 or width % state.blocksize:
            layer.support_avx512bf16_for_cpu = False
        if width % state.blocksize and width not in tried_widths:
            tried_widths.add(width)
            _refuse_wrong_scales(name, layer.weight.data, state)


def _refuse_wrong_scales(name: str, packed: "Tensor", state: Any) -> None:
    """Raise UserError where a weight is turned back otherwise by its rows than by its flat
    values."""
    flat_state = copy.copy(state)
    flat_state.shape = torch.Size([state.shape.numel()])
    by_rows = bitsandbytes_functional.dequantize_4bit(packed, state)
    flat = bitsandbytes_functional.dequantize_4bit(packed, flat_state)
    if not torch.equal(by_rows.flatten(), flat.flatten()):
        raise UserError(
            f"{name} has rows of {state.shape[1]:,} weights, no multiple of the {state.blocksize} "
            "that share a scale, and bitsandbytes takes the wrong scales for them on this CPU. "
            "Load the model in 8 bits or whole (without quantization=4bit or load_in_4bit), or on "
            "a GPU"
        )
