"""A decoder's layers: naming one, ending a pass there, and which parameters such a pass trains."""

import contextlib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unteach.errors import NO_MEMORY, UserError, first_line
from unteach.lazy import torch
from unteach.wording import shown

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TrainingArguments


def unwrap_model(model: Any) -> Any:
    """The causal language model itself, inside whatever adapters it has."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_partitioned(weight: "Tensor") -> bool:
    """Say whether ZeRO-3 has dealt this weight to the processes, so that it is empty here."""
    return hasattr(weight, "ds_shape")


def num_embeddings(model: Any) -> int:
    """Return the number of rows of the input embeddings, of all processes together."""
    weight = model.get_input_embeddings().weight
    return int(weight.ds_shape[0] if is_partitioned(weight) else weight.shape[0])


def get_backbone(causal: "PreTrainedModel") -> Any:
    """All of a language model but its head: ids in, hidden states out."""
    backbone = causal.base_model
    if backbone is not causal:
        return backbone
    # A class that calls it otherwise than its family does is its own base model: the embedding
    # tells where it is.
    embedding = causal.get_input_embeddings()
    return next(
        child
        for child in causal.children()
        if any(module is embedding for module in child.modules())
    )


def find_layer(causal: Any, pattern: str) -> tuple[Any, str, int]:
    """The layer whose name the regex matches: (the module that holds the list of layers, the list's
    name, the place).

    Names are those of `named_modules()`: `model.layers.7` in Llama, `transformer.h.7` in GPT-2.
    """
    lists = [
        name for name, module in causal.named_modules() if isinstance(module, torch.nn.ModuleList)
    ]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    layers = {
        f"{name}.{i}": (name, i) for name in outer for i in range(len(causal.get_submodule(name)))
    }
    try:
        found = [layer for layer in layers if re.fullmatch(pattern, layer)]
    except re.error as error:
        raise UserError(f"the layer {pattern!r} is no regular expression ({error})") from None
    if len(found) != 1:
        ends = ", ".join(
            f"{name}.0 to {name}.{len(causal.get_submodule(name)) - 1}" for name in outer
        )
        said = f"matches {len(found)} layers" if found else "matches no layer"
        raise UserError(f"the layer {pattern!r} {said} of this model; it must match one of {ends}")
    name, index = layers[found[0]]
    owner, _, attribute = name.rpartition(".")
    return causal.get_submodule(owner), attribute, index


def list_layers(causal: "PreTrainedModel") -> list[Any]:
    """The layers that follow one another: what is in the outermost lists of modules."""
    lists = {
        name: module
        for name, module in causal.named_modules()
        if isinstance(module, torch.nn.ModuleList)
    }
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return [layer for name in outer for layer in lists[name]]


class Depth:
    """A context in which the model's own forward ends at a layer: `output` [B, T, d] is what that
    layer gave.

    The list of layers is shortened while it lasts, so wrappers' hooks, checkpointing and exceptions
    meet nothing
    unusual: no forward is broken off. calls: how often the layer was run.
    """

    output: "Tensor"
    calls = 0

    def __init__(self, causal: Any, pattern: str):
        self.owner, self.name, self.index = find_layer(causal, pattern)

    def __enter__(self) -> "Depth":
        self.whole = getattr(self.owner, self.name)
        below = list(self.whole)[: self.index]
        setattr(
            self.owner,
            self.name,
            torch.nn.ModuleList([*below, _tapped(self.whole[self.index], self)]),
        )
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.whole)


def _tapped(layer: "torch.nn.Module", depth: Depth) -> Any:
    """The layer, noting what it gives. It is called as a whole, so that checkpointing stays
    inside."""

    class Tapped(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: object) -> Any:
            given = layer(*args, **kwargs)
            depth.calls += 1
            depth.output = given[0] if isinstance(given, tuple | list) else given
            return given

        def __getattr__(self, name: str) -> Any:
            return getattr(layer, name)

    return Tapped()


def cut_above(causal: "PreTrainedModel", patterns: Iterable[Any]) -> None:
    """Takes away, for good, what no pass that ends at these layers runs: the layers above the
    highest, and the head."""
    found = [find_layer(causal, pattern) for pattern in patterns]
    owner, name, highest = max(found, key=lambda layer: layer[2])
    setattr(owner, name, getattr(owner, name)[: highest + 1])
    causal.set_output_embeddings(torch.nn.Identity())


def train_only(model: "PreTrainedModel", patterns: Sequence[str], ends: Sequence[str] = ()) -> None:
    """Freezes every parameter whose name no regex matches and, where every pass ends at one of the
    layers `ends`, every one that none of them reaches."""
    causal = unwrap_model(model)
    reached = set().union(*(_reached(causal, end) for end in ends))
    trained = 0
    for name, parameter in causal.named_parameters():
        chosen = any(re.fullmatch(pattern, name) for pattern in patterns)
        parameter.requires_grad_(
            parameter.requires_grad and chosen and (not ends or parameter in reached)
        )
        trained += parameter.requires_grad
    if not trained:
        where = f" up to the layer {', '.join(ends)}" if ends else ""
        raise UserError(
            f"trainable_params_regex={shown(patterns)} leaves no parameter to train{where}"
        )


class _Reached(Exception):
    """The pass has come to the first layer."""


def read_two_tokens(causal: Any) -> None:
    """Run the layers of a model over two tokens.

    On the meta device nothing has a value, and some models look at one: there it is tried with a
    mask of either kind.
    """
    device = causal.get_input_embeddings().weight.device
    run = functools.partial(
        get_backbone(causal), torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False
    )
    if device.type != "meta":
        run()
        return
    try:
        run()
    except _Reached:
        raise
    except Exception:  # a forward of others may fail in any way
        run(attention_mask=torch.ones(1, 1, 2, 2, dtype=torch.bool, device=device))


def _given_to(causal: Any, layer: Any) -> list[Any]:
    """All that a layer gets in a pass over two tokens, which ends there; where none can be made on
    the meta device, the embedding's weight stands for it."""
    from torch.utils._pytree import tree_leaves

    given = list[Any]()

    def note(module: "torch.nn.Module", args: "TrainingArguments", kwargs: object) -> None:
        given.extend(tree_leaves((args, kwargs)))
        raise _Reached

    weight = causal.get_input_embeddings().weight
    hook = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.enable_grad(), contextlib.suppress(Exception if weight.is_meta else _Reached):
            read_two_tokens(causal)
    finally:
        hook.remove()
    return given or [weight.sum()]


