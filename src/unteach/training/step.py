"""The loss of one micro-batch under the one rule of normalisation.

A term is summed over its units and divided by their count in the whole optimiser step: every micro-batch, every
process. So the gradient of a step does not depend on how its rows were dealt.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from unteach.methods.base import Context, Method
from unteach.models.layers import causal_of, train_only
from unteach.models.reference import Reference

if TYPE_CHECKING:
    from torch import Tensor


def make_ready(model: Any, method: Method, seed: int) -> None:
    """Prepares a method and freezes what it does not train, before anything wraps the model: DistributedDataParallel
    waits for the gradient of every parameter that is not frozen."""
    method.prepare(Context(seed, causal_of(model).config.get_text_config().hidden_size))
    ends = method.layers()
    train_only(model, method.trainable(), list(ends.values()) if set(ends) == set(method.streams()) else ())


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
