"""How rows go through a model's layers: padded, end to end, or apart, as the model takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unteach.data.batches import Batch
from unteach.data.examples import SEGMENT
from unteach.errors import UserError
from unteach.lazy import F, torch
from unteach.models.capabilities import get_capabilities
from unteach.models.decoding import get_decoding, get_second, join_hidden_states
from unteach.models.layer_names import LAST, LayerAddress, ModuleAddress
from unteach.models.layers import get_backbone, unwrap_model
from unteach.models.module_outputs import record_outputs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


States = dict[str, "Tensor"]
"""What a pass gives, by the names of modules; `last` is what the head gets."""


@dataclass(frozen=True)
class Pass:
    """One pass over some streams of a batch.

    Attributes:
        streams: whose rows go through it.
        modules: whose outputs it yields.
        end: the last layer that is run; None: all are, and `last` is yielded too.
        packed: the rows go through the layers end to end, without padding.
    """

    streams: Sequence[str]
    modules: Sequence[ModuleAddress]
    end: LayerAddress | None
    packed: bool


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
    model: "PreTrainedModel", batch: Batch, plan: Pass
) -> "dict[str, States]":
    """Compute the hidden states [B, T, d] of some streams of a batch, by stream and module.

    They share one pass; rows that cannot, by what was found of the model, have passes of their own.
    Of a model with a decoding they are those of both models, side by side, as its head takes them.
    """
    states = _compute_of_one(model, batch, plan)
    if get_decoding(model) is None:
        return states
    if plan.modules or plan.end is not None:
        raise UserError(
            "hidden states inside are asked of a model that forgets in its decoding: it is two "
            "models, whose logits alone are combined. Ask the folder base/, or the other one, "
            "inside its own"
        )
    second = _compute_of_one(get_second(model), batch, plan)
    joined: dict[str, States] = {}
    for stream in plan.streams:
        last = join_hidden_states(states[stream][LAST], second[stream][LAST])
        joined[stream] = {LAST: last}
    return joined


def _compute_of_one(model: "PreTrainedModel", batch: Batch, plan: Pass) -> "dict[str, States]":
    """Do the same of one model alone."""
    slices = [slice(*batch["rows"][stream]) for stream in plan.streams]
    input_ids = torch.cat([batch["input_ids"][rows] for rows in slices])
    mask = torch.cat([batch["attention_mask"][rows] for rows in slices])
    segment = None
    if SEGMENT in batch:
        segment = torch.cat([batch[SEGMENT][rows] for rows in slices])
    shared: SharedRows | None = batch.get("shared")

    pieces = None if shared else _find_pieces(model, mask, segment)
    if shared:
        states = _run_layers(model, plan, input_ids, shared.sees, shared.position_ids)
    elif pieces is not None:
        states = _run_apart(model, plan, input_ids, mask, pieces)
    else:
        states = _run_together(model, plan, input_ids, mask, segment)

    sizes = [rows.stop - rows.start for rows in slices]
    by_stream: dict[str, States] = {stream: {} for stream in plan.streams}
    for name, hidden in states.items():
        for stream, part in zip(plan.streams, hidden.split(sizes), strict=True):
            by_stream[stream][name] = part
    return by_stream


def _run_together(
    model: "PreTrainedModel",
    plan: Pass,
    input_ids: "Tensor",
    mask: "Tensor",
    segment: "Tensor | None",
) -> States:
    """Run all rows in one pass: [B, T] -> [B, T, d]."""
    packed = plan.packed
    position_ids = _count_positions(mask, segment)
    attention_mask: Tensor | None = mask
    if segment is not None:
        # Without a mask the library keeps documents apart where positions begin again;
        # FlashAttention does so in a batch of one row only.
        attention_mask = None
        packed = packed or "flash" in str(unwrap_model(model).config._attn_implementation)
    if not packed:
        return _run_layers(model, plan, input_ids, attention_mask, position_ids)
    is_real = mask.bool()
    states = _run_layers(model, plan, input_ids[is_real][None], None, position_ids[is_real][None])
    return _scatter(states, mask)


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
    plan: Pass,
    input_ids: "Tensor",
    mask: "Tensor",
    pieces: "list[Tensor]",
) -> States:
    """Run pieces of rows, in their order, each in a row of its own: [B, T] -> [B, T, d]."""
    rows = [input_ids[piece] for piece in pieces]
    if get_capabilities(model).right_padding:
        return _scatter(_run_padded(model, plan, rows), mask)
    states_of_rows = [_run_padded(model, plan, [row]) for row in rows]
    joined: States = {}
    for name in states_of_rows[0]:
        joined[name] = torch.cat([states[name] for states in states_of_rows])
    return _scatter(joined, mask)


def _run_padded(model: "PreTrainedModel", plan: Pass, rows: "list[Tensor]") -> States:
    """Run rows of ids, padded on the right; return the states [N, d] of their tokens."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    position_ids = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    states = _run_layers(model, plan, ids, mask, position_ids)
    return {name: hidden[mask.bool()] for name, hidden in states.items()}


def _scatter(states: States, mask: "Tensor") -> States:
    """Put states of real tokens, in the order of rows, where the tokens are: [B, T, d]."""
    scattered: States = {}
    for name, hidden in states.items():
        whole = hidden.new_zeros(*mask.shape, hidden.shape[-1])
        scattered[name] = whole.masked_scatter(mask.bool().unsqueeze(-1), hidden)
    return scattered


def _run_layers(
    model: "PreTrainedModel",
    plan: Pass,
    input_ids: "Tensor",
    attention_mask: "Tensor | None",
    position_ids: "Tensor",
) -> States:
    """Run the layers of a pass; return what its modules gave and, where it runs through all layers,
    what the head would get: [B, T, d]."""
    causal = unwrap_model(model)
    library_args = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "use_cache": False,
    }
    with record_outputs(causal, plan.modules, plan.end) as outputs:
        last = get_backbone(causal)(**library_args).last_hidden_state
    if plan.end is None:
        outputs.states[LAST] = last
    return outputs.states
