"""A decoder's layers: what is above and below them, and which parameters a pass that ends at one
trains."""

import contextlib
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError, get_first_line, is_out_of_memory
from unteach.lazy import torch
from unteach.models.layer_names import (
    ALL_LAYERS,
    ModuleAddress,
    find_end,
    find_layer_lists,
    find_main_list,
    find_modules,
    name_in_every_family,
    remember_depth,
)
from unteach.models.module_outputs import ModuleOutputs, record_outputs
from unteach.wording import quote_value

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

FINAL_NORMS = (
    *("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm_f"),
    *("embedding_norm", "out_norm", "ln_out", "layer_norm", "layernorm", "output_layernorm"),
)
"""Names that families give to the norm between the last layer and the head."""
SHOWN_NAMES = 20
"""Names of parameters that a message lists."""


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


def list_layers(causal: "PreTrainedModel") -> "list[Module]":
    """List the layers that follow one another."""
    layers: list[Module] = []
    for module_list in find_layer_lists(causal).values():
        layers += module_list
    return layers


def drop_layers_above(causal: "PreTrainedModel", patterns: Iterable[str]) -> None:
    """Take away, for good, what no pass that ends at these layers runs: the layers above the
    highest, and the head."""
    highest = find_end(causal, patterns)
    remember_depth(causal)
    if highest is not None:
        setattr(highest.owner, highest.list_name, highest.layers[: highest.index + 1])
    causal.set_output_embeddings(torch.nn.Identity())


def keep_first_layers(causal: "PreTrainedModel", num_layers: int) -> None:
    """Take away, for good, all layers of a language model above the first `num_layers`; its final
    norm and its head stay.

    Raises:
        UserError: it has fewer layers, or is not one list of them.
    """
    config: Any = causal.config.get_text_config()
    lists = find_layer_lists(causal)
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


def find_final_norm(causal: "PreTrainedModel") -> "Module | None":
    """Find the norm between the last layer and the head; None where none is known by its name."""
    main_list = find_main_list(find_layer_lists(causal))
    if main_list is None:
        return None
    children = dict(causal.get_submodule(main_list.rpartition(".")[0]).named_children())
    return next((children[name] for name in FINAL_NORMS if name in children), None)


def train_only(model: "PreTrainedModel", patterns: Sequence[str], ends: Sequence[str] = ()) -> None:
    """Freeze every parameter whose name no regex matches.

    A parameter of a layer answers to the library's name and to the one of every family, such as
    `layers.7.mlp.experts.down_proj`.

    Args:
        ends: the layers at which all passes end, if all end at one; what none of them reaches is
            frozen too.
    """
    causal = unwrap_model(model)
    reached = _find_reached_parameters(causal, ends) if ends else set()
    main_list = find_main_list(find_layer_lists(causal))
    num_trained = 0
    for name, parameter in causal.named_parameters():
        names = {name, name_in_every_family(name, main_list)}
        is_chosen = any(re.fullmatch(*pair) for pair in itertools.product(patterns, names))
        is_reached = not ends or parameter in reached
        parameter.requires_grad_(parameter.requires_grad and is_chosen and is_reached)
        num_trained += parameter.requires_grad
    if not num_trained:
        where = f" up to the layer {', '.join(ends)}" if ends else ""
        raise UserError(
            f"trainable_params_regex={quote_value(patterns)} leaves no parameter to train{where}"
            f"{_list_parameter_names(causal, ends)}"
        )


def _list_parameter_names(causal: "PreTrainedModel", ends: Sequence[str]) -> str:
    """Say what the parameters of the last layer that is run are called."""
    main_list = find_main_list(find_layer_lists(causal))
    end = find_end(causal, ends) if ends else None
    if end is None and main_list is None:
        return ""
    prefix = end.name if end is not None else f"{main_list}.0"
    names = []
    for name, _ in causal.named_parameters():
        if name.startswith(f"{prefix}."):
            names.append(name)
    return f"; parameters are called {', '.join(names[:SHOWN_NAMES])}…"


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


