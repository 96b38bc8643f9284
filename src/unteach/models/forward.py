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

from unteach.data.examples import SEGMENT
from unteach.data.streams import Batch
from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.models.capabilities import get_capabilities
from unteach.models.layers import Depth, get_backbone, unwrap_model
from unteach.models.lm_head import head_logits

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

IGNORED = -100
CHUNK_ELEMENTS = 1 << 24
"""Entries of one chunk of logits: 64 MiB in fp32."""
CACHED_ELEMENTS = 1 << 22
"""The same on a CPU where nothing is computed twice for it: 16 MiB, which its last cache holds."""


@dataclass(frozen=True)
class Shared:
    """Rows in which several answers follow one prompt, none of which sees another.

    asked: (row [N], column [N], label [N]), where the model is asked and what follows there.
    position_ids [B, T] count each answer from the prompt's end. sees [B, 1, T, T] is added to the
    attention scores: 0 where a token is seen.
    """

    asked: "tuple[Tensor, Tensor, Tensor]"
    position_ids: "Tensor"
    sees: "Tensor"


def logprob(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """log p(label) at each position: [n, V], [n] -> [n]."""
    return -F.cross_entropy(logits, labels.clamp(min=0), reduction="none")


@dataclass(frozen=True)
class OutputSpec:
    """What a pass should yield for one stream.

    fn: (logits [n, V] in fp32, labels [n], *extra [n, …]) -> [n, …], computed chunk by chunk; None
        yields hidden states [n, d] instead: the last ones, as the head gets them, or those of
        `layer`.
    positions: `answer`: positions whose next token is a label; `all`: positions whose next token
        is no padding; `labels`: positions whose own token is a label; `every`: all positions up to
        the stream's longest row, padding and the last one too (label -100 where there is none).
    extra: tensors with one entry a position that `fn` gets along.
    layer: the layer whose output is taken, a regex of its name; the pass ends there.
    """

    fn: "Callable[..., Tensor] | None" = logprob
    positions: Literal["answer", "all", "labels", "every"] = "answer"
    extra: "tuple[Tensor, ...]" = ()
    layer: str | None = None


@dataclass
class TokenOutputs:
    """What a pass says about one stream: one entry a position, in the order of rows and tokens.

    value [N, …]; label [N], the token that follows (over `labels`: the one there); row [N], whose
    position it is; weight [B], 0 for filler rows; labelled [B], how many labels a row has, its
    first token's too, which nothing predicts; target [B], the number that a row has in place of a
    label.
    """

    value: "Tensor"
    label: "Tensor"
    row: "Tensor"
    weight: "Tensor"
    labelled: "Tensor"
    target: "Tensor | None" = None

    def per_row(self, value: "Tensor | None" = None) -> "Tensor":
        """Sums over the positions of each row: [N] -> [B]."""
        value = self.value if value is None else value
        return value.new_zeros(len(self.weight)).index_add(0, self.row, value)

    def lengths(self) -> "Tensor":
        """Positions of each row: [B]."""
        return self.per_row(torch.ones_like(self.row, dtype=self.weight.dtype))

    def index_in_row(self) -> "Tensor":
        """The place of each position among those of its row, from 0: [N]."""
        return index_in_row(self.row)


def index_in_row(row: "Tensor") -> "Tensor":
    """The place of each entry among those of its row, from 0; entries come in the order of rows:
    [N] -> [N]."""
    return torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)


def find_positions(batch: Batch, stream: str, over: str) -> "tuple[Tensor, Tensor, Tensor]":
    """Where a stream is asked: (row in the stream [N], column [N], the label that follows, or
    stands there where the positions are those of `labels` [N])."""
    start, stop = batch["rows"][stream]
    ids, mask = batch["input_ids"][start:stop], batch["attention_mask"][start:stop]
    weight = batch["weight"][start:stop]
    labels = batch["labels"][start:stop] if over != "all" else ids.masked_fill(mask == 0, IGNORED)
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    asked = (
        find_all_positions(mask, weight)
        if over == "every"
        else (labels if over == "labels" else following) != IGNORED
    )
    # a row's first token may follow left padding, which predicts nothing
    if over in ("answer", "all"):
        asked = asked & (mask == 1) & (weight != 0)[:, None]
    if over == "all" and SEGMENT in batch:
        asked = asked & find_continued(batch[SEGMENT][start:stop])
    row, column = asked.nonzero(as_tuple=True)
    return row, column, (labels if over == "labels" else following)[asked]


def find_continued(segment: "Tensor") -> "Tensor":
    """Where the next token is of the same document: [B, T] -> bool [B, T]."""
    return F.pad(segment[:, 1:], (0, 1)) == segment


def find_all_positions(mask: "Tensor", weight: "Tensor") -> "Tensor":
    """All positions of real rows up to the stream's longest row, padding included: [B, T], [B] ->
    bool [B, T]."""
    return mask.bool().any(0) & (weight != 0)[:, None]


