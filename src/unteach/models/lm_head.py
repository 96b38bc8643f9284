"""From last hidden states to logits, as the model's own forward does it."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unteach.lazy import torch, transformers
from unteach.models.capabilities import get_capabilities
from unteach.models.decoding import combine_logits, get_decoding, get_second
from unteach.models.layers import get_backbone, unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

    from unteach.models.adapters import BasePolicy


def head_logits(model: "PreTrainedModel | BasePolicy", hidden: "Tensor") -> "Tensor":
    """Compute the logits that the model's own forward would give for these hidden states.

    [n, d] -> [n, V], or [n, C] of a classifier. Of a model with a decoding the hidden states are
    those of both models, side by side.
    """
    causal = unwrap_model(model)
    attached = get_decoding(causal)
    if attached is not None:
        base = _logits_of_one(causal, hidden[..., : attached.width])
        second = head_logits(get_second(causal), hidden[..., attached.width :])
        return combine_logits(attached, base, second)
    return _logits_of_one(causal, hidden)


def _logits_of_one(causal: Any, hidden: "Tensor") -> "Tensor":
    """Compute the logits of one model alone."""
    if hasattr(causal, "score"):
        scores: Tensor = causal.score(hidden)
        return scores
    if get_capabilities(causal).head == "own":
        return own_logits(causal, hidden)
    return known_logits(causal, hidden)


def known_logits(causal: "PreTrainedModel", hidden: "Tensor") -> "Tensor":
    """Apply the output embeddings, and what the configuration says of scaling and capping: right
    for most architectures."""
    config = causal.config
    logits: Tensor = causal.get_output_embeddings()(hidden)
    scale = getattr(config, "logit_scale", None)
    if scale is not None:
        logits = logits * scale
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        logits = logits / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def own_logits(causal: "PreTrainedModel", hidden: "Tensor") -> "Tensor":
    """Run the model's own forward with layers that give these hidden states, for whatever it does
    after them."""
    # The ids are read by no layer; they only say how many positions there are.
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    attached = get_decoding(causal)
    forward: Any = attached.plain_forward if attached else causal
    with _backbone_returning(get_backbone(causal), hidden[None]):
        logits: Tensor = forward(input_ids=ids, use_cache=False).logits
    return logits[0]


@contextlib.contextmanager
def _backbone_returning(backbone: "Module", hidden: "Tensor") -> Iterator[None]:
    """Have the layers of a model return these hidden states meanwhile, whatever they get."""

    class FixedOutput(transformers.modeling_outputs.BaseModelOutputWithPast):
        """What else a model's layers give, such as a state or the router's logits, is not there."""

        def __getattr__(self, name: str) -> None:
            return None

    def return_hidden(*args: object, **kwargs: object) -> FixedOutput:
        return FixedOutput(last_hidden_state=hidden)

    before = vars(backbone).get("forward")
    backbone.forward = return_hidden
    try:
        yield
    finally:
        if before is None:
            del backbone.forward
        else:
            backbone.forward = before
