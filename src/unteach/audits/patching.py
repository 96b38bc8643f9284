"""Hidden states of one model inside another: what the second says when a layer of it gives what the
first computes there.

Only at the positions that predict an answer's tokens are states put in the place of the model's
own; elsewhere it goes on with its own. Two models are in memory, whichever two are compared.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Union

import numpy as np

from unteach.audits.answer_tokens import (
    compute_answer_means,
    refuse_empty_answers,
    refuse_not_finite,
)
from unteach.engines.base import Pair, ProgressCallback
from unteach.engines.batching import Batch, list_items
from unteach.engines.hf import HFEngine
from unteach.engines.prompt_sharing import count_tokens
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.models.capabilities import get_capabilities
from unteach.models.decoding import get_decoding
from unteach.models.forward import OutputSpec
from unteach.models.layer_names import ALL_LAYERS, LAST, LayerAddress, count_layers, find_modules
from unteach.models.layers import refuse_no_states, unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PASS = "patched"
"""What the pass is called in the store and in its budget."""
LayerOutput = Union["Tensor", tuple["Tensor", ...]]
"""What a layer gives: hidden states, of several things as the first."""
Place = Literal["layer", "layer_normed_last", "last_layer"]
"""Where a layer's states go. `layer`: into the same layer; `layer_normed_last`: too, but those of
the last layer are taken behind the final norm (a published quirk); `last_layer`: into the last
layer, so that the norm and the head of the model that gets them read them."""


@dataclass(frozen=True)
class PatchedLogprobs:
    """Mean log-probs of answers' tokens, in nats.

    Attributes:
        own: what the model says by itself: [answers].
        patched: what it says with the states of each layer of the other: [answers, layers].
    """

    own: np.ndarray
    patched: np.ndarray

    @property
    def drops(self) -> np.ndarray:
        """By how much the other's states make the answers less likely: [answers, layers]."""
        return self.own[:, None] - self.patched


def compute_patched_logprobs(
    engine: HFEngine,
    source: HFEngine,
    pairs: Sequence[Pair],
    place: Place = "layer",
    source_name: str = "",
    on_progress: ProgressCallback = None,
) -> PatchedLogprobs:
    """Compute how likely each answer is with the hidden states of another model, layer by layer.

    Cost for each batch: one pass of `source`, and one more of the model than it has layers. The
    batch size changes nothing but rounding, and a model's own states leave it exactly as it is.

    Args:
        engine: the model that gets states.
        source: the model whose states they are; it may be the same.
        pairs: prompts and answers. Without a prompt, an answer's first token is not scored.
        source_name: tells the weights of `source` from others, as LoadedModel.identity does: what
            the store of `engine` keeps is found by it. Needed where there is a store.

    Raises:
        UserError: the two differ in depth, width or tokens, no state of each token can be taken or
            put in place in one of them, an answer is empty, or a log-prob is not finite.
    """
    assert source_name or not engine.store, "what is kept must name the source of the states"
    refuse_empty_answers(pairs)
    _refuse_unlike(engine, source)
    layers = _find_layers(unwrap_model(engine.model))

    def measure_batch(batch: Batch) -> list[list[float]]:
        chosen = [pairs[i] for i in list_items(batch)]
        # A hook sees one row at a time where padding changes what a model says.
        together = get_capabilities(engine.model).right_padding
        groups = [chosen] if together else [[pair] for pair in chosen]
        means: list[list[float]] = []
        for group in groups:
            means += _measure_group(engine, source, group, place, layers)
        return means

    planner = engine.build_planner(PASS, pairs, count_tokens)
    kind = f"{PASS} {place} {source_name}"
    with _evaluating(source.model):
        means = np.array(engine.measure(kind, planner, measure_batch, on_progress))
    refuse_not_finite(means)
    return PatchedLogprobs(own=means[:, 0], patched=means[:, 1:])


