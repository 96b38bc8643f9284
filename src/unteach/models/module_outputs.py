"""Recording what several modules give in one pass, which may end at a layer."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.lazy import torch
from unteach.models.layer_names import EMBEDDING, LayerAddress, ModuleAddress

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


@dataclass
class ModuleOutputs:
    """What modules gave in a pass.

    Attributes:
        states: by name: [B, T, d].
        num_calls: how often each was run.
        end: what the layer gave at which the pass ended.
    """

    states: "dict[str, Tensor]" = field(default_factory=dict)
    num_calls: dict[str, int] = field(default_factory=dict)
    end: "Tensor | None" = None

    def add(self, name: str, result: Any) -> None:
        """Keep what a module gave; of several results the first."""
        self.states[name] = result[0] if isinstance(result, tuple | list) else result
        self.num_calls[name] = self.num_calls.get(name, 0) + 1

    def tie_to_end(self, names: Iterable[str]) -> None:
        """Make the outputs of modules depend, by a factor of 0, on what the last layer gives.

        Where a pass ends at the layer that they lie in, nothing else of it may be in the loss:
        its other weights get no gradient then, for which DistributedDataParallel waits, and FSDP2
        gathers a layer's weights only for a backward pass through the layer's output.
        """
        if self.end is None or not self.end.requires_grad:
            return
        nothing = 0 * self.end.float().sum()
        for name in names:
            self.states[name] = self.states[name] + nothing.to(self.states[name].dtype)


@contextlib.contextmanager
def record_outputs(
    causal: "PreTrainedModel", addresses: Iterable[ModuleAddress], end: LayerAddress | None
) -> Iterator[ModuleOutputs]:
    """Have the model's own forward record what some modules give, and end at a layer.

    The list of layers is changed meanwhile, and shortened, so wrappers' hooks, checkpointing and
    exceptions meet nothing unusual: no forward is broken off.

    Args:
        addresses: of the modules, all in one list of layers.
        end: the last layer that is run; None: all are, and what the head would get is not recorded
            here: the forward returns it.
    """
    outputs = ModuleOutputs()
    in_layers = [address for address in addresses if address.layer is not None]
    anchor = end or (in_layers[0].layer if in_layers else None)
    if anchor is None:
        yield outputs
        return

    # Layers record as wholes, so that checkpointing stays inside; modules in them by hooks.
    layers = anchor.layers
    num_run = len(layers) if end is None else end.index + 1
    recorded: dict[int, list[str]] = {}
    hooks = []
    for address in in_layers:
        assert address.layer is not None
        if address.layer.index >= num_run:
            continue
        if address.inner:
            module = layers[address.layer.index].get_submodule(address.inner)
            hooks.append(_record_inner(module, address.name, outputs))
        else:
            recorded.setdefault(address.layer.index, []).append(address.name)

    wrapped = []
    for index, layer in enumerate(layers[:num_run]):
        is_end = end is not None and index == num_run - 1
        names = recorded.get(index, [])
        if names or is_end:
            layer = _record_layer(layer, names, outputs, is_end)
        wrapped.append(layer)
    setattr(anchor.owner, anchor.list_name, torch.nn.ModuleList(wrapped))
    try:
        yield outputs
    finally:
        setattr(anchor.owner, anchor.list_name, layers)
        for hook in hooks:
            hook.remove()
    if end is not None:
        inner_at_end = []
        for address in in_layers:
            if address.inner and address.layer == end and address.name in outputs.states:
                inner_at_end.append(address.name)
        outputs.tie_to_end(inner_at_end)


def _record_inner(module: "Module", name: str, outputs: ModuleOutputs) -> Any:
    """Record what a module inside a layer gives; return the handle of its hook.

    Raises, in the pass, UserError where the layer is run without a gradient that is made up for in
    the backward pass: nothing could be learned from what is recorded there.
    """
    has_grad = torch.is_grad_enabled()

    def record(_: "Module", args: object, result: Any) -> None:
        if has_grad and not torch.is_grad_enabled():
            raise UserError(
                f"this method learns from what {name} gives, and reentrant gradient checkpointing "
                "runs that without a gradient; set "
                "trainer.args.gradient_checkpointing_kwargs.use_reentrant=false"
            )
        outputs.add(name, result)

    return module.register_forward_hook(record)


def _record_layer(
    layer: "Module", names: list[str], outputs: ModuleOutputs, is_end: bool
) -> "Module":
    """Return the layer as one that records what it gives or, as `embedding`, what it gets."""

    class RecordingLayer(torch.nn.Module):
        def forward(self, *args: object, **kwargs: object) -> Any:
            result = layer(*args, **kwargs)
            for name in names:
                if name == EMBEDDING:
                    outputs.add(name, args[0] if args else kwargs["hidden_states"])
                else:
                    outputs.add(name, result)
            if is_end:
                outputs.end = result[0] if isinstance(result, tuple | list) else result
            return result

        def __getattr__(self, name: str) -> Any:
            return getattr(layer, name)

    return RecordingLayer()
