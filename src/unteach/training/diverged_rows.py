"""Which rows made a step's gradient infinite, or no number."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class MicroBatchRecord:
    """What names the rows of a micro-batch, should its gradient turn out not to be finite.

    Attributes:
        row_indices: the row of its stream that each row of the batch is.  # [B]
        slices: where each stream's rows are in the batch.
        loss: its share of the step's loss.
        shares: its share of each term, by logged name.
    """

    row_indices: "Tensor"
    slices: dict[str, tuple[int, int]]
    loss: "Tensor"
    shares: "dict[str, Tensor]"


def find_diverged_rows(records: list[MicroBatchRecord]) -> dict[str, list[int]]:
    """Find the rows of each stream in the micro-batches of this step whose loss is not finite.

    Losses are looked at only now: to look at each as it comes would make a GPU wait for it.
    """
    rows_by_stream: dict[str, list[int]] = {}
    for record in records:
        if torch.isfinite(record.loss):
            continue
        for stream, (start, stop) in record.slices.items():
            # A stream without a term of its own name may be part of any.
            share = record.shares.get(f"{stream}_loss", record.loss)
            if not torch.isfinite(share):
                rows = rows_by_stream.setdefault(stream, [])
                rows.extend(record.row_indices[start:stop].tolist())
    return rows_by_stream
