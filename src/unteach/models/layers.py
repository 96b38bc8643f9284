"""A decoder's layers: naming one, ending a pass there, and which parameters such a pass trains."""

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError, get_first_line, is_out_of_memory
from unteach.lazy import torch
from unteach.wording import quote_value

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, ModuleList
    from transformers import PreTrainedModel


def unwrap_model(model: object) -> Any:
    """Return the causal language model itself, inside whatever adapters it has."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_partitioned(weight: "Tensor") -> bool:
    """Say whether ZeRO-3 has dealt this weight to the processes, so that it is empty here."""
    return hasattr(weight, "ds_shape")


def num_embeddings(model: "PreTrainedModel") -> int:
    """Return the number of rows of the input embeddings, of all processes together."""
    weight: Any = model.get_input_embeddings().weight
    return int(weight.ds_shape[0] if is_partitioned(weight) else weight.shape[0])


def get_backbone(causal: "PreTrainedModel") -> Any:
    """Return all of a language model but its head: ids in, hidden states out."""
    backbone = causal.base_model
    if backbone is not causal:
        return backbone
    # A class that calls it otherwise than its family does is its own base model: the embedding
    # shows where it is.
    embedding = causal.get_input_embeddings()
    for child in causal.children():
        if any(module is embedding for module in child.modules()):
            return child
    raise AssertionError(f"{type(causal).__name__} has no part with its embedding")


def _find_layer_lists(causal: "PreTrainedModel") -> "dict[str, ModuleList]":
    """Find the outermost lists of modules, by name: a layer may have lists of its own inside."""
    lists = {}
    for name, module in causal.named_modules():
        if isinstance(module, torch.nn.ModuleList):
            lists[name] = module
    outermost = {}
    for name, module in lists.items():
        if not any(name.startswith(f"{other}.") for other in lists):
            outermost[name] = module
    return outermost


def list_layers(causal: "PreTrainedModel") -> "list[Module]":
    """List the layers that follow one another."""
    layers: list[Module] = []
    for module_list in _find_layer_lists(causal).values():
        layers += module_list
    return layers


@dataclass(frozen=True)
class LayerAddress:
    """Where a layer is: in which list, and which module has that list under which name."""

    owner: Any
    list_name: str
    index: int

    @property
    def layers(self) -> "ModuleList":
        """The list of layers that it is in."""
        layers: ModuleList = getattr(self.owner, self.list_name)
        return layers


def find_layer(causal: "PreTrainedModel", pattern: str) -> LayerAddress:
    """Find the one layer whose name the regex matches.

    Names are those of `named_modules()`: `model.layers.7` in Llama, `transformer.h.7` in GPT-2.
    """
    lists = _find_layer_lists(causal)
    candidates: dict[str, tuple[str, int]] = {}
    for list_path, module_list in lists.items():
        for index in range(len(module_list)):
            candidates[f"{list_path}.{index}"] = (list_path, index)
    try:
        matches = [name for name in candidates if re.fullmatch(pattern, name)]
    except re.error as error:
        raise UserError(f"the layer {pattern!r} is no regular expression ({error})") from None
    if len(matches) != 1:
        ranges = [f"{name}.0 to {name}.{len(layers) - 1}" for name, layers in lists.items()]
        problem = f"matches {len(matches)} layers" if matches else "matches no layer"
        raise UserError(
            f"the layer {pattern!r} {problem} of this model; it must match one of "
            f"{', '.join(ranges)}"
        )
    list_path, index = candidates[matches[0]]
    owner_path, _, list_name = list_path.rpartition(".")
    return LayerAddress(causal.get_submodule(owner_path), list_name, index)


@dataclass
class LayerOutput:
    """What a layer gave in a pass that ended there."""

    hidden: "Tensor | None" = None  # [B, T, d]
    num_calls: int = 0
    """How often the layer was run."""


@contextlib.contextmanager
def stop_at_layer(causal: "PreTrainedModel", pattern: str) -> Iterator[LayerOutput]:
    """Have the model's own forward end at a layer, and record what that gives.

    The list of layers is shortened meanwhile, so wrappers' hooks, checkpointing and exceptions meet
    nothing unusual: no forward is broken off.
    """
    address = find_layer(causal, pattern)
    output = LayerOutput()
    layers = address.layers
    below = layers[: address.index]
    recording = _record_output(layers[address.index], output)
    setattr(address.owner, address.list_name, torch.nn.ModuleList([*below, recording]))
    try:
        yield output
    finally:
        setattr(address.owner, address.list_name, layers)


def _record_output(layer: "Module", output: LayerOutput) -> "Module":
    """Return the layer as one that records what it gives. It is called as a whole, so that
    checkpointing stays inside."""

    class RecordingLayer(torch.nn.Module):
        def forward(self, *args: object, **kwargs: object) -> Any:
            result = layer(*args, **kwargs)
            output.num_calls += 1
            output.hidden = result[0] if isinstance(result, tuple | list) else result
            return result

        def __getattr__(self, name: str) -> Any:
            return getattr(layer, name)

    return RecordingLayer()


def drop_layers_above(causal: "PreTrainedModel", patterns: Iterable[str]) -> None:
    """Take away, for good, what no pass that ends at these layers runs: the layers above the
    highest, and the head."""
    addresses = [find_layer(causal, pattern) for pattern in patterns]
    highest = max(addresses, key=lambda address: address.index)
    setattr(highest.owner, highest.list_name, highest.layers[: highest.index + 1])
    causal.set_output_embeddings(torch.nn.Identity())


def keep_first_layers(causal: "PreTrainedModel", num_layers: int) -> None:
    """Take away, for good, all layers of a language model above the first `num_layers`; its final
    norm and its head stay.

    Raises:
        UserError: it has fewer layers, or is not one list of them.
    """
    config: Any = causal.config.get_text_config()
    lists = _find_layer_lists(causal)
    total = config.num_hidden_layers
    if [len(layers) for layers in lists.values()] != [total]:
        raise UserError(
            f"{type(causal).__name__}: its layers are not one list of {total}, and a model of the "
            "first of them cannot be made"
        )
    if num_layers > total:
        raise UserError(
            f"num_layers={num_layers}: this model has {total} layers, and a smaller one is made of "
            "the first of them; lower it"
        )
    (path,) = lists
    owner_path, _, list_name = path.rpartition(".")
    setattr(causal.get_submodule(owner_path), list_name, lists[path][:num_layers])
    config.num_hidden_layers = num_layers
    for name, value in list(vars(config).items()):
        # What the configuration says layer by layer.
        if name.startswith("layer_") and isinstance(value, list) and len(value) == total:
            setattr(config, name, value[:num_layers])


def train_only(model: "PreTrainedModel", patterns: Sequence[str], ends: Sequence[str] = ()) -> None:
    """Freeze every parameter whose name no regex matches.

    Args:
        ends: the layers at which all passes end, if all end at one; what none of them reaches is
            frozen too.
    """
    causal = unwrap_model(model)
    reached: set[Tensor] = set()
    for end in ends:
        reached |= _find_reached_parameters(causal, end)
    num_trained = 0
    for name, parameter in causal.named_parameters():
        is_chosen = any(re.fullmatch(pattern, name) for pattern in patterns)
        is_reached = not ends or parameter in reached
        parameter.requires_grad_(parameter.requires_grad and is_chosen and is_reached)
        num_trained += parameter.requires_grad
    if not num_trained:
        where = f" up to the layer {', '.join(ends)}" if ends else ""
        raise UserError(
            f"trainable_params_regex={quote_value(patterns)} leaves no parameter to train{where}"
        )


class _FirstLayerReached(Exception):
    """The pass has come to the first layer."""


def read_two_tokens(causal: "PreTrainedModel") -> None:
    """Run the layers of a model over two tokens.

    On the meta device nothing has a value, and some models look at one: there it is tried with a
    mask of either kind.
    """
    embeddings: Any = causal.get_input_embeddings()
    device = embeddings.weight.device
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    run = functools.partial(get_backbone(causal), ids, use_cache=False)
    if device.type != "meta":
        run()
        return
    try:
        run()
    except _FirstLayerReached:
        raise
    except Exception:  # a forward of others may fail in any way
        run(attention_mask=torch.ones(1, 1, 2, 2, dtype=torch.bool, device=device))


def _record_inputs(causal: "PreTrainedModel", layer: "Module") -> list[Any]:
    """Return all that a layer gets in a pass over two tokens, which ends there.

    Where none can be made on the meta device, the embedding's weight stands for it.
    """
    inputs: list[Any] = []

    def record(module: "Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.extend(torch.utils._pytree.tree_leaves((args, kwargs)))
        raise _FirstLayerReached

    weight: Any = causal.get_input_embeddings().weight
    expected_error = Exception if weight.is_meta else _FirstLayerReached
    hook = layer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        with torch.enable_grad(), contextlib.suppress(expected_error):
            read_two_tokens(causal)
    finally:
        hook.remove()
    return inputs or [weight.sum()]


def _find_reached_parameters(causal: "PreTrainedModel", end: str) -> "set[Tensor]":
    """Find the parameters that a gradient from this layer's output arrives at.

    They are those of the layers up to it and, read off the graph of a pass over two tokens, those
    that make what the first layer gets.
    """
    address = find_layer(causal, end)
    reached: set[Tensor] = set()
    for layer in address.layers[: address.index + 1]:
        reached.update(layer.parameters())

    queue = []
    for leaf in _record_inputs(causal, address.layers[0]):
        if isinstance(leaf, torch.Tensor):
            queue.append(leaf.grad_fn)
    seen = set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            reached.add(node.variable)
        queue += [next_node for next_node, _ in node.next_functions]
    return reached


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
    was_training = causal.training
    for pattern in dict.fromkeys(patterns):
        find_layer(causal, pattern)
        causal.eval()
        try:
            with torch.no_grad(), stop_at_layer(causal, pattern) as output:
                read_two_tokens(causal)
        except Exception as error:  # a forward of others may fail in any way
            if weight.is_meta or is_out_of_memory(error):
                continue
            reason = f"{type(error).__name__}: {get_first_line(error)}"
            raise _build_refusal(causal, pattern, reason) from error
        finally:
            causal.train(was_training)
        problem = _describe_problem(output, causal.config.get_text_config().hidden_size)
        if problem:
            raise _build_refusal(causal, pattern, problem)


def _describe_problem(output: LayerOutput, width: int) -> str | None:
    """Say what is wrong with a layer's output for two tokens; None where nothing is."""
    if output.num_calls > 1:
        return f"it is run {output.num_calls} times in a pass, and no run of it is the last"
    if output.hidden is None or output.hidden.ndim == 0:
        return f"it gives no states for 2 tokens, and one of {width} each is needed"
    shape = tuple(output.hidden.shape)
    if shape == (1, 2, width):
        return None
    sizes = " x ".join(map(str, shape))
    return f"it gives states of {sizes} for 2 tokens, and one of {width} each is needed"


def _build_refusal(causal: "PreTrainedModel", pattern: str, reason: str) -> UserError:
    return UserError(
        f"no pass of {type(causal).__name__} can end at the layer {pattern!r} ({reason}); methods "
        "that compare states at a layer (RMU, retain_loss_type=EMBED_DIFF) do not train this model"
    )
