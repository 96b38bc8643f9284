"""What a model says with rounded weights, which may bring back what small changes only hid.

A weight W [out, in] is rounded and turned back, in fp32; activations stay as they are, so this is
the error of the weights alone, on any machine:

- `rtnB`, round to nearest with B bits: a row (an output channel) has the scale
  s = max |w| / (2^(B-1) - 1), and w becomes s round(w / s), half to even, without a zero point. No
  weight is moved by more than s / 2.
- `nf4`, `fp4`: bitsandbytes' four bits, in blocks of 64 of the flat weight, each with its largest
  |w| in fp32 as its scale (no double quantisation).

Source: unlearning undone by rounding, arXiv:2410.16454; NF4, arXiv:2305.14314.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from unteach.errors import UserError, describe_unknown, require_extra
from unteach.lazy import bitsandbytes_functional, distributed_tensor, peft, torch, transformers
from unteach.models.decoding import list_models
from unteach.models.layers import is_partitioned, unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Scheme = Literal["rtn8", "rtn4", "rtn3", "nf4", "fp4"]
BITS = {"rtn8": 8, "rtn4": 4, "rtn3": 3}
"""Bits of the schemes that round to nearest."""
BLOCK_SIZE = 64
"""Weights that share a scale in bitsandbytes' four bits."""


def round_to_nearest(weight: "Tensor", bits: int) -> "Tensor":
    """Round a weight [out, in] to `bits` bits, each row by its own largest value; in fp32."""
    exact = weight.float()
    scale = exact.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)  # [out, 1]
    # A row of zeros has no scale, and stays.
    scale = scale.masked_fill(scale == 0, 1.0)
    return (exact / scale).round() * scale


def round_to_four_bits(weight: "Tensor", kind: Literal["nf4", "fp4"]) -> "Tensor":
    """Round a weight of any shape to bitsandbytes' four bits, in blocks of its flat values; in
    fp32.

    Flat, for on a CPU bitsandbytes takes the wrong scales for rows that are no multiple of a block.
    """
    flat = weight.float().contiguous().flatten()
    packed, state = bitsandbytes_functional.quantize_4bit(
        flat, blocksize=BLOCK_SIZE, compress_statistics=False, quant_type=kind
    )
    rounded: Tensor = bitsandbytes_functional.dequantize_4bit(packed, state)
    return rounded.reshape(weight.shape)


@contextlib.contextmanager
def quantize_weights(model: "PreTrainedModel", scheme: Scheme) -> "Iterator[PreTrainedModel]":
    """Round the weights of a model's linear layers within the context.

    Which weights these are and where they are kept meanwhile: `change_linear_weights`. Rounded
    values are held in the weights' own dtype. A store of what the model said as it was does not
    hold of the rounded one.

    Raises:
        UserError: there is no such scheme, `nf4` or `fp4` is asked for without bitsandbytes, or the
            weights cannot be rounded.
    """
    if scheme not in get_args(Scheme):
        raise UserError(describe_unknown("way to round weights", scheme, get_args(Scheme)))

    def change(weight: "Tensor") -> "Tensor":
        if scheme == "nf4" or scheme == "fp4":
            return round_to_four_bits(weight, scheme)
        return round_to_nearest(weight, BITS[scheme])

    if scheme not in BITS:
        require_extra("quant", f"rounding weights to {scheme}")
    with change_linear_weights(model, change):
        yield model


@contextlib.contextmanager
def change_linear_weights(
    model: "PreTrainedModel", change: "Callable[[Tensor], Tensor]"
) -> "Iterator[PreTrainedModel]":
    """Change the weights of a model's linear layers within the context, and put them back whatever
    is raised.

    They are the weights of every linear layer but the head, and a weight that several layers share
    is changed once. Of an adapted layer it is the base weight, under an adapter in full precision,
    as QLoRA and servers of adapters keep it; merge the adapter first to round the sum.

    Weights are changed in place, so that they are the same tensors all along. Memory: the originals
    of the changed weights, on the CPU; where the model is, one weight more.

    Args:
        change: [out, in] -> [out, in], what stands in a weight's place.

    Raises:
        UserError: the weights are quantised already or in pieces, or there is no linear layer.
    """
    originals: list[tuple[Parameter, Tensor]] = []
    try:
        with torch.no_grad():
            for layer in _find_linear_layers(model):
                weight: Any = layer.weight
                originals.append((weight, weight.detach().to("cpu", copy=True)))
                if isinstance(layer, torch.nn.Linear):
                    weight.copy_(change(weight.detach()))
                else:
                    weight.copy_(change(weight.detach().T).T)
        yield model
    finally:
        with torch.no_grad():
            for weight, original in originals:
                weight.copy_(original)


def _find_linear_layers(model: "PreTrainedModel") -> "list[Module]":
    """Find the linear layers whose weights are changed; of those that share a weight the first."""
    causal = unwrap_model(model)
    _refuse_quantized(causal)
    left_out: set[Module] = set()
    for part in list_models(causal):
        head = part.get_output_embeddings()
        left_out |= set(head.modules()) if head is not None else set()
    for module in model.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            # Its own matrices; the base layer is met by itself.
            left_out.update(set(module.modules()) - set(module.get_base_layer().modules()))

    linear_classes = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    seen = {id(module.weight) for module in left_out if isinstance(module, linear_classes)}
    layers = []
    for name, module in model.named_modules():
        is_changed = isinstance(module, linear_classes) and module not in left_out
        if is_changed and id(module.weight) not in seen:
            _refuse_partial(name, module.weight)
            seen.add(id(module.weight))
            layers.append(module)
    if not layers:
        raise UserError(
            f"{type(causal).__name__} has no linear layer beside its head, so none of its weights "
            "can be rounded"
        )
    _report_experts(causal)
    return layers


def _refuse_quantized(causal: "PreTrainedModel") -> None:
    """Raise UserError where weights are quantised already: rounding them again shows nothing."""
    kind = None
    if getattr(causal, "is_quantized", False):
        config: Any = getattr(causal.config, "quantization_config", None)
        kind = str(getattr(config, "quant_method", "an unknown method")).rpartition(".")[2]
    for name, weight in causal.named_parameters():
        if type(weight).__name__ in ("Params4bit", "Int8Params"):
            kind = f"bitsandbytes, as {name} is a {type(weight).__name__}"
            break
    if kind is not None:
        raise UserError(
            f"the weights of this {type(causal).__name__} are quantised already (by {kind}): audit "
            "the model in full precision that they were made from, without quantization_config"
        )


def _refuse_partial(name: str, weight: "Tensor") -> None:
    """Raise UserError where this process does not hold a whole weight."""
    is_sharded = is_partitioned(weight) or isinstance(weight, distributed_tensor.DTensor)
    if is_sharded or weight.is_meta:
        raise UserError(
            f"{name}: this process does not hold the whole weight (it is sharded or offloaded), "
            "and rounding needs whole rows; audit in one process, on a device that holds the model"
        )


def _report_experts(causal: "PreTrainedModel") -> None:
    """Say how many weights stay as they are because no linear layer has them."""
    num_kept = 0
    for weight in causal.parameters():
        if weight.ndim > 2:
            num_kept += weight.numel()
    if num_kept:
        logger.warning(
            "%s: %s weights are of experts or convolutions and not of linear layers; they stay as "
            "they are",
            type(causal).__name__,
            f"{num_kept:,}",
        )
