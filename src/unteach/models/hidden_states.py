"""How rows go through a model's layers: padded, end to end, or apart, as the model takes them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unteach.data.batches import Batch
from unteach.data.examples import SEGMENT
from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.models.capabilities import get_capabilities
from unteach.models.decoding import get_decoding, get_second, join_hidden_states
from unteach.models.layers import get_backbone, stop_at_layer, unwrap_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SharedRows:
    """Rows in which several answers follow one prompt, none of which sees another.

    Attributes:
        targets: (row [N], column [N], label [N]), where the model is asked and what follows there.
        position_ids: [B, T], which count each answer from the prompt's end.
        sees: [B, 1, T, T], added to the attention scores: 0 where a token is seen.
    """

    targets: "tuple[Tensor, Tensor, Tensor]"
    position_ids: "Tensor"
    sees: "Tensor"


def compute_hidden_states(
    model: "PreTrainedModel",
    batch: Batch,
    streams: list[str],
    layer: str | None,
    packed: bool,
) -> "dict[str, Tensor]":
    """Compute the hidden states [B, T, d] of some streams of a batch.

    They share one pass; rows that cannot, by what was found of the model, have passes of their own.
    Of a model with a decoding they are those of both models, side by side, as its head takes them.

    Args:
        layer: where the pass ends; None for the last hidden states, as the head gets them.
        packed: the rows go through the layers end to end, without padding.
    """
    hidden = _compute_of_one(model, batch, streams, layer, packed)
    if get_decoding(model) is None:
        return hidden
    if layer is not None:
        raise UserError(
            f"the hidden states of the layer {layer!r} are asked of a model that forgets in its "
            "decoding: it is two models, whose logits alone are combined. Ask the folder base/, or "
            "the other one, inside its own"
        )
    second = _compute_of_one(get_second(model), batch, streams, layer, packed)
    return {stream: join_hidden_states(hidden[stream], second[stream]) for stream in streams}


def _compute_of_one(
    model: "PreTrainedModel",
    batch: Batch,
    streams: list[str],
    layer: str | None,
    packed: bool,
) -> "dict[str, Tensor]":
    """Do the same of one model alone."""
    slices = [slice(*batch["rows"][stream]) for stream in streams]
    input_ids = torch.cat([batch["input_ids"][rows] for rows in slices])
    mask = torch.cat([batch["attention_mask"][rows] for rows in slices])
    segment = None
    if SEGMENT in batch:
        segment = torch.cat([batch[SEGMENT][rows] for rows in slices])
    shared: SharedRows | None = batch.get("shared")

    pieces = None if shared else _find_pieces(model, mask, segment)
    if shared:
        hidden = _run_layers(model, layer, input_ids, shared.sees, shared.position_ids)
    elif pieces is not None:
        hidden = _run_apart(model, layer, input_ids, mask, pieces)
    else:
        hidden = _run_together(model, layer, input_ids, mask, segment, packed)
    sizes = [rows.stop - rows.start for rows in slices]
    return dict(zip(streams, hidden.split(sizes), strict=True))


def _run_together(
    model: "PreTrainedModel",
    layer: str | None,
    input_ids: "Tensor",
    mask: "Tensor",
    segment: "Tensor | None",
    packed: bool,
) -> "Tensor":
    """Run all rows in one pass: [B, T] -> [B, T, d]."""
    position_ids = _count_positions(mask, segment)
    attention_mask: Tensor | None = mask
    if segment is not None:
        # Without a mask the library keeps documents apart where positions begin again;
        # FlashAttention does so in a batch of one row only.
        attention_mask = None
        packed = packed or "flash" in str(unwrap_model(model).config._attn_implementation)
    if not packed:
        return _run_layers(model, layer, input_ids, attention_mask, position_ids)
    is_real = mask.bool()
    hidden = _run_layers(model, layer, input_ids[is_real][None], None, position_ids[is_real][None])
    return _scatter(hidden, mask)


def _count_positions(mask: "Tensor", segment: "Tensor | None") -> "Tensor":
    """Count the positions of tokens from the first real one of a row, whichever side is padded, or
    from the first of their document: [B, T]."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    if segment is None:
        num_leading = (mask.cumsum(-1) == 0).sum(-1, keepdim=True)
        return (columns - num_leading).clamp(min=0)
    begins = F.pad(segment[:, 1:] != segment[:, :-1], (1, 0), value=True)
    return columns - torch.where(begins, columns, 0).cummax(-1).values


