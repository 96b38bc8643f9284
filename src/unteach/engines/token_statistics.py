"""What is kept of the logits at a position: log p, argmax hit, and the log-probs' mean and
variance."""

import math
from typing import TYPE_CHECKING

from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_ELEMENTS = 1 << 18
"""Logits that a CPU looks at in one go: what is made of them stays in its cache."""


def compute_token_statistics(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Compute, at each position, what a Score keeps: [n, V], [n] -> [n, 4].

    The columns are log p of the label, whether it is the argmax, and mean and variance of log p
    over the vocabulary under p.
    """
    if logits.device.type != "cpu":
        return _compute_block(logits, labels)
    rows_per_block = max(1, BLOCK_ELEMENTS // logits.shape[-1])
    logits_blocks = logits.split(rows_per_block)
    labels_blocks = labels.split(rows_per_block)
    statistics = []
    for logits_block, labels_block in zip(logits_blocks, labels_blocks, strict=True):
        statistics.append(_compute_block(logits_block, labels_block))
    return torch.cat(statistics)


def _compute_block(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Compute the statistics of as many positions as stay in a cache."""
    highest = logits.amax(-1)
    p = logits.softmax(-1)
    # A log-prob is that of the likeliest token and how far the logit lies below the highest.
    highest_logprob = p.amax(-1).log()
    below = logits - highest.unsqueeze(-1)
    label_index = labels.unsqueeze(-1)
    label_logprob = below.gather(-1, label_index).squeeze(-1) + highest_logprob
    mean_below = torch.linalg.vecdot(p, below)
    if bool(mean_below.isnan().any()):
        # A token that is never said (p = 0, log p = -inf) adds nothing to a mean under p.
        below = below.masked_fill(below == -math.inf, 0.0)
        mean_below = torch.linalg.vecdot(p, below)
    # The variance is not E[x²] - E[x]², which cancels.
    below -= mean_below.unsqueeze(-1)
    variance = torch.linalg.vecdot(below * p, below)
    mean_logprob = mean_below + highest_logprob
    hits = _find_hits(logits, labels, highest, p)
    columns = [label_logprob, hits, mean_logprob, variance]
    return torch.stack(columns, dim=-1)


def _find_hits(
    logits: "Tensor",
    labels: "Tensor",
    highest: "Tensor",
    p: "Tensor",
) -> "Tensor":
    """Say where the label is the argmax, as 0 or 1.

    An argmax costs as much as all else here, and is computed only where another entry may be as
    high as the label's.

    Args:
        logits: [n, V].
        labels: [n].
        highest: the highest logit [n].
        p: softmax of the logits [n, V], which is overwritten.
    """
    label_index = labels.unsqueeze(-1)
    label_logits = logits.gather(-1, label_index).squeeze(-1)
    is_hit = label_logits == highest
    label_p = p.gather(-1, label_index).squeeze(-1)
    highest_other_p = p.scatter_(-1, label_index, -1.0).amax(-1)

    # Of several tokens that are as high, the argmax is one.
    is_tied = (highest_other_p >= label_p) & is_hit
    tied = is_tied.nonzero().squeeze(-1)
    is_hit[tied] = logits[tied].argmax(-1) == labels[tied]
    return is_hit.to(logits.dtype)
