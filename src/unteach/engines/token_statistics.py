"""What is kept of the logits at a position: log p, argmax hit, and the log-probs' mean and
variance."""

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
    blocks = zip(logits.split(rows_per_block), labels.split(rows_per_block), strict=True)
    return torch.cat([_compute_block(*block) for block in blocks])


def _compute_block(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Compute the statistics of as many positions as stay in a cache."""
    highest = logits.amax(-1)
    p = logits.softmax(-1)
    # A log-prob is that of the likeliest token and how far the logit lies below the highest.
    highest_logprob = p.amax(-1).log()
    below = logits - highest.unsqueeze(-1)
    picked = below.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    mean = torch.linalg.vecdot(p, below)
    # The variance is not E[x²] - E[x]², which cancels.
    below -= mean.unsqueeze(-1)
    variance = torch.linalg.vecdot(below * p, below)
    hits = _find_hits(logits, labels, highest, p)
    return torch.stack([picked + highest_logprob, hits, mean + highest_logprob, variance], dim=-1)


def _find_hits(logits: "Tensor", labels: "Tensor", highest: "Tensor", p: "Tensor") -> "Tensor":
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
    hits = (logits.gather(-1, label_index).squeeze(-1) == highest).to(logits.dtype)
    label_p = p.gather(-1, label_index).squeeze(-1)
    highest_other_p = p.scatter_(-1, label_index, -1.0).amax(-1)
    tied = ((highest_other_p >= label_p) & (hits > 0)).nonzero().squeeze(-1)
    hits[tied] = (logits[tied].argmax(-1) == labels[tied]).to(logits.dtype)
    return hits
