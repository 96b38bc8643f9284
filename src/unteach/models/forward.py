"""The one forward: what every pass over a model is asked for, and how it is answered.

`extend` gives a model's own `forward` one more keyword, `want=`, before anything wraps the model. A
pass with it runs the backbone once over all streams of a batch, picks the positions that are asked
about, and applies the head to them in chunks, so that no [batch, length, vocabulary] tensor exists.
A stream that wants the hidden states of a layer, or of several modules, has a pass that ends at the
highest: no layer above it is run, and no head. Without `want` the forward is the library's.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from unteach.data.batches import Batch
from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.models.capabilities import get_capabilities
from unteach.models.hidden_states import Pass, SharedRows, States, compute_hidden_states
from unteach.models.layer_names import (
    EMBEDDING,
    LAST,
    LayerAddress,
    ModuleAddress,
    find_end,
    find_layer,
    find_modules,
)
from unteach.models.layers import find_final_norm, unwrap_model
from unteach.models.lm_head import head_logits
from unteach.models.positions import find_positions

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

IGNORED = -100
CHUNK_ELEMENTS = 1 << 24
"""Entries of one chunk of logits: 64 MiB in fp32."""
CACHED_ELEMENTS = 1 << 22
"""The same on a CPU where nothing is computed twice for it: 16 MiB, which its last cache holds."""


def logprob(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Compute log p(label) at each position: [n, V], [n] -> [n]."""
    return -F.cross_entropy(logits, labels.clamp(min=0), reduction="none")


@dataclass(frozen=True)
class OutputSpec:
    """What a pass should yield for one stream.

    Attributes:
        fn: (logits [n, V] in fp32, labels [n], *extra [n, …]) -> [n, …], computed chunk by chunk;
            None yields hidden states [n, d] instead: the last ones, as the head gets them, those
            of `layer`, or of the highest of `modules`.
        positions: `answer`: positions whose next token is a label; `all`: positions whose next
            token is no padding; `labels`: positions whose own token is a label; `real`: all
            positions of a row but padding, its last one too; `every`: all positions up to the
            stream's longest row, padding too (label -100 where there is none).
        extra: tensors with one entry a position that `fn` gets along.
        layer: the layer whose output is taken, by its name (models/layer_names.py); the pass ends
            there.
        modules: modules of layers whose outputs are taken, each a name or a regex of several,
            `embedding` and `last` too; without `fn` the pass ends at the highest.
        lens: modules whose outputs are read as the last hidden states are: through the final norm,
            the head and `fn`.
        until: without `fn`, the pass ends at the highest of these, and what of `modules` lies
            above is left out; empty: at the highest of `modules`.
    """

    fn: "Callable[..., Tensor] | None" = logprob
    positions: Literal["answer", "all", "labels", "real", "every"] = "answer"
    extra: "tuple[Tensor, ...]" = ()
    layer: str | None = None
    modules: tuple[str, ...] = ()
    lens: tuple[str, ...] = ()
    until: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.fn is None or self.layer is None, "a pass that ends at a layer has no logits"
        assert self.fn is not None or not self.lens, "a lens needs what reads its logits"

    def ends(self) -> tuple[str, ...]:
        """Name the modules at the highest of which the pass ends; empty: it runs through all."""
        if self.fn is not None:
            return ()
        if self.layer:
            return (self.layer,)
        return self.until or self.modules


@dataclass
class TokenOutputs:
    """What a pass says about one stream of B rows: one entry for each of N positions, in the order
    of rows and tokens.

    Attributes:
        value: [N, …].
        label: [N], the token that follows (over `labels`: the one there).
        row: [N], whose position it is.
        weight: [B], 0 for filler rows.
        labelled: [B], how many labels a row has, its first token's too, which nothing predicts.
        target: [B], the number that a row has in place of a label.
        states: by the names of the `modules` asked for, from the lowest up: [N, d] each.
        lens: the same of what `fn` says of the modules of `lens`: [N, …] each.
    """

    value: "Tensor"
    label: "Tensor"
    row: "Tensor"
    weight: "Tensor"
    labelled: "Tensor"
    target: "Tensor | None" = None
    states: "dict[str, Tensor]" = field(default_factory=dict)
    lens: "dict[str, Tensor]" = field(default_factory=dict)

    def per_row(self, value: "Tensor | None" = None) -> "Tensor":
        """Sum over the positions of each row: [N] -> [B]."""
        value = self.value if value is None else value
        return value.new_zeros(len(self.weight)).index_add(0, self.row, value)

    def lengths(self) -> "Tensor":
        """Count the positions of each row: [B]."""
        return self.per_row(torch.ones_like(self.row, dtype=self.weight.dtype))

    def index_in_row(self) -> "Tensor":
        """Number the positions of each row from 0: [N]."""
        return index_in_row(self.row)