def build_token_outputs(
    batch: Batch, stream: str, value: "Tensor", label: "Tensor", row: "Tensor"
) -> TokenOutputs:
    """`value` at the positions of a stream of a batch, as TokenOutputs."""
    start, stop = batch["rows"][stream]
    labelled = (batch["labels"][start:stop] != IGNORED).sum(-1)
    target = batch["target"][start:stop] if "target" in batch else None
    return TokenOutputs(value, label, row, batch["weight"][start:stop], labelled, target)


def extend(model: "PreTrainedModel", packed: bool = False) -> Any:
    """Gives `model.forward` the keyword `want: dict[stream, OutputSpec]`; returns the model.

    With it, forward(batch=…, want=…) -> dict[stream, TokenOutputs], where batch holds input_ids,
    attention_mask, labels, weight and `rows`, the slice of each stream; `segment`, where rows have
    several documents, which do not see one another; and `shared`, where its one stream has rows of
    several answers.
    packed: the rows go through the backbone end to end, without padding.
    """
    plain = model.forward

    @functools.wraps(plain)
    def forward(
        *args: Any,
        want: dict[str, OutputSpec] | None = None,
        batch: Batch | None = None,
        **kwargs: object,
    ) -> Any:
        if want is None:
            return plain(*args, **kwargs)
        assert batch is not None, "outputs are of a batch"
        return _compute_outputs(model, batch, want, packed)

    model.forward = forward
    return model


def _compute_outputs(
    model: "PreTrainedModel", batch: Batch, want: dict[str, OutputSpec], packed: bool
) -> dict[str, TokenOutputs]:
    """Answers all streams: those that end at the same depth share one pass, and no row is in
    two."""
    if any(spec.positions == "every" for spec in want.values()):
        _refuse_unpadded(model, packed)
    if get_capabilities(model).head == "none":
        raise UserError(
            f"{type(unwrap_model(model)).__name__}: its logits do not come from its last hidden "
            "states alone, and nothing is scored or trained without that; only `unteach infer` "
            "asks this model"
        )
    answers = {}
    for layer in dict.fromkeys(spec.layer for spec in want.values()):
        streams = {stream: spec for stream, spec in want.items() if spec.layer == layer}
        hidden = _hidden(model, batch, list(streams), layer, packed)
        for stream, spec in streams.items():
            shared = batch.get("shared")
            row, column, label = (
                shared.asked if shared else find_positions(batch, stream, spec.positions)
            )
            value = hidden[stream][row, column]
            if spec.fn is not None:
                value = through_head(
                    functools.partial(head_logits, model), spec, value, label, _vocabulary(model)
                )
            answers[stream] = build_token_outputs(batch, stream, value, label, row)
    return answers


def _refuse_unpadded(model: "PreTrainedModel", packed: bool) -> None:
    """Raise UserError where padding goes through no layer, and a method asks about it."""
    able = get_capabilities(model)
    if packed:
        raise UserError(
            "this method is asked about padding too (a published quirk): it needs "
            "model.packed=false"
        )
    if not (able.right_padding and able.left_padding):
        raise UserError(
            "this method is asked about padding too (a published quirk), and rows go through a "
            f"model of the class {type(unwrap_model(model)).__name__} one at a time, for padding "
            "changes what it says of them"
        )


def _hidden(
    model: "PreTrainedModel",
    batch: Batch,
    streams: list[str],
    at: str | None,
    packed: bool,
) -> "dict[str, Tensor]":
    """Hidden states [B, T, d] of each stream; positions count from each row's first real token,
    whichever side is padded. What cannot share a pass with others, by what was found of the model,
    has one of its own."""
    slices = [batch["rows"][stream] for stream in streams]
    input_ids = torch.cat([batch["input_ids"][a:b] for a, b in slices])
    mask = torch.cat([batch["attention_mask"][a:b] for a, b in slices])
    leading = (mask.cumsum(-1) == 0).sum(-1, keepdim=True)
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    position_ids = (places - leading).clamp(min=0)
    given: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "position_ids": position_ids,
    }
    segment: Tensor | None = None
    if SEGMENT in batch:  # where positions begin again, a new document begins
        segment = torch.cat([batch[SEGMENT][a:b] for a, b in slices])
        begins = F.pad(segment[:, 1:] != segment[:, :-1], (1, 0), value=True)
        position_ids = places - torch.where(begins, places, 0).cummax(-1).values
        given |= {"attention_mask": None, "position_ids": position_ids}
        # which looks at one row only
        packed = packed or "flash" in str(unwrap_model(model).config._attn_implementation)
    shared = batch.get("shared")
    if shared:
        given |= {"attention_mask": shared.sees, "position_ids": shared.position_ids}
    elif (pieces := _pieces_apart(model, mask, segment)) is not None:
        hidden = _apart(model, at, input_ids, mask, pieces)
        return dict(zip(streams, hidden.split([b - a for a, b in slices]), strict=True))
    packed = packed and not shared
    # where positions begin again, a new row begins: the library keeps rows from seeing each other
    if packed:
        real = mask.bool()
        given = {
            "input_ids": input_ids[real][None],
            "attention_mask": None,
            "position_ids": position_ids[real][None],
        }
    hidden = _through_layers(unwrap_model(model), at, {**given, "use_cache": False})
    if packed:
        hidden = hidden.new_zeros(*mask.shape, hidden.shape[-1]).masked_scatter(
            real.unsqueeze(-1), hidden
        )
    return dict(zip(streams, hidden.split([b - a for a, b in slices]), strict=True))


