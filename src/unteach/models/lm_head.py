"""From last hidden states to logits, as the model's own forward does it."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unteach.lazy import torch, transformers
from unteach.models.capabilities import get_capabilities
from unteach.models.layers import get_backbone, unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def head_logits(model: "PreTrainedModel", hidden: "Tensor") -> "Tensor":
    """The logits that the model's own forward would give for these hidden states: [n, d] -> [n, V]
    or [n, classes]."""
    causal = unwrap_model(model)
    if hasattr(causal, "score"):
        scores: Tensor = causal.score(hidden)
        return scores
    if get_capabilities(model).head == "own":
        return own_logits(causal, hidden)
    return known_logits(causal, hidden)


def known_logits(causal: "PreTrainedModel", hidden: "Tensor") -> "Tensor":
    """The output embeddings, and what the configuration says of scaling and capping: right for most
    architectures."""
    config = causal.config
    logits: Tensor = causal.get_output_embeddings()(hidden)
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def own_logits(causal: "PreTrainedModel", hidden: "Tensor") -> "Tensor":
    """The rest of the model's own forward, whose layers give these hidden states: whatever it does
    after them."""
    backbone = get_backbone(causal)
    # The ids are read by no layer; they only say how many positions there are.
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    with _giving(backbone, hidden[None]):
        logits: Tensor = causal(input_ids=ids, use_cache=False).logits
    return logits[0]


@contextlib.contextmanager
def _giving(backbone: Any, hidden: "Tensor") -> Iterator[None]:
    """Within it, the layers of a model give these hidden states for whatever they are asked."""

    class Given(transformers.modeling_outputs.BaseModelOutputWithPast):
        """What else a model's layers give, such as a state or the router's logits, is not there."""

        def __getattr__(self, name: str) -> None:
            return None

    output = Given(last_hidden_state=hidden)
    before = vars(backbone).get("forward")
    backbone.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        if before is None:
            del backbone.forward
        else:
            backbone.forward = before
