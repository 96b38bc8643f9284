"""The Jensen-Shannon divergence of a model's next token: to another distribution, and to one
token."""

import math
from typing import TYPE_CHECKING

from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def jensen_shannon(log_p: "Tensor", log_q: "Tensor") -> "Tensor":
    """JS(p, q) = (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2: [n, V], [n, V] -> [n]."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    from_p = (log_p.exp() * (log_p - log_m)).sum(-1)
    from_q = (log_q.exp() * (log_q - log_m)).sum(-1)
    return (from_p + from_q) / 2


def jensen_shannon_to_token(log_p: "Tensor") -> "Tensor":
    """JS(p, onehot(c)) = log 2 + (P log P - (1 + P) log(1 + P)) / 2, of log P = log p(c): [n] ->
    [n].

    At most log 2, where P is 0; no sum over the vocabulary is needed.
    """
    p = log_p.exp()
    return math.log(2) + (p * log_p - (1 + p) * p.log1p()) / 2


def compute_divergence_slope(log_p: "Tensor", log_q: "Tensor") -> "Tensor":
    """|dJS(p, q)/dz|, z the logits of p: |p (c - p.c)|, c = (log p - log m) / 2: [n, V] -> [n]."""
    p = log_p.exp()
    c = (log_p - torch.logaddexp(log_p, log_q) + math.log(2)) / 2
    return (p * (c - (p * c).sum(-1, keepdim=True))).norm(dim=-1)


def slope_to_token(log_p: "Tensor", label: "Tensor") -> "Tensor":
    """|dJS(p, onehot(c))/dz| = (P / 2) log((1 + P) / P) sqrt(sum p^2 - 2 P + 1): [n, V], [n] ->
    [n]."""
    log_p_of_label = log_p.gather(-1, label.unsqueeze(-1)).squeeze(-1)
    p = log_p_of_label.exp()
    distance = log_p.exp().square().sum(-1) - 2 * p + 1
    # At p = onehot the distance is 0, and rounding may leave it just below.
    return p / 2 * (p.log1p() - log_p_of_label) * distance.clamp(min=0).sqrt()