def _pieces_apart(
    model: "PreTrainedModel", mask: "Tensor", segment: "Tensor | None"
) -> "list[Tensor] | None":
    """The positions [T] of a row that each pass must be alone with, as flags; None where rows may
    go as they are.

    They are the documents of rows that have several, in a model that does not tell them apart, and
    whole rows where padding changes what the model says of them.
    """
    able = get_capabilities(model)
    if segment is not None and not able.packing:
        ends = [int(row.max()) + 1 for row in segment]
        found = [
            (i, (segment[i] == k) & (mask[i] == 1))
            for i, end in enumerate(ends)
            for k in range(end)
        ]
        return [_in_batch(mask, i, flags) for i, flags in found if bool(flags.any())]
    leads = not able.left_padding and bool((mask[:, 0] == 0).any())
    trails = not able.right_padding and bool((mask[:, -1] == 0).any())
    if leads or trails:
        return [_in_batch(mask, i, row == 1) for i, row in enumerate(mask) if bool(row.any())]
    return None


def _in_batch(mask: "Tensor", row: int, flags: "Tensor") -> "Tensor":
    """Flags of a row as flags of the batch: [T] -> [B, T]."""
    whole = torch.zeros_like(mask, dtype=torch.bool)
    whole[row] = flags
    return whole


def _apart(
    model: "PreTrainedModel",
    at: str | None,
    input_ids: "Tensor",
    mask: "Tensor",
    pieces: "list[Tensor]",
) -> "Tensor":
    """Hidden states [B, T, d] of pieces [B, T] of rows, in their order, each of which sees nothing
    of the others."""

    def run(rows: "list[Tensor]") -> "Tensor":
        ids = torch.nn.utils.rnn.pad_sequence(rows, True)
        real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], True)
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        given = {
            "input_ids": ids,
            "attention_mask": real,
            "position_ids": places,
            "use_cache": False,
        }
        return _through_layers(unwrap_model(model), at, given)[real.bool()]

    rows = [input_ids[piece] for piece in pieces]
    hidden = (
        run(rows)
        if get_capabilities(model).right_padding
        else torch.cat([run([row]) for row in rows])
    )
    whole = hidden.new_zeros(*mask.shape, hidden.shape[-1])
    return whole.masked_scatter(mask.bool().unsqueeze(-1), hidden)


def _through_layers(causal: "PreTrainedModel", at: str | None, given: dict[str, Any]) -> "Tensor":
    """What the head would get or, where the pass ends at a layer, what that gave: [B, T, d]."""
    if at is None:
        hidden: Tensor = get_backbone(causal)(**given).last_hidden_state
        return hidden
    with Depth(causal, at) as depth:
        get_backbone(causal)(**given)
    return depth.output


def through_head(
    logits_of: "Callable[[Tensor], Tensor]",
    want: OutputSpec,
    hidden: "Tensor",
    label: "Tensor",
    vocabulary: int,
) -> "Tensor":
    """Applies head and `want.fn` to hidden states [N, d] in chunks, recomputed in the backward pass
    if several."""

    def one(h: "Tensor", y: "Tensor", *extra: "Tensor") -> "Tensor":
        assert want.fn is not None
        return want.fn(logits_of(h).float(), y, *extra)

    most = (
        CACHED_ELEMENTS
        if hidden.device.type == "cpu" and not torch.is_grad_enabled()
        else CHUNK_ELEMENTS
    )
    chunks = _chunks(len(hidden), max(1, most // vocabulary), hidden.device)
    if chunks == 1:
        return one(hidden, label, *want.extra)
    pieces = zip(
        *(tensor.tensor_split(chunks) for tensor in (hidden, label, *want.extra)), strict=True
    )
    run = (
        functools.partial(torch.utils.checkpoint.checkpoint, one, use_reentrant=False)
        if torch.is_grad_enabled()
        else one
    )
    return torch.cat([run(*piece) for piece in pieces])


def _chunks(count: int, size: int, device: "torch.device") -> int:
    """How many chunks of at most `size` hold `count` positions.

    Under ZeRO-3 each call of the head gathers its weights from all processes, so all of them make
    as many.
    """
    chunks = max(1, -(-count // size))
    if launch_environment.parallel_mode() == "zero3":
        most = torch.tensor(chunks, device=device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        chunks = int(most)
    return chunks


def _vocabulary(model: "PreTrainedModel") -> int:
    """The outputs of the head."""
    causal = unwrap_model(model)
    return int(
        causal.config.num_labels
        if hasattr(causal, "score")
        else causal.config.get_text_config().vocab_size
    )
