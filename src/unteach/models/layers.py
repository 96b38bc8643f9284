"""A decoder's layers: naming one, ending a pass there, and which parameters such a pass trains."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def causal_of(model: Any) -> Any:
    """The causal language model itself, inside whatever adapters it has."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone_of(causal: Any) -> Any:
    """All of a language model but its head: ids in, hidden states out."""
    backbone = causal.base_model
    if backbone is not causal:
        return backbone
    # A class that calls it otherwise than its family does is its own base model: the embedding tells where it is.
    embedding = causal.get_input_embeddings()
    return next(child for child in causal.children() if any(module is embedding for module in child.modules()))


def find_layer(causal: Any, pattern: str) -> tuple[Any, str, int]:
    """The layer whose name the regex matches: (the module that holds the list of layers, the list's name, the place).

    Names are those of `named_modules()`: `model.layers.7` in Llama, `transformer.h.7` in GPT-2.
    """
    from torch.nn import ModuleList

    lists = [name for name, module in causal.named_modules() if isinstance(module, ModuleList)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    layers = {f"{name}.{i}": (name, i) for name in outer for i in range(len(causal.get_submodule(name)))}
    try:
        found = [layer for layer in layers if re.fullmatch(pattern, layer)]
    except re.error as error:
        raise UserError(f"the layer {pattern!r} is no regular expression ({error})") from None
    if len(found) != 1:
        ends = ", ".join(f"{name}.0 to {name}.{len(causal.get_submodule(name)) - 1}" for name in outer)
        said = f"matches {len(found)} layers" if found else "matches no layer"
        raise UserError(f"the layer {pattern!r} {said} of this model; it must match one of {ends}")
    name, index = layers[found[0]]
    owner, _, attribute = name.rpartition(".")
    return causal.get_submodule(owner), attribute, index


def layers_of(causal: Any) -> list[Any]:
    """The layers that follow one another: what is in the outermost lists of modules."""
    from torch.nn import ModuleList

    lists = {name: module for name, module in causal.named_modules() if isinstance(module, ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return [layer for name in outer for layer in lists[name]]


class Depth:
    """A context in which the model's own forward ends at a layer: `output` [B, T, d] is what that layer gave.

    The list of layers is shortened while it lasts, so wrappers' hooks, checkpointing and exceptions meet nothing
    unusual: no forward is broken off. entry: it ends where the first layer would begin.
    """

    output: "Tensor"

    def __init__(self, causal: Any, pattern: str, entry: bool = False):
        self.owner, self.name, self.index = find_layer(causal, pattern)
        self.entry = entry

    def __enter__(self) -> "Depth":
        from torch.nn import ModuleList

        self.whole = getattr(self.owner, self.name)
        below = [] if self.entry else list(self.whole)[: self.index]
        last = None if self.entry else self.whole[self.index]
        setattr(self.owner, self.name, ModuleList([*below, _tapped(last, self)]))
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.whole)


def _tapped(layer: Any, depth: Depth) -> Any:
    """The layer, noting what it gives; None notes what it gets. The layer is called as a whole, so that checkpointing
    stays inside."""
    from torch.nn import Module

    class Tapped(Module):
        def forward(self, hidden: Any, *args: Any, **kwargs: Any) -> Any:
            given = hidden if layer is None else layer(hidden, *args, **kwargs)
            depth.output = given[0] if isinstance(given, tuple) else given
            return given

        def __getattr__(self, name: str) -> Any:
            return getattr(layer, name)

    return Tapped()


def cut_above(causal: Any, patterns: Iterable[Any]) -> None:
    """Takes away, for good, what no pass that ends at these layers runs: the layers above the highest, and the head."""
    from torch.nn import Identity

    found = [find_layer(causal, pattern) for pattern in patterns]
    owner, name, highest = max(found, key=lambda layer: layer[2])
    setattr(owner, name, getattr(owner, name)[: highest + 1])
    causal.set_output_embeddings(Identity())


def train_only(model: Any, patterns: Sequence[str], ends: Sequence[str] = ()) -> None:
    """Freezes every parameter whose name no regex matches and, where every pass ends at one of the layers `ends`, every
    one that none of them reaches."""
    causal = causal_of(model)
    reached = set().union(*(_reached(causal, end) for end in ends))
    trained = 0
    for name, parameter in causal.named_parameters():
        chosen = any(re.fullmatch(pattern, name) for pattern in patterns)
        parameter.requires_grad_(parameter.requires_grad and chosen and (not ends or parameter in reached))
        trained += parameter.requires_grad
    if not trained:
        where = f" up to the layer {', '.join(ends)}" if ends else ""
        raise UserError(f"trainable_params_regex={list(patterns)} leaves no parameter to train{where}")


def _reached(causal: Any, end: str) -> "set[Tensor]":
    """The parameters that a gradient from this layer's output arrives at: those of the layers up to it and, read off
    the graph of a pass over a token, those that make what the first layer gets."""
    import torch

    owner, name, index = find_layer(causal, end)
    found = set(getattr(owner, name)[: index + 1].parameters())
    device = next(causal.parameters()).device
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool, device=device)
    with torch.enable_grad(), Depth(causal, end, entry=True) as depth:
        backbone_of(causal)(input_ids=ids, attention_mask=mask, use_cache=False)
    seen, queue = set(), [depth.output.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        queue += [following for following, _ in node.next_functions]
    return found
