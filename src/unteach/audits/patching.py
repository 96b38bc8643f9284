"""Hidden states of one model inside another: what the second says when a layer of it gives what the
first computes there.

Only at the positions that predict an answer's tokens are states put in the place of the model's
own; elsewhere it goes on with its own. The states are recorded first and kept on the CPU, so that
one model is in memory at a time.
"""

import contextlib
import copy
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


@dataclass(frozen=True)
class RecordedStates:
    """What the layers of a model give where it predicts the tokens of answers.

    Attributes:
        by_pair: [layers, N, d] on the CPU, in the model's dtype, N the tokens that are predicted.
        num_layers: of the model.
        width: d.
        vocabulary: its tokens.
    """

    by_pair: "dict[Pair, Tensor]"
    num_layers: int
    width: int
    vocabulary: dict[str, int]


def record_states(
    source: HFEngine,
    pairs: Sequence[Pair],
    place: Place = "layer",
    on_progress: ProgressCallback = None,
) -> RecordedStates:
    """Record the hidden states of each layer of a model, to be patched into another.

    Cost: one pass. Memory, on the CPU: layers times width for each token of an answer.

    Args:
        place: where they will go.

    Raises:
        UserError: no state of each token can be taken, or an answer is empty.
    """
    refuse_empty_answers(pairs)
    causal = unwrap_model(source.model)
    num_layers, width = _find_shape(causal)
    wanted = (ALL_LAYERS, LAST) if place == "layer_normed_last" else (ALL_LAYERS,)
    spec = OutputSpec(fn=None, modules=wanted)

    def record_batch(batch: Batch) -> "list[Tensor]":
        chosen = [pairs[i] for i in list_items(batch)]
        states = source.compute_outputs(chosen, spec).states
        by_layer = list(states.values())[:num_layers]
        if place == "layer_normed_last":
            by_layer[-1] = states[LAST]
        stacked = torch.stack([hidden.cpu() for hidden in by_layer])  # [layers, N, d]
        return list(stacked.split([_count_predicted(pair) for pair in chosen], dim=1))

    # States are many and made quickly: the store is for what comes of them.
    recorder = copy.copy(source)
    recorder.store = None
    planner = recorder.build_planner(PASS, pairs, count_tokens)
    recorded = recorder.measure("states", planner, record_batch, on_progress)
    by_pair = dict(zip(pairs, recorded, strict=True))
    return RecordedStates(by_pair, num_layers, width, source.tokenizer.get_vocab())


def list_unpatched(
    engine: HFEngine, pairs: Sequence[Pair], place: Place, source_name: str
) -> list[Pair]:
    """List the pairs whose patched log-probs the store of `engine` lacks, for which states are
    needed. No model is."""
    return engine.list_unmeasured(_name_pass(place, source_name), pairs)


def compute_patched_logprobs(
    engine: HFEngine,
    states: RecordedStates | None,
    pairs: Sequence[Pair],
    place: Place = "layer",
    source_name: str = "",
    on_progress: ProgressCallback = None,
) -> PatchedLogprobs:
    """Compute how likely each answer is with the hidden states of another model, layer by layer.

    Cost for each batch: one pass more of the model than it has layers. The batch size changes
    nothing but rounding; states that a model's own passes gave in the same batches leave it exactly
    as it is.

    Args:
        engine: the model that gets states.
        states: of another model, or of the same, recorded for the same place; None where the store
            has everything.
        pairs: prompts and answers. Without a prompt, an answer's first token is not scored.
        source_name: tells the weights that the states are of from others, as LoadedModel.identity
            does: what the store of `engine` keeps is found by it. Needed where there is a store.

    Raises:
        UserError: the two models differ in depth, width or tokens, no state of each token can be
            put in place, an answer is empty, or a log-prob is not finite.
    """
    assert source_name or not engine.store, "what is kept must name the source of the states"
    refuse_empty_answers(pairs)

    def measure_batch(batch: Batch) -> list[list[float]]:
        assert states is not None, "the store lacks what states are needed for"
        chosen = [pairs[i] for i in list_items(batch)]
        # A hook sees one row at a time where padding changes what a model says.
        together = get_capabilities(engine.model).right_padding
        groups = [chosen] if together else [[pair] for pair in chosen]
        means: list[list[float]] = []
        for group in groups:
            means += _measure_group(engine, states, group, place)
        return means

    if states is not None:
        _refuse_unlike(engine, states)
    planner = engine.build_planner(PASS, pairs, count_tokens)
    kind = _name_pass(place, source_name)
    means = np.array(engine.measure(kind, planner, measure_batch, on_progress))
    refuse_not_finite(means)
    return PatchedLogprobs(own=means[:, 0], patched=means[:, 1:])


def _name_pass(place: Place, source_name: str) -> str:
    return f"{PASS} {place} {source_name}"


def _count_predicted(pair: Pair) -> int:
    """Count the tokens of an answer that the model predicts."""
    prompt, answer = pair
    return len(answer) if prompt else len(answer) - 1


def _measure_group(
    engine: HFEngine, states: RecordedStates, pairs: list[Pair], place: Place
) -> list[list[float]]:
    """Measure pairs that go through the model together; return [B, 1 + layers]."""
    is_answer, is_token = _mark_answers(pairs)
    outputs = engine.compute_outputs(pairs, OutputSpec())
    means = [compute_answer_means(outputs, outputs.value)]

    layers = _find_layers(unwrap_model(engine.model))
    by_layer = torch.cat([states.by_pair[pair] for pair in pairs], dim=1)  # [layers, N, d]
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


def _find_shape(causal: "PreTrainedModel") -> tuple[int, int]:
    """Find how many layers a model has, and how wide they are.

    Raises:
        UserError: no state of each token can be taken from it.
    """
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
    return count_layers(causal), causal.config.get_text_config().hidden_size


def _refuse_unlike(engine: HFEngine, states: RecordedStates) -> None:
    """Raise UserError where the states mean nothing in the model."""
    num_layers, width = _find_shape(unwrap_model(engine.model))
    if (num_layers, width) != (states.num_layers, states.width):
        raise UserError(
            "hidden states are compared between models of one architecture, and these have "
            f"{num_layers} layers of {width} and {states.num_layers} of {states.width}; name "
            "models that were trained from the same one"
        )
    if engine.tokenizer.get_vocab() != states.vocabulary:
        raise UserError(
            "hidden states are compared between models that read the same tokens, and these have "
            "different tokenizers; name models that were trained from the same one"
        )
