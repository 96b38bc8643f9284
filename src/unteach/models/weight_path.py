"""The straight path between the weights that a model had and those that it got."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from unteach.lazy import torch
from unteach.models.lora import FACTOR

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

MAGNITUDE = re.compile(r"(.*)\.lora_magnitude_vector\..*")


class WeightPath:
    """theta(a) = theta_0 + a (theta_T - theta_0) of the weights that changed.

    Each tensor is computed in fp32 from the two ends and rounded once, so that theta(0) and
    theta(1) are the ends to the last bit. A LoRA that began at B = 0 is moved by its scale: B gets
    the factor a and A stays as trained, which is the straight path of the weights themselves. A
    DoRA, a LoRA that began as a trained one, and modules saved whole move tensor by tensor.

    Both ends are kept on the CPU, in the dtype of the weights.

    Args:
        weights: by name; what they are now is theta_0.
    """

    def __init__(self, weights: "Mapping[str, Parameter]"):
        self.weights = weights
        self._start = _copy(weights)
        self._end: dict[str, Tensor] = {}
        self._fixed = _find_fixed_factors(self._start)

    def end_here(self) -> None:
        """Take what the weights are now as theta_T."""
        self._end = _copy(self.weights)

    def move_to(self, a: float) -> None:
        """Set the weights to theta(a)."""
        for name, weight in self.weights.items():
            start, end = self._start[name], self._end[name]
            if name in self._fixed:
                start = end
            with torch.no_grad():
                if a == 0:
                    weight.copy_(start)
                elif a == 1:
                    weight.copy_(end)
                else:
                    first = start.to(weight.device, torch.float32)
                    weight.copy_(first + a * (end.to(weight.device, torch.float32) - first))


def _copy(weights: "Mapping[str, Parameter]") -> "dict[str, Tensor]":
    return {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}


def _find_fixed_factors(start: "Mapping[str, Tensor]") -> set[str]:
    """Find the factors of LoRAs that stay as trained, since their partner was 0 at the start and
    bears the scale alone."""
    factors: dict[str, dict[str, str]] = {}
    magnitudes = set()
    for name in start:
        factor, magnitude = FACTOR.fullmatch(name), MAGNITUDE.fullmatch(name)
        if factor:
            factors.setdefault(factor[1], {})[factor[3]] = name
        elif magnitude:
            magnitudes.add(magnitude[1])
    fixed = set()
    for layer, names in factors.items():
        if layer in magnitudes or len(names) < 2:
            continue
        if not start[names["B"]].any():
            fixed.add(names["A"])
        elif not start[names["A"]].any():
            fixed.add(names["B"])
    return fixed