def index_in_row(row: "Tensor") -> "Tensor":
    """Number the entries of each row from 0; they come in the order of rows: [N] -> [N]."""
    return torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)


def build_token_outputs(
    batch: Batch, stream: str, value: "Tensor", label: "Tensor", row: "Tensor"
) -> TokenOutputs:
    """Build the TokenOutputs of a stream from values at some of its positions."""
    start, stop = batch["rows"][stream]
    labelled = (batch["labels"][start:stop] != IGNORED).sum(-1)
    target = batch["target"][start:stop] if "target" in batch else None
    return TokenOutputs(value, label, row, batch["weight"][start:stop], labelled, target)


def extend(model: "PreTrainedModel", packed: bool = False) -> "PreTrainedModel":
    """Give `model.forward` the keyword `want: dict[stream, OutputSpec]`; return the model.

    With it, forward(batch=…, want=…) -> dict[stream, TokenOutputs], where batch holds input_ids,
    attention_mask, labels, weight and `rows`, the slice of each stream; `segment`, where rows have
    several documents, which do not see one another; and `shared`, where its one stream has rows of
    several answers.

    Args:
        packed: the rows go through the backbone end to end, without padding.
    """
    plain = model.forward

    @functools.wraps(plain)
    def forward(
        *args: object,
        want: dict[str, OutputSpec] | None = None,
        batch: Batch | None = None,
        **kwargs: object,
    ) -> Any:
        if want is None:
            return plain(*args, **kwargs)
        assert batch is not None
        return _compute_outputs(model, batch, want, packed)

    model.forward = forward
    return model


def _compute_outputs(
    model: "PreTrainedModel", batch: Batch, want: dict[str, OutputSpec], packed: bool
) -> dict[str, TokenOutputs]:
    """Answer all streams: those that end at the same depth share one pass, and no row is in two."""
    if any(spec.positions == "every" for spec in want.values()):
        _refuse_unpadded(model, packed)
    if get_capabilities(model).head == "none":
        raise UserError(
            f"{type(unwrap_model(model)).__name__}: its logits do not come from its last hidden "
            "states alone, and nothing is scored or trained without that; only `unteach infer` "
            "asks this model"
        )
    outputs = {}
    for plan in _plan_passes(unwrap_model(model), want, packed):
        states = compute_hidden_states(model, batch, plan)
        for stream in plan.streams:
            outputs[stream] = _read_states(model, batch, stream, want[stream], states[stream])
    return outputs


def _plan_passes(
    causal: "PreTrainedModel", want: dict[str, OutputSpec], packed: bool
) -> list[Pass]:
    """Plan the passes that answer all streams; those that end at the same layer share one."""
    ends: dict[str, LayerAddress | None] = {}
    for stream, spec in want.items():
        if spec.layer:
            ends[stream] = find_layer(causal, spec.layer)
        else:
            ends[stream] = find_end(causal, spec.ends())
    plans: list[Pass] = []
    for end in ends.values():
        if any(plan.end == end for plan in plans):
            continue
        streams = [stream for stream in want if ends[stream] == end]
        modules: dict[str, ModuleAddress] = {}
        for stream in streams:
            for address in _find_wanted_modules(causal, want[stream]):
                modules[address.name] = address
        plans.append(Pass(streams, list(modules.values()), end, packed))
    return plans


def _find_wanted_modules(causal: "PreTrainedModel", spec: OutputSpec) -> list[ModuleAddress]:
    """Find the modules that a pass records for a stream."""
    patterns = [*spec.modules, *spec.lens]
    if spec.layer:
        patterns.append(spec.layer)
    addresses = []
    for pattern in patterns:
        addresses += find_modules(causal, pattern)
    return addresses


