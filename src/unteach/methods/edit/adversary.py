"""An adversary for a one-shot edit: a small LoRA that relearns a little of what is edited away."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.lazy import torch
from unteach.methods.edit.base import EditContext
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

RANK = 8
SCALE = 1.0
"""alpha / r = 8 / 8"""
RATE = 0.01


@dataclass
class Adversary:
    """A LoRA of rank 8 over some linear layers: it adds B A x to what each gives.

    Attributes:
        a: [r, inputs] by layer, drawn by the seed.
        b: [outputs, r] by layer, 0 at first.
    """

    a: "dict[str, Parameter]"
    b: "dict[str, Parameter]"

    @classmethod
    def draw(cls, modules: "Mapping[str, Module]", seed: int) -> "Adversary":
        """Draw one as PEFT does: A uniform within 1/sqrt(inputs), B 0."""
        a, b = {}, {}
        for name, module in modules.items():
            weight: Any = module.weight
            generator = torch.Generator().manual_seed(derive_seed(seed, "adversary", name))
            num_outputs, num_inputs = weight.shape
            drawn = torch.rand(RANK, num_inputs, generator=generator) * 2 - 1
            zeros = torch.zeros(num_outputs, RANK, device=weight.device)
            a[name] = torch.nn.Parameter(drawn.to(weight.device) / num_inputs**0.5, False)
            b[name] = torch.nn.Parameter(zeros, False)
        return cls(a, b)

    @contextlib.contextmanager
    def attached(self, modules: "Mapping[str, Module]") -> Iterator[None]:
        """Have it add to the layers meanwhile."""
        hooks = []
        for name, module in modules.items():
            a, b = self.a[name], self.b[name]

            def add(
                _: "Module",
                inputs: "tuple[Tensor, ...]",
                output: "Tensor",
                a: "Parameter" = a,
                b: "Parameter" = b,
            ) -> "Tensor":
                low = inputs[0].to(a.dtype) @ a.T  # [B, T, r]
                return output + SCALE * (low @ b.T).to(output.dtype)

            hooks.append(module.register_forward_hook(add))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def relearn(self, context: EditContext, stream_name: str) -> None:
        """Take one step of SGD on the CE of each batch, in one pass over the rows; it must be
        attached."""
        factors = {f"a.{name}": a for name, a in self.a.items()}
        factors.update({f"b.{name}": b for name, b in self.b.items()})
        for gradients, _ in context.iterate_gradients(stream_name, factors):
            for name, factor in factors.items():
                factor.data -= RATE * gradients[name]
