"""Small changes of the weights, under which what was hidden may come out again."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from unteach.audit.attacks.base import WeightAttack
from unteach.lazy import torch
from unteach.models.loading import LoadedModel
from unteach.registry import attack
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@attack("noise", cost="the attacks in `measured` once more")
@dataclass
class Noise(WeightAttack):
    """Add Gaussian noise to every matrix, of `scale` times the standard deviation of its entries.
    Source: noise injection, arXiv:2412.01784."""

    scale: float = field(
        default=0.02, metadata={"help": "of the noise, by the matrix's own spread"}
    )
    seed: int = field(default=0, metadata={"help": "of the noise"})
    measured: list[str] = field(
        default_factory=lambda: ["rank"], metadata={"help": "the attacks that ask meanwhile"}
    )

    @contextlib.contextmanager
    def change(self, model: "PreTrainedModel") -> Iterator[None]:
        kept = {}
        try:
            for name, weight in model.named_parameters():
                if weight.ndim == 2 and weight.is_floating_point():
                    kept[name] = weight.detach().cpu().clone()
                    self._add_noise(name, weight)
            yield
        finally:
            with torch.no_grad():
                for name, before in kept.items():
                    model.get_parameter(name).copy_(before)

    def _add_noise(self, name: str, weight: "torch.nn.Parameter") -> None:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "noise", name) % 2**63)
        noise = torch.randn(weight.shape, generator=generator)
        with torch.no_grad():
            spread = self.scale * weight.float().std()
            weight.add_((spread * noise.to(weight.device)).to(weight.dtype))


@attack("adapter_off", cost="the attacks in `measured` once more")
@dataclass
class AdapterOff(WeightAttack):
    """Switch the adapter off: one that was trained to hide facts leaves them in the base."""

    measured: list[str] = field(
        default_factory=lambda: ["rank", "clean"],
        metadata={"help": "the attacks that ask meanwhile"},
    )

    def find_model_fault(self, loaded: LoadedModel) -> str:
        return "" if loaded.adapter else "the model has no adapter of its own"

    @contextlib.contextmanager
    def change(self, model: "PreTrainedModel") -> Iterator[None]:
        adapted = cast("PeftModel", model)
        with adapted.disable_adapter():
            yield