def _read_states(
    model: "PreTrainedModel", batch: Batch, stream: str, spec: OutputSpec, states: States
) -> TokenOutputs:
    """Read, at the positions of a stream, what a pass gave: [B, T, d] -> [N, …]."""
    causal = unwrap_model(model)
    shared: SharedRows | None = batch.get("shared")
    if shared:
        row, column, label = shared.targets
    else:
        row, column, label = find_positions(batch, stream, spec.positions)
    taken: States = {}
    for name in _list_names(causal, spec.modules):
        if name in states:
            taken[name] = states[name][row, column]

    if spec.layer:
        (name,) = _list_names(causal, (spec.layer,))
        value = states[name][row, column]
    elif spec.ends():
        value = list(taken.values())[-1]
    else:
        value = states[LAST][row, column]
    if spec.fn is not None:
        value = _apply_head(model, spec, value, label)
    outputs = build_token_outputs(batch, stream, value, label, row)
    outputs.states = taken
    for name in _list_names(causal, spec.lens):
        hidden = states[name][row, column]
        outputs.lens[name] = _apply_head(model, spec, hidden, label, is_lens=True)
    return outputs


def _list_names(causal: "PreTrainedModel", patterns: tuple[str, ...]) -> list[str]:
    """List the names of the modules that are meant, from the lowest up, each once."""
    addresses: dict[str, ModuleAddress] = {}
    for pattern in patterns:
        for address in find_modules(causal, pattern):
            addresses[address.name] = address
    return [address.name for address in sorted(addresses.values(), key=_find_height)]


def _find_height(address: ModuleAddress) -> tuple[bool, int, bool]:
    """Give what a module is sorted by: the embedding, each layer after what is in it, the last
    hidden states."""
    if address.layer is None:
        return True, 0, False
    is_layer = not address.inner and address.name != EMBEDDING
    return False, address.layer.index, is_layer


def _refuse_unpadded(model: "PreTrainedModel", packed: bool) -> None:
    """Raise UserError where padding goes through no layer, and a method asks about it."""
    if packed:
        raise UserError(
            "this method is asked about padding too (a published quirk): it needs "
            "model.packed=false"
        )
    able = get_capabilities(model)
    if not (able.right_padding and able.left_padding):
        raise UserError(
            "this method is asked about padding too (a published quirk), and rows go through a "
            f"model of the class {type(unwrap_model(model)).__name__} one at a time, for padding "
            "changes what it says of them"
        )


def _apply_head(
    model: "PreTrainedModel",
    spec: OutputSpec,
    hidden: "Tensor",
    labels: "Tensor",
    is_lens: bool = False,
) -> "Tensor":
    """Apply the head and `spec.fn` to hidden states [N, d] in chunks.

    Where a gradient is needed, each of several chunks is computed again in the backward pass.

    Args:
        is_lens: the final norm comes before the head.
    """
    norm = find_final_norm(unwrap_model(model)) if is_lens else None

    def compute(hidden_chunk: "Tensor", label_chunk: "Tensor", *extra: "Tensor") -> "Tensor":
        assert spec.fn is not None
        if norm is not None:
            hidden_chunk = norm(hidden_chunk)
        return spec.fn(head_logits(model, hidden_chunk).float(), label_chunk, *extra)

    has_grad = torch.is_grad_enabled()
    is_cached = hidden.device.type == "cpu" and not has_grad
    max_elements = CACHED_ELEMENTS if is_cached else CHUNK_ELEMENTS
    chunk_size = max(1, max_elements // _count_classes(model))
    num_chunks = _count_chunks(len(hidden), chunk_size, hidden.device)
    tensors = (hidden, labels, *spec.extra)
    if num_chunks == 1:
        return compute(*tensors)

    values = []
    for chunk in zip(*[tensor.tensor_split(num_chunks) for tensor in tensors], strict=True):
        if has_grad:
            value = torch.utils.checkpoint.checkpoint(compute, *chunk, use_reentrant=False)
        else:
            value = compute(*chunk)
        values.append(value)
    return torch.cat(values)


def _count_chunks(num_positions: int, chunk_size: int, device: "torch.device") -> int:
    """Count the chunks that hold all positions.

    Under ZeRO-3 each call of the head gathers its weights from all processes, so all of them make
    as many.
    """
    num_chunks = max(1, -(-num_positions // chunk_size))
    if launch_environment.parallel_mode() == "zero3":
        most = torch.tensor(num_chunks, device=device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        num_chunks = int(most)
    return num_chunks


def _count_classes(model: "PreTrainedModel") -> int:
    """Count the outputs of the head."""
    causal = unwrap_model(model)
    if hasattr(causal, "score"):
        return int(causal.config.num_labels)
    return int(causal.config.get_text_config().vocab_size)
