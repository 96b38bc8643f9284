"""Micro-batches: the examples of a step's slots as padded tensors, over all streams."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from unteach.data.collators import Collator
from unteach.data.examples import Example
from unteach.data.steps import Slot
from unteach.data.streams import Draw, Stream
from unteach.data.truncation import IGNORED
from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Batch(TypedDict):
    """One micro-batch over all streams: what `collate` builds, and every pass is made on.

    Attributes:
        input_ids, labels, attention_mask: padded rows; -100 where nothing is learned: [B, T].
        segment: which of its documents a token is of, where rows have several: [B, T].
        weight: of each row; 0: it only fills up; below 0: its loss is ascended: [B].
        number, epoch: of each row in its stream: [B].
        target: the number that a row has in place of a label: [B].
        rows: each stream's (start, stop) in the batch.
        shared: models.hidden_states.SharedRows, where one stream has rows of several answers.
    """

    input_ids: "Tensor"
    labels: "Tensor"
    attention_mask: "Tensor"
    segment: "NotRequired[Tensor]"
    weight: "Tensor"
    number: "Tensor"
    epoch: "Tensor"
    target: "NotRequired[Tensor]"
    rows: dict[str, tuple[int, int]]
    shared: NotRequired[Any]


class SlotDataset:
    """What a DataLoader indexes: Slot -> (slot, example)."""

    def __init__(self, streams: dict[str, Stream], anchor: str):
        self.streams = streams
        self.anchor = anchor

    def __len__(self) -> int:
        """Rows of the anchor stream."""
        return len(self.streams[self.anchor])

    def __getitem__(self, slot: Slot) -> tuple[Slot, Example]:
        stream = self.streams[slot.stream]
        return slot, stream.example(slot.row, slot.epoch)


def collate(items: list[tuple[Slot, Example]], collator: Collator) -> Batch:
    """Build one micro-batch over all streams.

    Rows of weight zero keep their tokens and lose their labels, so that they count nowhere.

    Args:
        items: the slots with their examples, stream by stream. An example's own `weight` (-1: its
            loss is ascended) is its row's, and so is its `target`, a number in place of labels.
        collator: pads the examples.

    Returns:
        The collator's tensors [B, T] and, of each row [B], its `weight`, `number` and `epoch`
        (`target` where an example has one); `rows`: each stream's (start, stop) in the batch.
    """
    slots = [slot for slot, _ in items]
    examples = [example for _, example in items]
    batch = cast(Batch, collator(examples))

    weights = []
    for slot, example in items:
        weights.append(slot.weight * example.get("weight", 1.0))
    weight = torch.tensor(weights)
    is_filler = (weight == 0).unsqueeze(-1)
    batch["labels"] = batch["labels"].masked_fill(is_filler, IGNORED)
    batch["weight"] = weight
    row_indices = [slot.row for slot in slots]
    batch["number"] = torch.tensor(row_indices)
    if any("target" in example for example in examples):
        targets = [example.get("target", 0.0) for example in examples]
        batch["target"] = torch.tensor(targets)
    epochs = [slot.epoch for slot in slots]
    batch["epoch"] = torch.tensor(epochs)

    rows: dict[str, tuple[int, int]] = {}
    for row, slot in enumerate(slots):
        start, _ = rows.get(slot.stream, (row, row))
        rows[slot.stream] = (start, row + 1)
    batch["rows"] = rows
    return batch


def select_streams(batch: Batch, streams: Sequence[str]) -> Batch:
    """Select the rows of some streams, without the columns in which all of them are padded.

    Rows keep their order.
    """
    slices = [slice(*batch["rows"][stream]) for stream in streams]
    mask = torch.cat([batch["attention_mask"][rows] for rows in slices])
    used = mask.bool().any(0).nonzero().flatten().tolist() or [0]
    columns = slice(used[0], used[-1] + 1)

    selected: dict[str, Any] = {}
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor):
            selected[name] = value
            continue
        chosen = torch.cat([value[rows] for rows in slices])
        selected[name] = chosen[:, columns] if chosen.ndim > 1 else chosen

    rows_by_stream: dict[str, tuple[int, int]] = {}
    start = 0
    for stream, rows in zip(streams, slices, strict=True):
        rows_by_stream[stream] = (start, start + rows.stop - rows.start)
        start = rows_by_stream[stream][1]
    selected["rows"] = rows_by_stream
    return cast(Batch, selected)


def move_to_device(batch: Batch, device: "torch.device") -> Batch:
    """Move the tensors of a batch to a device, and leave its other values as they are."""
    moved: dict[str, Any] = {}
    for name, value in batch.items():
        moved[name] = value.to(device) if hasattr(value, "to") else value
    return cast(Batch, moved)


def iterate_batches(
    stream: Stream,
    draws: list[Draw],
    size: int,
    collator: Collator,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Iterate over rows of a stream sorted by length, for passes that compute a table.

    Each rank gets its share, and as many batches as the others: where weights are sharded, all must
    make each pass.

    Args:
        stream: the stream.
        draws: the rows.
        size: rows of a batch.
        collator: pads the examples.
        rank: this process.
        world: how many processes share the rows.
    """

    def count_tokens(draw: Draw) -> int:
        return len(stream.example(*draw)["input_ids"])

    order = sorted(draws, key=count_tokens)
    starts = range(0, len(order), size)
    batches = [order[start : start + size] for start in starts]
    num_missing = -len(batches) % world
    batches += batches[:1] * num_missing
    for batch in batches[rank::world]:
        items = []
        for row, epoch in batch:
            slot = Slot(stream.name, row, epoch, weight=1.0)
            items.append((slot, stream.example(row, epoch)))
        yield collate(items, collator)
