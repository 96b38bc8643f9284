"""The loss of one micro-batch under the one rule of normalisation.

A term is summed over its units and divided by their count in the whole optimiser step: every micro-batch, every
process. So the gradient of a step does not depend on how its rows were dealt.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from unteach.methods.base import Method
from unteach.models.reference import Reference

if TYPE_CHECKING:
    from torch import Tensor


def count_step(method: Method, batches: Iterable[dict[str, Any]]) -> "dict[str, Tensor]":
    """The units of this process's share of a step, by name."""
    totals: dict[str, Tensor] = {}
    for batch in batches:
        for name, count in method.counts(batch).items():
            totals[name] = totals.get(name, 0) + count
    return totals


def micro_batch_loss(
    model: Any, method: Method, batch: dict[str, Any], reference: Reference, counts: "dict[str, Tensor]"
) -> "tuple[Tensor, dict[str, Tensor]]":
    """This micro-batch's share of the step's loss, and of each term by name (before its factor).

    Sums over all micro-batches and processes give the loss and the terms of the step.
    """
    compared = reference.on(batch)
    policy = model(batch=batch, want=method.wants(compared))
    shares, parts = {}, []
    for term in method.terms(policy, compared):
        share = term.value.float().sum() / counts[term.divisor].clamp(min=1)
        shares[term.name] = share.detach()
        parts.append(term.factor * share)
    return sum(parts[1:], parts[0]), shares
