"""Unilogit: distil from the model's own logits, with the true token's lowered until it is as likely
as chance."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from unteach.methods.base import StreamReference, Term, Unlearn
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "Unilogit",
    paper="arXiv:2505.06027",
    cost="1 forget forward",
    reference="none",
    evidence="from the paper (its abstract)",
    license="no public code",
)
@dataclass
class Unilogit(Unlearn):
    """L_forget = KL(p || q), the mean over answer tokens; q is p, detached, with p_t = 1/V for the
    true token and the others scaled alike.

    All other tokens keep their proportions in q, so it is KL(Bernoulli(p_t) || Bernoulli(1/V)),
    value and gradient: no sum over the vocabulary is left.
    """

    alpha: float = 0.0
    divergence: Literal["reverse", "forward"] = field(
        default="reverse", metadata={"help": "reverse: KL(p || q); forward: KL(q || p)"}
    )

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        return OutputSpec(fn=reverse_kl if self.divergence == "reverse" else forward_kl)

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        return Term("forget", policy.value, "forget.tokens")


def log_p_and_rest(logits: "Tensor", labels: "Tensor") -> "tuple[Tensor, Tensor]":
    """log p(label) and log(1 - p(label)), exact where p is near 1: [n, V], [n] -> [n], [n]."""
    label = labels.unsqueeze(-1)
    total = logits.logsumexp(-1)
    others = logits.scatter(-1, label, -math.inf).logsumexp(-1)
    return logits.gather(-1, label).squeeze(-1) - total, others - total


def reverse_kl(logits: "Tensor", labels: "Tensor") -> "Tensor":
    log_p, log_rest = log_p_and_rest(logits, labels)
    log_q = -math.log(logits.shape[-1])
    log_rest_of_q = math.log1p(-1 / logits.shape[-1])
    return log_p.exp() * (log_p - log_q) + log_rest.exp() * (log_rest - log_rest_of_q)


def forward_kl(logits: "Tensor", labels: "Tensor") -> "Tensor":
    log_p, log_rest = log_p_and_rest(logits, labels)
    q = 1 / logits.shape[-1]
    return q * (math.log(q) - log_p) + (1 - q) * (math.log1p(-q) - log_rest)