def _measure_group(
    engine: HFEngine,
    source: HFEngine,
    pairs: list[Pair],
    place: Place,
    layers: list[LayerAddress],
) -> list[list[float]]:
    """Measure pairs that go through the model together; return [B, 1 + layers]."""
    is_answer, is_token = _mark_answers(pairs)
    outputs = engine.compute_outputs(pairs, OutputSpec())
    means = [compute_answer_means(outputs, outputs.value)]

    wanted = (ALL_LAYERS, LAST) if place == "layer_normed_last" else (ALL_LAYERS,)
    states = source.compute_outputs(pairs, OutputSpec(fn=None, modules=wanted)).states
    by_layer = list(states.values())[: len(layers)]
    if place == "layer_normed_last":
        by_layer[-1] = states[LAST]
    for layer, hidden in zip(layers, by_layer, strict=True):
        target = layers[-1] if place == "last_layer" else layer
        with _patch_layer(target, hidden, is_answer, is_token):
            outputs = engine.compute_outputs(pairs, OutputSpec())
        means.append(compute_answer_means(outputs, outputs.value))
    by_row: list[list[float]] = torch.stack(means, dim=1).tolist()
    return by_row


def _mark_answers(pairs: Sequence[Pair]) -> "tuple[Tensor, Tensor]":
    """Mark the positions that predict a token of the answers, and all tokens, in rows that are
    padded on the right: [B, T] each."""
    shape = (len(pairs), max(map(count_tokens, pairs)))
    is_answer = torch.zeros(shape, dtype=torch.bool)
    is_token = torch.zeros(shape, dtype=torch.bool)
    for row, pair in enumerate(pairs):
        num_tokens = count_tokens(pair)
        first = max(len(pair[0]) - 1, 0)
        is_answer[row, first : num_tokens - 1] = True
        is_token[row, :num_tokens] = True
    return is_answer, is_token


@contextlib.contextmanager
def _patch_layer(
    layer: LayerAddress, states: "Tensor", is_answer: "Tensor", is_token: "Tensor"
) -> Iterator[None]:
    """Have a layer give these states [N, d] at the positions of answers, meanwhile."""

    def replace(_: object, args: object, output: LayerOutput) -> LayerOutput:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        marked = is_answer
        if hidden.shape[:2] != is_answer.shape:
            # The model takes rows end to end, without padding.
            marked = is_answer[is_token][None]
        patched = hidden.clone()
        patched[marked.to(hidden.device)] = states.to(hidden.device, hidden.dtype)
        if isinstance(output, torch.Tensor):
            return patched
        return (patched, *output[1:])

    hook = layer.layers[layer.index].register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def _find_layers(causal: "PreTrainedModel") -> list[LayerAddress]:
    """List where the layers of a model are, from the lowest up."""
    layers = []
    for address in find_modules(causal, ALL_LAYERS):
        assert address.layer is not None
        layers.append(address.layer)
    return layers


def _refuse_unlike(engine: HFEngine, source: HFEngine) -> None:
    """Raise UserError where states of one model mean nothing in the other."""
    models = [unwrap_model(engine.model), unwrap_model(source.model)]
    for causal in models:
        name = type(causal).__name__
        if get_decoding(causal):
            raise UserError(
                f"{name}: forgets in its decoding and is two models; their hidden states are not "
                "compared with those of one. Name the folder base/ inside it"
            )
        try:
            refuse_no_states(causal, (ALL_LAYERS,))
        except UserError as error:
            raise UserError(f"no hidden states of {name} are compared: {error}") from None
    sizes = []
    for causal in models:
        sizes.append((count_layers(causal), causal.config.get_text_config().hidden_size))
    if sizes[0] != sizes[1]:
        raise UserError(
            "hidden states are compared between models of one architecture, and these have "
            f"{sizes[0][0]} layers of {sizes[0][1]} and {sizes[1][0]} of {sizes[1][1]}; name "
            "models that were trained from the same one"
        )
    if engine.tokenizer.get_vocab() != source.tokenizer.get_vocab():
        raise UserError(
            "hidden states are compared between models that read the same tokens, and these have "
            "different tokenizers; name models that were trained from the same one"
        )


@contextlib.contextmanager
def _evaluating(model: "PreTrainedModel") -> Iterator[None]:
    """Have a model run without dropout meanwhile."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
