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
from unteach.data.batches import Batch, iterate_batches, move_to_device
from unteach.data.collators import Collator
from unteach.data.streams import Stream
from unteach.lazy import safetensors_torch, torch
from unteach.models.adapters import BasePolicy
from unteach.models.forward import (
    OutputSpec,
    TokenOutputs,
    build_token_outputs,
    index_in_row,
)
from unteach.models.layers import drop_layers_above, unwrap_model
from unteach.models.lm_head import head_logits
from unteach.models.positions import find_positions

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


ReferenceSpecs = dict[str, Literal["logprobs"] | OutputSpec]
"""What a method compares with, by stream: answer log-probs, or what a pass of the frozen model
should yield."""
RowDraw = tuple[int, int]
"""(row, epoch): a row's answer may be another in every epoch."""


@dataclass
class ReferenceLogits:
    """The reference's side of a batch for one stream: last hidden states, and the head that reads
    them."""

    hidden: "Tensor"  # [N, d]
    model: "PreTrainedModel | BasePolicy"

    def logits(self, hidden: "Tensor") -> "Tensor":
        """Compute the reference's logits for some of its hidden states: [n, d] -> [n, V] in fp32,
        without a gradient."""
        head: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(self.model, BasePolicy):
            head = self.model.base_head()
        with torch.no_grad(), head:
            return head_logits(self.model, hidden).float()


class LogprobTable:
    """Answer log-probs of a stream's rows.

    Where a stream's answers are the same in every epoch there is one epoch in the table, and it
    stands for all.

    Attributes:
        values: the log-probs of all rows one after the other.
        starts: [epochs, rows], where those of each row begin in each epoch.
    """

    def __init__(self, values: "Tensor", starts: "Tensor"):
        self.values = values
        self.starts = starts

    @classmethod
    def from_draws(
        cls, logprobs: "dict[RowDraw, Tensor]", same: dict[RowDraw, RowDraw], num_rows: int
    ) -> "LogprobTable":
        """Lay the log-probs of draws one after the other.

        Args:
            logprobs: of each draw that was scored.
            same: for every draw, the scored one that equals it.
        """
        offsets = {}
        length = 0
        for draw, values in logprobs.items():
            offsets[draw] = length
            length += len(values)
        num_epochs = 1 + max(epoch for _, epoch in same)
        starts = torch.full((num_epochs, num_rows), length)
        for (row, epoch), draw in same.items():
            starts[epoch, row] = offsets[draw]
        return cls(torch.cat(list(logprobs.values())), starts)

    def look_up(self, batch: Batch, stream: str) -> TokenOutputs:
        """Return the table's entries for the answer tokens of a batch, in the order in which a pass
        would give them."""
        row, _, label = find_positions(batch, stream, "answer")
        start, stop = batch["rows"][stream]
        number = batch["number"][start:stop]
        epoch = batch["epoch"][start:stop] if len(self.starts) > 1 else 0
        first = self.starts.to(row.device)[epoch, number]  # [B]
        values = self.values.to(row.device)[first[row] + index_in_row(row)]  # [N]
        return build_token_outputs(batch, stream, values, label, row)

    def save(self, path: Path) -> None:
        with atomic_write(path) as temporary:
            safetensors_torch.save_file({"values": self.values, "starts": self.starts}, temporary)

    @classmethod
    def load(cls, path: Path) -> "LogprobTable":
        tensors = safetensors_torch.load_file(path)
        return cls(tensors["values"], tensors["starts"])


def compute_table(
    model: "PreTrainedModel",
    stream: Stream,
    draws: list[RowDraw],
    collator: Collator,
    size: int,
    rank: int = 0,
    world: int = 1,
    gather: Callable[[Any], Any] | None = None,
    device: "torch.device | None" = None,
) -> LogprobTable:
    """Score each distinct draw of a stream once: no gradients, no dropout.

    Args:
        size: rows of a batch.
        rank: this process takes its share.
        gather: collects the (draw, log-probs) pairs of all processes.
        device: where a batch is put, if not where the weights are.
    """
    same = stream.find_distinct(draws)
    scored: list[tuple[RowDraw, Tensor]] = []
    device = device or next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in iterate_batches(
            stream, sorted(set(same.values())), size, collator, rank, world
        ):
            batch_draws = zip(batch["number"].tolist(), batch["epoch"].tolist(), strict=True)
            moved = move_to_device(batch, device)
            outputs = model(batch=moved, want={stream.name: OutputSpec()})[stream.name]
            for i, draw in enumerate(batch_draws):
                scored.append((draw, outputs.value[outputs.row == i].float().cpu()))
    model.train(was_training)
    if gather:
        scored = gather(scored)
    return LogprobTable.from_draws(dict(scored), same, len(stream))


def needs_copy(specs: ReferenceSpecs) -> bool:
    """Say whether a frozen copy of the model must be held."""
    return any(spec != "logprobs" for spec in specs.values())


def drop_unused_layers(frozen: "PreTrainedModel", specs: ReferenceSpecs) -> "PreTrainedModel":
    """Take away from the frozen copy what none of its passes will run; return it."""
    ends: list[str] = []
    for spec in specs.values():
        if isinstance(spec, OutputSpec):
            if not spec.ends():
                return frozen
            ends += spec.ends()
    drop_layers_above(unwrap_model(frozen), ends)
    return frozen


class Reference:
    """Yields, for each batch, what a method's `reference()` declares: tables and at most one frozen
    model."""

    def __init__(
        self,
        specs: ReferenceSpecs,
        tables: dict[str, LogprobTable] | None = None,
        frozen: "PreTrainedModel | BasePolicy | None" = None,
    ):
        self.tables = tables or {}
        self.frozen = frozen
        self.wants: dict[str, OutputSpec] = {}
        for stream, spec in specs.items():
            if isinstance(spec, OutputSpec):
                self.wants[stream] = spec

    def compute(self, batch: Batch) -> dict[str, Any]:
        """Return the reference's side of a batch, for each of its streams that has one.

        It is TokenOutputs of log-probs or of hidden states at layers, or ReferenceLogits.
        """
        results: dict[str, Any] = {}
        for stream, table in self.tables.items():
            if stream in batch["rows"]:
                results[stream] = table.look_up(batch, stream)
        wants = {stream: spec for stream, spec in self.wants.items() if stream in batch["rows"]}
        if not wants:
            return results
        assert self.frozen is not None
        with torch.no_grad():
            outputs = self.frozen(batch=batch, want=wants)
        for stream, spec in wants.items():
            if spec.ends():
                results[stream] = outputs[stream]
            else:
                results[stream] = ReferenceLogits(outputs[stream].value, self.frozen)
        return results
