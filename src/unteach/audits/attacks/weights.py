"""Small changes of the weights, under which what was hidden may come out again."""

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from unteach.audits.attacks.base import WeightAttack
from unteach.audits.quantise import BITS, Scheme, change_linear_weights, quantize_weights
from unteach.errors import describe_missing_extra, has_extra
from unteach.lazy import torch
from unteach.models.loading import LoadedModel
from unteach.registry import attack

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

COST = "the attacks in `measured` once more"
MEASURED = {"help": "the attacks that ask meanwhile"}


@attack("quantize", cost=COST)
@dataclass
class Quantize(WeightAttack):
    """Round the weights of all linear layers but the head: to the nearest of 2^bits values a row
    (rtn), or as bitsandbytes does (nf4, fp4; its eight bits round weights as rtn8). Small steps of
    unlearning are rounded away. Source: arXiv:2410.16454."""

    scheme: Scheme = field(default="rtn4", metadata={"help": "to how many bits, and how"})
    measured: list[str] = field(default_factory=lambda: ["rank"], metadata=MEASURED)

    def find_model_fault(self, loaded: LoadedModel) -> str:
        if fault := _find_quantized(loaded):
            return fault
        if self.scheme not in BITS and not has_extra("quant"):
            return describe_missing_extra("quant", "rounding as bitsandbytes does")
        return ""

    def change(self, model: "PreTrainedModel") -> contextlib.AbstractContextManager[object]:
        return quantize_weights(model, self.scheme)


@attack("noise", cost=COST)
@dataclass
class Noise(WeightAttack):
    """Add Gaussian noise to the weights of all linear layers but the head. Source: noise injection,
    arXiv:2412.01784."""

    scale: float = field(
        default=0.02, metadata={"help": "of the noise, in the weight's own spread"}
    )
    seed: int = field(default=0, metadata={"help": "of the noise"})
    measured: list[str] = field(default_factory=lambda: ["rank"], metadata=MEASURED)

    def find_model_fault(self, loaded: LoadedModel) -> str:
        return _find_quantized(loaded)

    def change(self, model: "PreTrainedModel") -> contextlib.AbstractContextManager[object]:
        generator = torch.Generator().manual_seed(self.seed)

        def add_noise(weight: "Tensor") -> "Tensor":
            noise = torch.randn(weight.shape, generator=generator).to(weight.device)
            noisy = weight.float() + self.scale * weight.float().std() * noise
            return noisy.to(weight.dtype)

        return change_linear_weights(model, add_noise)


@attack("adapter_off", cost=COST)
@dataclass
class AdapterOff(WeightAttack):
    """Switch the adapter off: one that was trained to hide facts leaves them in the base."""

    TAKES_AWAY = True
    measured: list[str] = field(default_factory=lambda: ["rank", "clean"], metadata=MEASURED)

    def find_model_fault(self, loaded: LoadedModel) -> str:
        return "" if loaded.adapter else "the model has no adapter of its own"

    def change(self, model: "PreTrainedModel") -> contextlib.AbstractContextManager[object]:
        manager: contextlib.AbstractContextManager[object] = cast(
            "PeftModel", model
        ).disable_adapter()
        return manager


def _find_quantized(loaded: LoadedModel) -> str:
    """Say that weights are quantised already, and are not changed; empty: they are not."""
    is_quantized = getattr(loaded.model, "is_quantized", False)
    return "the weights are quantised already" if is_quantized else ""
