"""The one forward: what every pass over a model is asked for, and how it is answered.

`extend` gives a model's own `forward` one more keyword, `want=`, before anything wraps the model. A
pass with it runs the backbone once over all streams of a batch, picks the positions that are asked
about, and applies the head to them in chunks, so that no [batch, length, vocabulary] tensor exists.
A stream that wants the hidden states of a layer has a pass that ends there: no layer above it is
run, and no head. Without `want` the forward is the library's.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unteach.data.batches import Batch
from unteach.data.examples import SEGMENT
from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.models.capabilities import get_capabilities
from unteach.models.hidden_states import SharedRows, compute_hidden_states
from unteach.models.layers import unwrap_model
from unteach.models.lm_head import head_logits

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
            None yields hidden states [n, d] instead: the last ones, as the head gets them, or those
            of `layer`.
        positions: `answer`: positions whose next token is a label; `all`: positions whose next
            token is no padding; `labels`: positions whose own token is a label; `every`: all
            positions up to the stream's longest row, padding and the last one too (label -100 where
            there is none).
        extra: tensors with one entry a position that `fn` gets along.
        layer: the layer whose output is taken, a regex of its name; the pass ends there.
    """

    fn: "Callable[..., Tensor] | None" = logprob
    positions: Literal["answer", "all", "labels", "every"] = "answer"
    extra: "tuple[Tensor, ...]" = ()
    layer: str | None = None


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
    """

    value: "Tensor"
    label: "Tensor"
    row: "Tensor"
    weight: "Tensor"
    labelled: "Tensor"
    target: "Tensor | None" = None

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


def find_positions(batch: Batch, stream: str, kind: str) -> "tuple[Tensor, Tensor, Tensor]":
    """Find where a stream is asked.

    Args:
        kind: the `positions` of an OutputSpec.

    Returns:
        The row within the stream [N], the column [N], and the label that follows, or for `labels`
        the one there [N].
    """
    start, stop = batch["rows"][stream]
    mask = batch["attention_mask"][start:stop]
    weight = batch["weight"][start:stop]
    labels = batch["labels"][start:stop]
    if kind == "all":
        labels = batch["input_ids"][start:stop].masked_fill(mask == 0, IGNORED)
    if kind != "labels":
        labels = F.pad(labels[:, 1:], (0, 1), value=IGNORED)

    is_asked = find_all_positions(mask, weight) if kind == "every" else labels != IGNORED
    if kind in ("answer", "all"):
        # A row's first token may follow left padding, which predicts nothing.
        is_asked = is_asked & (mask == 1) & (weight != 0)[:, None]
    if kind == "all" and SEGMENT in batch:
        is_asked = is_asked & find_continued(batch[SEGMENT][start:stop])
    row, column = is_asked.nonzero(as_tuple=True)
    return row, column, labels[is_asked]


def find_continued(segment: "Tensor") -> "Tensor":
    """Say where the next token is of the same document: [B, T] -> bool [B, T]."""
    return F.pad(segment[:, 1:], (0, 1)) == segment


def find_all_positions(mask: "Tensor", weight: "Tensor") -> "Tensor":
    """Say what is a position of a real row, up to the stream's longest row, padding included:
    [B, T], [B] -> bool [B, T]."""
    return mask.bool().any(0) & (weight != 0)[:, None]


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
    for layer in dict.fromkeys(spec.layer for spec in want.values()):
        streams = [stream for stream, spec in want.items() if spec.layer == layer]
        hidden = compute_hidden_states(model, batch, streams, layer, packed)
        for stream in streams:
            spec = want[stream]
            shared: SharedRows | None = batch.get("shared")
            if shared:
                row, column, label = shared.targets
            else:
                row, column, label = find_positions(batch, stream, spec.positions)
            value = hidden[stream][row, column]
            if spec.fn is not None:
                value = _apply_head(model, spec, value, label)
            outputs[stream] = build_token_outputs(batch, stream, value, label, row)
    return outputs


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
    model: "PreTrainedModel", spec: OutputSpec, hidden: "Tensor", labels: "Tensor"
) -> "Tensor":
    """Apply the head and `spec.fn` to hidden states [N, d] in chunks.

    Where a gradient is needed, each of several chunks is computed again in the backward pass.
    """

    def compute(hidden_chunk: "Tensor", label_chunk: "Tensor", *extra: "Tensor") -> "Tensor":
        assert spec.fn is not None
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