def _reached(causal: "PreTrainedModel", end: str) -> "set[Tensor]":
    """The parameters that a gradient from this layer's output arrives at: those of the layers up to
    it and, read off the graph of a pass over two tokens, those that make what the first layer
    gets."""
    owner, name, index = find_layer(causal, end)
    layers = getattr(owner, name)
    given = _given_to(causal, layers[0])
    found = set(layers[: index + 1].parameters())
    seen, queue = set(), [leaf.grad_fn for leaf in given if isinstance(leaf, torch.Tensor)]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        queue += [following for following, _ in node.next_functions]
    return found


def refuse_no_states(causal: "PreTrainedModel", patterns: Iterable[str]) -> None:
    """Raise UserError where a pass that ends at one of these layers does not give one state for
    each token.

    On the meta device a pass may fail because nothing there has a value: what it shows is believed,
    and no more. One with FlashAttention is not tried on the CPU.
    """
    weight = next(causal.parameters())
    kernel = str(getattr(causal.config.get_text_config(), "_attn_implementation", ""))
    if "flash" in kernel and weight.device.type == "cpu":
        return
    width = causal.config.get_text_config().hidden_size
    was_training = causal.training
    causal.eval()
    for pattern in dict.fromkeys(patterns):
        depth = Depth(causal, pattern)
        try:
            with torch.no_grad(), depth:
                read_two_tokens(causal)
        except Exception as error:  # a forward of others may fail in any way
            if weight.is_meta or any(
                sign in f"{type(error).__name__} {error}".lower() for sign in NO_MEMORY
            ):
                continue
            raise _no_end(
                causal, pattern, f"{type(error).__name__}: {first_line(error)}"
            ) from error
        finally:
            causal.train(was_training)
        if depth.calls > 1:
            raise _no_end(
                causal,
                pattern,
                f"it is run {depth.calls} times in a pass, and no run of it is the last",
            )
        shape = tuple(depth.output.shape) if hasattr(depth, "output") else ()
        if shape != (1, 2, width):
            gives = f"states of {' x '.join(map(str, shape))}" if shape else "no states"
            raise _no_end(
                causal, pattern, f"it gives {gives} for 2 tokens, and one of {width} each is needed"
            )


def _no_end(causal: "PreTrainedModel", pattern: str, reason: str) -> UserError:
    return UserError(
        f"no pass of {type(causal).__name__} can end at the layer {pattern!r} ({reason}); methods "
        "that compare states at a layer (RMU, retain_loss_type=EMBED_DIFF) do not train this model"
    )