def _find_pieces(
    model: "PreTrainedModel", mask: "Tensor", segment: "Tensor | None"
) -> "list[Tensor] | None":
    """Find the parts of rows that must each be alone in a row, as flags [B, T].

    They are the documents of rows that have several, in a model that does not tell them apart, and
    whole rows where padding changes what the model says of them.

    Returns:
        None where rows may go as they are.
    """
    able = get_capabilities(model)
    pieces: list[Tensor] = []
    if segment is not None and not able.packing:
        for row, documents in enumerate(segment):
            for number in range(int(documents.max()) + 1):
                is_in = (documents == number) & (mask[row] == 1)
                if bool(is_in.any()):
                    pieces.append(_mark_in_batch(mask, row, is_in))
        return pieces
    is_left_padded = not able.left_padding and bool((mask[:, 0] == 0).any())
    is_right_padded = not able.right_padding and bool((mask[:, -1] == 0).any())
    if not (is_left_padded or is_right_padded):
        return None
    for row, row_mask in enumerate(mask):
        if bool(row_mask.any()):
            pieces.append(_mark_in_batch(mask, row, row_mask == 1))
    return pieces


def _mark_in_batch(mask: "Tensor", row: int, flags: "Tensor") -> "Tensor":
    """Turn the flags of one row [T] into flags of the batch [B, T]."""
    whole = torch.zeros_like(mask, dtype=torch.bool)
    whole[row] = flags
    return whole


def _run_apart(
    model: "PreTrainedModel",
    layer: str | None,
    input_ids: "Tensor",
    mask: "Tensor",
    pieces: "list[Tensor]",
) -> "Tensor":
    """Run pieces of rows, in their order, each in a row of its own: [B, T] -> [B, T, d]."""
    rows = [input_ids[piece] for piece in pieces]
    if get_capabilities(model).right_padding:
        hidden = _run_padded(model, layer, rows)
    else:
        hidden = torch.cat([_run_padded(model, layer, [row]) for row in rows])
    return _scatter(hidden, mask)


def _run_padded(model: "PreTrainedModel", layer: str | None, rows: "list[Tensor]") -> "Tensor":
    """Run rows of ids, padded on the right; return the states [N, d] of their tokens."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    position_ids = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return _run_layers(model, layer, ids, mask, position_ids)[mask.bool()]


def _scatter(hidden: "Tensor", mask: "Tensor") -> "Tensor":
    """Put states of real tokens, in the order of rows, where the tokens are: [B, T, d]."""
    whole = hidden.new_zeros(*mask.shape, hidden.shape[-1])
    return whole.masked_scatter(mask.bool().unsqueeze(-1), hidden)


def _run_layers(
    model: "PreTrainedModel",
    layer: str | None,
    input_ids: "Tensor",
    attention_mask: "Tensor | None",
    position_ids: "Tensor",
) -> "Tensor":
    """Return what the head would get or, where the pass ends at a layer, what that gave: [B, T,
    d]."""
    causal = unwrap_model(model)
    library_args = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "use_cache": False,
    }
    if layer is None:
        hidden: Tensor = get_backbone(causal)(**library_args).last_hidden_state
        return hidden
    with stop_at_layer(causal, layer) as output:
        get_backbone(causal)(**library_args)
    assert output.hidden is not None
    return output.hidden
