"""The reference: the frozen policy that a method compares with, in the cheapest form that is exact.

Answer log-probs are computed once, before the first step, with the policy itself, and kept in a
table: no second model is held. Logits need a frozen copy, which gives its last hidden states; its
head makes the logits chunk by chunk. Hidden states at a layer need a frozen copy up to that layer.
Where an adapter trains, the model without it is that copy.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unteach.atomic import atomic_write
from unteach.data.streams import Batch, Stream, iterate_batches, move_to_device
from unteach.lazy import torch
from unteach.models.adapters import BasePolicy
from unteach.models.forward import (
    OutputSpec,
    TokenOutputs,
    build_token_outputs,
    find_positions,
    index_in_row,
)
from unteach.models.layers import cut_above, unwrap_model
from unteach.models.lm_head import head_logits

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


ReferenceSpecs = dict[str, Literal["logprobs"] | OutputSpec]
"""What a method compares with, a stream: answer log-probs, or what a pass of the frozen model
should yield."""
RowDraw = tuple[int, int]
"""(row, epoch): a row's answer may be another in every epoch."""


@dataclass
class ReferenceLogits:
    """The reference's side of a batch for one stream: last hidden states [N, d], and the head that
    reads them."""

    hidden: "Tensor"
    model: Any

    def logits(self, hidden: "Tensor") -> "Tensor":
        """The reference's logits for some of its hidden states: [n, d] -> [n, V] in fp32, no
        gradient."""
        reading = (
            self.model.base_head()
            if isinstance(self.model, BasePolicy)
            else contextlib.nullcontext()
        )
        with torch.no_grad(), reading:
            return head_logits(self.model, hidden).float()


class LogprobTable:
    """Answer log-probs of a stream's rows, flat, with where each row starts in each epoch: [epochs,
    rows].

    Where a stream's answers are the same in every epoch there is one epoch in the table, and it
    stands for all.
    """

    def __init__(self, values: "Tensor", starts: "Tensor"):
        self.values, self.starts = values, starts

    @classmethod
    def from_draws(
        cls, found: "dict[RowDraw, Tensor]", same: dict[RowDraw, RowDraw], size: int
    ) -> "LogprobTable":
        """found: the log-probs of each draw that was scored; same: for every draw, the scored one
        that equals it."""
        places, length = {}, 0
        for draw, values in found.items():
            places[draw] = length
            length += len(values)
        starts = torch.full((1 + max(epoch for _, epoch in same), size), length)
        for (row, epoch), draw in same.items():
            starts[epoch, row] = places[draw]
        return cls(torch.cat(list(found.values())), starts)

    def look_up(self, batch: Batch, stream: str) -> TokenOutputs:
        """The table's entries for the answer tokens of a batch, in the order in which a pass would
        give them."""
        row, _, label = find_positions(batch, stream, "answer")
        start, stop = batch["rows"][stream]
        number = batch["number"][start:stop]
        epoch = batch["epoch"][start:stop]
        starts = self.starts.to(row.device)
        first = starts[epoch if len(starts) > 1 else 0, number]
        return build_token_outputs(
            batch, stream, self.values.to(row.device)[first[row] + index_in_row(row)], label, row
        )

    def save(self, path: Path) -> None:
        from safetensors.torch import save_file

        with atomic_write(path) as temporary:
            save_file({"values": self.values, "starts": self.starts}, temporary)

    @classmethod
    def load(cls, path: Path) -> "LogprobTable":
        from safetensors.torch import load_file

        kept = load_file(path)
        return cls(kept["values"], kept["starts"])


def compute_table(
    model: Any,
    stream: Stream,
    draws: list[RowDraw],
    collator: Any,
    size: int,
    rank: int = 0,
    world: int = 1,
    gather: Callable[[Any], Any] | None = None,
    device: Any = None,
) -> LogprobTable:
    """Scores each distinct draw of a stream once, in batches of `size`: no gradients, no dropout.

    This process takes its share; `gather` collects the (draw, log-probs) pairs of all. device:
    where a batch is put, if not where the weights are.
    """
    same = stream.find_distinct(draws)
    pairs: list[tuple[RowDraw, Tensor]] = []
    was_training, device = model.training, device or next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        for batch in iterate_batches(
            stream, sorted(set(same.values())), size, collator, rank, world
        ):
            scored = list(zip(batch["number"].tolist(), batch["epoch"].tolist(), strict=True))
            moved = move_to_device(batch, device)
            found = model(batch=moved, want={stream.name: OutputSpec()})[stream.name]
            pairs += [
                (draw, found.value[found.row == i].float().cpu()) for i, draw in enumerate(scored)
            ]
    model.train(was_training)
    return LogprobTable.from_draws(dict(gather(pairs) if gather else pairs), same, len(stream))


def needs_copy(needed: ReferenceSpecs) -> bool:
    """Whether a frozen copy of the model must be held."""
    return any(kind != "logprobs" for kind in needed.values())


def drop_unused_layers(frozen: "PreTrainedModel", needed: ReferenceSpecs) -> Any:
    """The frozen copy without what none of its passes will run."""
    ends = [kind.layer for kind in needed.values() if isinstance(kind, OutputSpec)]
    if all(ends):
        cut_above(unwrap_model(frozen), ends)
    return frozen


class Reference:
    """Answers, for each batch, what a method's `reference()` declares: tables and at most one
    frozen model."""

    def __init__(
        self,
        needed: ReferenceSpecs,
        tables: dict[str, LogprobTable] | None = None,
        frozen: Any = None,
    ):
        self.tables, self.frozen = tables or {}, frozen
        self.wants = {
            stream: kind for stream, kind in needed.items() if isinstance(kind, OutputSpec)
        }

    def compute(self, batch: Batch) -> dict[str, Any]:
        """Give the reference's side of a batch by stream: log-probs or hidden states as
        TokenOutputs, or ReferenceLogits."""
        found: dict[str, Any] = {
            stream: table.look_up(batch, stream) for stream, table in self.tables.items()
        }
        if self.wants:
            with torch.no_grad():
                answers = self.frozen(batch=batch, want=self.wants)
            for stream, want in self.wants.items():
                found[stream] = (
                    answers[stream]
                    if want.layer
                    else ReferenceLogits(answers[stream].value, self.frozen)
                )
        return found
