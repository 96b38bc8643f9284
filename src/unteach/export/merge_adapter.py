"""Merge an adapter into its base: one plain model that says what the two say together.

PEFT adds an adapter onto the weights under it, in place. Where two layers hold one weight, that is
right only if they are to hold two afterwards: embeddings and head are untied first, blocks that
several layers share are refused.
"""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.lazy import peft, torch
from unteach.models.adapters import TRAINED

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

TIED = "tie_word_embeddings"
MAX_SHOWN = 2


def merge(model: "PeftModel") -> "PreTrainedModel":
    """Add an adapter to the weights that it is on, in their own precision; return the model without
    it.

    Raises:
        UserError: layers that share weights have adapters, so that no plain model says the same.
    """
    causal: Any = model.get_base_model()
    embeddings = _unwrap_layer(causal.get_input_embeddings())
    head = _unwrap_layer(causal.get_output_embeddings())
    is_tied = hasattr(embeddings, "weight") and embeddings.weight is getattr(head, "weight", None)
    if is_tied:
        # The head gets a tensor of its own: what is added to one of the two must not reach the
        # other.
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    _refuse_shared(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "(Model with `tie_word_embeddings|Input and output embeddings)"
            )
            tuner: Any = model.base_model
            plain: PreTrainedModel = tuner.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"the adapter cannot be merged: {error}") from None
    if is_tied:
        _tie_if_equal(plain)
    return plain


def _tie_if_equal(plain: "PreTrainedModel") -> None:
    """Give head and embeddings one tensor again; or let the configuration say that they are two
    now."""
    embeddings: Any = plain.get_input_embeddings()
    head: Any = plain.get_output_embeddings()
    is_same = torch.equal(embeddings.weight, head.weight)
    if is_same:
        head.weight = embeddings.weight
    for config in (plain.config, plain.config.get_text_config()):
        setattr(config, TIED, is_same)


def _unwrap_layer(layer: "nn.Module") -> Any:
    """Return the layer of the base inside all that an adapter wrapped it in."""
    while True:
        inner: Any = getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)
        if inner is None:
            return layer
        layer = inner


def _refuse_shared(model: "nn.Module") -> None:
    """Raise UserError where an adapter is on a weight that another layer holds too, as in zamba's
    shared blocks."""
    holders: dict[int, dict[int, str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), {})[id(module)] = name
    adapted = {id(layer) for layer in _adapted_layers(model)}
    for modules in holders.values():
        if len(modules) > 1 and adapted & set(modules):
            names = [_name_in_base(name) for name in modules.values()]
            some = ", ".join(names[:MAX_SHOWN])
            more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
            raise UserError(
                "the adapter cannot be merged: several layers of this model share one block of "
                f"weights, and each has an adapter of its own ({some}{more}), "
                "so that no one block says the same. as=adapter keeps them apart; or train an "
                "adapter on other target_modules"
            )


def _adapted_layers(model: "nn.Module") -> Iterator["nn.Module"]:
    for module in model.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            yield module.get_base_layer()


def _name_in_base(name: str) -> str:
    bare = name.removeprefix("base_model.model.")
    return bare.replace(".base_layer", "").replace(f".{TRAINED}", "")
