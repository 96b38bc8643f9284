"""The loss of one micro-batch under the one rule of normalisation.

A term is summed over its units and divided by their count in the whole optimiser step: every
micro-batch, every process. So the gradient of a step does not depend on how its rows were dealt.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from unteach.data.template import Template
from unteach.lazy import torch
from unteach.methods.base import Context, Method, Term
from unteach.models.forward import TokenOutputs
from unteach.models.layers import refuse_no_states, train_only, unwrap_model
from unteach.models.reference import Reference

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def setup_method(
    model: "PreTrainedModel",
    method: Method,
    seed: int,
    streams: dict[str, Any],
    template: Template | None = None,
) -> None:
    """Prepares a method and freezes what it does not train, before anything wraps the model:
    DistributedDataParallel waits for the gradient of every parameter that is not frozen."""
    config = unwrap_model(model).config
    labels = tuple(config.id2label[k] for k in sorted(config.id2label or {}))
    method.prepare(Context(seed, config.get_text_config().hidden_size, labels, streams, template))
    ends = method.layers()
    refuse_no_states(unwrap_model(model), ends.values())
    train_only(
        model, method.trainable(), list(ends.values()) if set(ends) == set(method.streams()) else ()
    )


def count_step(method: Method, batches: Iterable[dict[str, Any]]) -> "dict[str, Tensor]":
    """The units of this process's share of a step, by name."""
    totals: dict[str, Tensor] = {}
    for batch in batches:
        for name, count in method.counts(batch).items():
            totals[name] = totals.get(name, 0) + count
    return totals


def prepass_step(
    model: "PreTrainedModel",
    method: Method,
    batches: Iterable[dict[str, Any]],
    reference: Reference,
) -> "dict[str, Tensor]":
    """What the method must know of a whole step before its losses: the sums of this process's
    share, by name."""
    totals: dict[str, Tensor] = {}
    if not method.has_prepass():
        return totals
    with torch.no_grad():
        for batch in batches:
            compared = reference.on(batch)
            outputs = model(batch=batch, want=method.prepass_specs(compared))
            for name, value in method.prepass(outputs, compared).items():
                totals[name] = totals.get(name, 0) + value.float()
    return totals


def forward_policy_and_reference(
    model: "PreTrainedModel",
    method: Method,
    batch: dict[str, Any],
    reference: Reference,
    counts: "dict[str, Tensor]",
) -> tuple[dict[str, TokenOutputs], dict[str, Any]]:
    """What the policy says of one micro-batch, and the reference; counts: of the whole step, with
    what was surveyed."""
    compared = {**reference.on(batch), "step": counts}
    return model(batch=batch, want=method.wants(compared)), compared


def normalized_sum(term: Term, counts: "dict[str, Tensor]") -> "Tensor":
    """A term's share of the step: its sum over the count that it is divided by, which may be a sum
    of weights."""
    count = counts[term.divisor]
    return term.value.float().sum() / count.masked_fill(count == 0, 1)


def micro_batch_loss(
    model: "PreTrainedModel",
    method: Method,
    batch: dict[str, Any],
    reference: Reference,
    counts: "dict[str, Tensor]",
) -> "tuple[Tensor, dict[str, Tensor]]":
    """This micro-batch's share of the step's loss, and of each term by the name it is logged under
    (before its factor).

    Sums over all micro-batches and processes give the loss and the terms of the step.
    """
    shares, parts = {}, []
    for term in method.terms(
        *forward_policy_and_reference(model, method, batch, reference, counts)
    ):
        share = normalized_sum(term, counts)
        shares[term.logged] = share.detach()
        if term.factor is not None:
            parts.append(term.factor * share)
    return sum(parts[1:], parts[0]), shares
