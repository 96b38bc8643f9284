"""ULD: take away what a small assistant, taught the forget rows, would say."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def subtract_assistant(
    base: "Tensor", assistant: "Tensor", weight: float = -0.8, tau: float = 1e-2
) -> "Tensor":
    """log p_b + weight log p_a, renormalised over the tokens that `keep_likely` keeps; -inf
    elsewhere: logits [..., V], [..., V] -> log-probs [..., V].

    Paper: arXiv:2406.08607. Cost: 1 forward of each a token. With weight 0 it is the base on the
    tokens kept; a constant added to either's logits changes nothing. Scoring and generating are the
    same. The published code leaves what it filters unchanged when it scores, and may emit it when
    it generates greedily.

    Evidence: verified against the authors' code, but for that. License: MIT.
    """
    log_p = base.log_softmax(-1)
    combined = log_p + weight * assistant.log_softmax(-1)
    kept = keep_likely(log_p, tau)
    return combined.masked_fill(~kept, -math.inf).log_softmax(-1)


def keep_likely(log_p: "Tensor", tau: float) -> "Tensor":
    """Which tokens have log p >= min(the k-th largest, the largest + log tau), k = int(tau V), at
    least 1: [..., V] -> bool [..., V]. With tau 0 all are kept."""
    if tau == 0:
        return log_p.isfinite()
    k = max(1, int(tau * log_p.shape[-1]))
    largest = log_p.topk(k, dim=-1).values
    threshold = largest[..., -1:].minimum(largest[..., :1] + math.log(tau))
    return log_p >= threshold