def _find_reached_parameters(causal: "PreTrainedModel", ends: Iterable[str]) -> "set[Tensor]":
    """Find the parameters that a gradient from the highest of these layers' outputs arrives at.

    They are those of the layers up to it and, read off the graph of a pass over two tokens, those
    that make what the first layer gets. From the last hidden states it is all but the head.
    """
    end = find_end(causal, ends)
    if end is None:
        return set(get_backbone(causal).parameters())
    reached: set[Tensor] = set()
    for layer in end.layers[: end.index + 1]:
        reached.update(layer.parameters())

    queue = []
    for leaf in _record_inputs(causal, end.layers[0]):
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
    """Raise UserError where a pass that ends at one of these layers, or at the highest of several
    modules that a regex means, does not give one state for each token.

    On the meta device a pass may fail because nothing there has a value: what it shows is believed,
    and no more. One with FlashAttention is not tried on the CPU.
    """
    weight = next(causal.parameters())
    kernel = str(getattr(causal.config.get_text_config(), "_attn_implementation", ""))
    if "flash" in kernel and weight.device.type == "cpu":
        return
    was_training = causal.training
    for pattern in dict.fromkeys(patterns):
        addresses = find_modules(causal, pattern)
        end = find_end(causal, [pattern])
        if end is None:
            continue
        causal.eval()
        try:
            with torch.no_grad(), record_outputs(causal, addresses, end) as outputs:
                read_two_tokens(causal)
        except Exception as error:  # a forward of others may fail in any way
            if weight.is_meta or is_out_of_memory(error):
                continue
            reason = f"{type(error).__name__}: {get_first_line(error)}"
            raise _build_refusal(causal, addresses, pattern, reason) from error
        finally:
            causal.train(was_training)
        width = causal.config.get_text_config().hidden_size
        for address in addresses:
            problem = _describe_problem(outputs, address, width)
            if problem:
                raise _build_refusal(causal, [address], pattern, problem)


def _describe_problem(outputs: ModuleOutputs, address: ModuleAddress, width: int) -> str | None:
    """Say what is wrong with a module's output for two tokens; None where nothing is.

    Only a layer's own states must be as wide as the model.
    """
    num_calls = outputs.num_calls.get(address.name, 0)
    if num_calls > 1:
        return f"it is run {num_calls} times in a pass, and no run of it is the last"
    states = outputs.states.get(address.name)
    if not isinstance(states, torch.Tensor) or states.ndim == 0:
        return f"it gives no states for 2 tokens, and one of {width} each is needed"
    shape = tuple(states.shape)
    if shape[:2] == (1, 2) and len(shape) == 3 and (address.inner or shape[2] == width):
        return None
    sizes = " x ".join(map(str, shape))
    return f"it gives states of {sizes} for 2 tokens, and one of {width} each is needed"


def _build_refusal(
    causal: "PreTrainedModel", addresses: Sequence[ModuleAddress], pattern: str, reason: str
) -> UserError:
    if addresses[0].inner:
        return UserError(
            f"no states are taken at {addresses[0].name} of {type(causal).__name__} ({reason}); "
            "methods that compare them do not train this model"
        )
    return UserError(
        f"no pass of {type(causal).__name__} can end at the layer {pattern!r} ({reason}); methods "
        "that compare states at a layer (RMU, retain_loss_type=EMBED_DIFF) do not train this model"
    )


def refuse_no_lens(causal: "PreTrainedModel") -> None:
    """Raise UserError where states of a layer cannot be read as the head reads the last ones.

    The last layer's output through the final norm must be what the head gets. On the meta device
    only the norm's name is looked for.
    """
    norm = find_final_norm(causal)
    weight = next(causal.parameters())
    layers = find_modules(causal, ALL_LAYERS) if norm is not None else []
    is_read = norm is not None
    if norm is not None and not weight.is_meta:
        was_training = causal.training
        causal.eval()
        with torch.no_grad(), record_outputs(causal, layers[-1:], None) as outputs:
            last = get_backbone(causal)(
                torch.zeros(1, 2, dtype=torch.long, device=weight.device), use_cache=False
            ).last_hidden_state
            normed = norm(outputs.states[layers[-1].name])
        causal.train(was_training)
        is_read = normed.shape == last.shape and torch.allclose(normed, last, atol=1e-4, rtol=1e-2)
    if not is_read:
        raise UserError(
            f"{type(causal).__name__}: between its last layer and its head is not one norm alone, "
            "so that the states of other layers cannot be read as words; methods that do so "
            "(RepNoise) do not train this model"
        )
