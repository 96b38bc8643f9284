"""Compute the loss of one micro-batch under the one rule of normalisation.

A term is summed over its units and divided by their count in the whole optimiser step: every
micro-batch, every process. So the gradient of a step does not depend on how its rows were dealt.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unteach.data.batches import Batch, select_streams
from unteach.data.streams import Stream
from unteach.data.template import Template
from unteach.lazy import torch
from unteach.methods.base import Context, Method, Side, Term, TwoSided
from unteach.models.forward import TokenOutputs
from unteach.models.layer_names import find_layer
from unteach.models.layers import refuse_no_lens, refuse_no_states, train_only, unwrap_model
from unteach.models.reference import Reference

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


def setup_method(
    model: "PreTrainedModel",
    method: Method,
    seed: int,
    streams: dict[str, Stream],
    template: Template | None = None,
) -> None:
    """Prepare a method and freeze what it does not train.

    Call it before anything wraps the model: DistributedDataParallel waits for the gradient of
    every parameter that is not frozen.
    """
    inner_model = unwrap_model(model)
    config = inner_model.config
    labels = tuple(config.id2label[k] for k in sorted(config.id2label or {}))
    width = config.get_text_config().hidden_size
    method.prepare(Context(seed, width, labels, streams, template))

    ends_by_stream = method.layers()
    ends: list[str] = []
    for stream_ends in ends_by_stream.values():
        if isinstance(stream_ends, str):
            find_layer(inner_model, stream_ends)
            stream_ends = (stream_ends,)
        ends += stream_ends
    refuse_no_states(inner_model, [*ends, *method.modules(), *method.lens()])
    if method.lens():
        refuse_no_lens(inner_model)
    # Layers above an early exit get no gradient, unless some stream runs up to the head.
    last_layers: Sequence[str] = ()
    if set(ends_by_stream) == set(method.streams()):
        last_layers = ends
    train_only(model, method.trainable(), last_layers)


def count_step_units(method: Method, batches: Iterable[Batch]) -> "dict[str, Tensor]":
    """Count the units of this process's micro-batches of a step, by name."""
    totals: dict[str, Tensor] = {}
    for batch in batches:
        for name, count in method.counts(batch).items():
            totals[name] = totals.get(name, 0) + count
    return totals


def prepass_step(
    model: "Module",
    method: Method,
    batches: Iterable[Batch],
    reference: Reference,
) -> "dict[str, Tensor]":
    """Sum what a method must know of a whole step before any of its losses.

    Returns:
        The sums over this process's micro-batches by name; empty for most methods, which make no
        such pass.
    """
    totals: dict[str, Tensor] = {}
    if not method.has_prepass():
        return totals
    with torch.no_grad():
        for batch in batches:
            compared = reference.compute(batch)
            policy = model(batch=batch, want=method.prepass_specs(compared))
            sums = method.prepass(policy, compared)
            for name, value in sums.items():
                totals[name] = totals.get(name, 0) + value.float()
    return totals


def forward_policy_and_reference(
    model: "Module",
    method: Method,
    batch: Batch,
    reference: Reference,
    counts: "dict[str, Tensor]",
    side: Side | None = None,
) -> tuple[dict[str, TokenOutputs], dict[str, Any]]:
    """Compute the policy's and the reference's outputs for one micro-batch, by stream.

    Args:
        counts: the units of the whole step, with the sums of `prepass_step`; the method finds them
            in the reference's outputs under "step".
        side: only what its terms need, of a batch of its streams alone; None: all.
    """
    # The reference first: what a method asks of the policy may depend on its outputs.
    reference_outputs = {**reference.compute(batch), "step": counts}
    if side is None:
        wants = method.wants(reference_outputs)
    else:
        assert isinstance(method, TwoSided), "the configuration is refused otherwise"
        of_side = method.forget_wants if side == "forget" else method.retain_wants
        wants = of_side(reference_outputs)
    policy_outputs = model(batch=batch, want=wants)
    return policy_outputs, reference_outputs


def build_terms(
    method: Method,
    policy: dict[str, TokenOutputs],
    reference: dict[str, Any],
    side: Side | None = None,
) -> list[Term]:
    """Build the terms of one micro-batch, all of them or those of one side."""
    if side is None:
        return method.terms(policy, reference)
    assert isinstance(method, TwoSided), "the configuration is refused otherwise"
    if side == "forget":
        return method.forget_terms(policy, reference)
    return method.retain_terms(policy, reference)


def select_side(method: Method, batch: Batch, side: Side) -> Batch:
    """Select the rows of a batch that the terms of one side need."""
    assert isinstance(method, TwoSided), "the configuration is refused otherwise"
    streams = method.forget_streams() if side == "forget" else method.retain_streams()
    return select_streams(batch, streams)


def normalized_sum(term: Term, counts: "dict[str, Tensor]") -> "Tensor":
    """Sum a term and divide it by the number of its units, or their weights, in the whole step.

    Returns:
        A scalar: this micro-batch's share of the term.
    """
    count = counts[term.divisor]
    # A step may hold none of a unit (filler rows alone): its term is then 0, not NaN.
    return term.value.float().sum() / count.masked_fill(count == 0, 1)


def micro_batch_loss(
    model: "Module",
    method: Method,
    batch: Batch,
    reference: Reference,
    counts: "dict[str, Tensor]",
    side: Side | None = None,
) -> "tuple[Tensor, dict[str, Tensor]]":
    """Compute this micro-batch's share of the step's loss, and of each term.

    Sums over all micro-batches and processes give the loss and the terms of the step.

    Args:
        side: of the loss, only its forget terms or its retain terms, on a batch that has the
            streams of that side alone (`select_side`); None: all.

    Returns:
        The share of the loss, and the shares of the terms by the names they are logged under,
        before their factors.
    """
    policy_outputs, reference_outputs = forward_policy_and_reference(
        model, method, batch, reference, counts, side
    )
    shares = {}
    loss_parts = []
    for term in build_terms(method, policy_outputs, reference_outputs, side):
        share = normalized_sum(term, counts)
        shares[term.log_name] = share.detach()
        if term.factor is not None:
            loss_parts.append(term.factor * share)
    return sum(loss_parts[1:], loss_parts[0]), shares
