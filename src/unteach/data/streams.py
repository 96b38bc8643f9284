"""Streams and steps: which rows an optimiser step sees, as a pure function of (seed, epoch, step).

The rows of a step are drawn first, then dealt to ranks and micro-batches; places left over are
filled with rows of weight zero. The anchor stream sets the epoch and is visited once in it; every
other stream runs through seeded permutations of its own, one after the other, without replacement.
How a step is dealt changes nothing it computes.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from unteach.config.schema import BESIDE
from unteach.data.collators import Collator
from unteach.data.examples import Example
from unteach.data.truncation import IGNORED
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.seeds import permutation

if TYPE_CHECKING:
    from torch import Tensor

Draw = tuple[int, int]
"""A row of a stream, and the epoch of that stream."""


class Batch(TypedDict):
    """One micro-batch over all streams: what `collate` builds, and every pass is made on.

    Attributes:
        input_ids, labels, attention_mask: padded rows; -100 where nothing is learned: [B, T].
        segment: which of its documents a token is of, where rows have several: [B, T].
        weight: of each row; 0: it only fills up; below 0: its loss is ascended: [B].
        number, epoch: of each row in its stream: [B].
        target: the number that a row has in place of a label: [B].
        rows: each stream's (start, stop) in the batch.
        shared: how one stream's rows of several answers are asked (models.forward.Shared).
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


@dataclass(frozen=True)
class Slot:
    """One place in a micro-batch: a row of a stream, and 0 as its weight where it only fills up."""

    stream: str
    row: int
    epoch: int
    weight: float


ALTERNATE = "alternate"
"""The stream of other answers to the rows of data.forget."""
ABSENT = {
    ALTERNATE: "another answer for each row of data.forget, and its dataset gives none; set "
    "data.forget=TOFU_QA_forget_idk, or a dataset of QAwithIdkDataset or QAwithAlternateDataset "
    "with return_original=true",
    "chosen": "a chosen and a rejected answer in each row of data.train, and its dataset gives "
    "none; take a dataset of "
    "PreferenceDataset",
    "mismatched": "rows of data.train that say whether their answer was liked, and its dataset has "
    "none; take a "
    "dataset of FeedbackDataset",
}
ABSENT["rejected"] = ABSENT["chosen"]
"""What a method needs that trains on a stream of schema.BESIDE, where the dataset's rows have no
such part."""


class Stream:
    """The examples of one or several datasets, one after the other.

    A stream of schema.BESIDE takes its own part of each row's example, every other stream the row's
    `original`.

    Args:
        name: the stream's.
        datasets: give examples by index; they may have `variant`, `place`, `is_tokenized` as those
            of data/handlers do.
        follows: the stream whose draws are its own too, so that the two stand in pairs.
    """

    def __init__(self, name: str, datasets: list[Any], follows: str | None = None):
        self.name = name
        self.datasets = datasets
        self.follows = follows
        self.locations: list[tuple[Any, int]] = []
        """(dataset, row of it) of each row"""
        for dataset in datasets:
            self.locations += [(dataset, row) for row in range(len(dataset))]
        if not self.locations:
            raise UserError(f"data.{name}: there are no rows")

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, row_index: int) -> Any:
        """Give a row as its dataset gives it."""
        dataset, row = self.locations[row_index]
        return dataset[row]

    def tokenized_rows(self) -> Sequence[int]:
        """List the rows that have their tokens already: all, unless a run is only looked at."""
        if all(getattr(dataset, "num_tokenized", None) is None for dataset in self.datasets):
            return range(len(self))
        tokenized = []
        for row_index, (dataset, row) in enumerate(self.locations):
            if not hasattr(dataset, "is_tokenized") or dataset.is_tokenized(row):
                tokenized.append(row_index)
        return tokenized

    def locate(self, row_index: int) -> str:
        """Say where a row stands: its line in its file, or its number from 1."""
        dataset, row = self.locations[row_index]
        return dataset.place(row) if hasattr(dataset, "place") else f"row {row + 1}"

    def example(self, row_index: int, epoch: int = 0) -> Example:
        """Give the example that is trained on of a row in an epoch."""
        dataset, row = self.locations[row_index]
        varies = hasattr(dataset, "variant")
        example = dataset.variant(row, epoch) if varies else dataset[row]
        if self.name in BESIDE:
            if self.name not in example:
                raise UserError(f"this method needs {ABSENT[self.name]}")
            return example[self.name]
        if "input_ids" not in example and "original" not in example:
            raise UserError(
                f"data.{self.name}: a row has several answers; training takes one (set answer_key)"
            )
        return example.get("original", example)

    def find_distinct(self, draws: list[Draw]) -> dict[Draw, Draw]:
        """Find, for each draw, the first one that has the same tokens.

        Epoch 0 stands for all where no row changes with the epoch.
        """
        varies = any(hasattr(dataset, "variant") for dataset in self.datasets)
        if not varies:
            draws = list({(row, 0) for row, _ in draws})
        first: dict[Any, Draw] = {}
        same: dict[Draw, Draw] = {}
        for draw in draws:
            example = self.example(*draw)
            tokens = (tuple(example["input_ids"]), tuple(example["labels"]))
            same[draw] = first.setdefault(tokens, draw)
        return same


class Steps:
    """The optimiser steps of a run.

    Args:
        streams: the streams by name.
        anchor: the stream whose length is an epoch.
        size: anchor rows of a step; every other stream gives as many.
        seed: the run's.
        packed: whether rows go through the model end to end, without padding.
    """

    def __init__(
        self, streams: dict[str, Stream], anchor: str, size: int, seed: int, packed: bool = False
    ):
        self.streams = streams
        self.anchor = anchor
        self.size = size
        self.seed = seed
        self.packed = packed
        # A step needs one order of each stream, or two where an epoch of it ends.
        self._order = lru_cache(maxsize=4 * len(streams))(self._permute)

    def __len__(self) -> int:
        """Steps in an epoch; the last one may be short."""
        return -(-len(self.streams[self.anchor]) // self.size)

    def _permute(self, stream: str, epoch: int) -> list[int]:
        return permutation(len(self.streams[stream]), self.seed, "data", stream, epoch)

    def draw(self, epoch: int, step: int) -> dict[str, list[Draw]]:
        """Draw the rows of one step, by stream."""
        num_anchor_rows = len(self.streams[self.anchor])
        positions = range(
            step * self.size,
            min((step + 1) * self.size, num_anchor_rows),
        )
        anchor_order = self._order(self.anchor, epoch)
        draws: dict[str, list[Draw]] = {}
        draws[self.anchor] = [(anchor_order[position], epoch) for position in positions]
        for name, stream in self.streams.items():
            if stream.follows:
                draws[name] = draws[stream.follows]
            elif name != self.anchor:
                # Another stream goes on through its own epochs from where the last step left it.
                draws[name] = []
                for position in positions:
                    num_before = epoch * num_anchor_rows + position
                    own_epoch, own_position = divmod(num_before, len(stream))
                    own_order = self._order(name, own_epoch)
                    draws[name].append((own_order[own_position], own_epoch))
        return draws

    def list_seen(self, num_steps: int) -> dict[str, list[Draw]]:
        """List the draws of the first `num_steps` steps, each once, by stream."""
        seen: dict[str, list[Draw]] = {name: [] for name in self.streams}
        for step in range(num_steps):
            epoch, step_of_epoch = divmod(step, len(self))
            for name, draws in self.draw(epoch, step_of_epoch).items():
                seen[name] += draws
        return {name: list(dict.fromkeys(draws)) for name, draws in seen.items()}

    def split_into_micro_batches(
        self, epoch: int, step: int, num_micro_batches: int
    ) -> list[list[Slot]]:
        """Deal a step's rows to micro-batches of equal size, filled up with rows of weight zero.

        Rows of near lengths come together, so that little is padded. Packed rows pad nothing: there
        each micro-batch gets about as many tokens as the others. Streams that stand in pairs are
        dealt as one.

        Returns:
            The slots of each micro-batch, stream by stream.
        """
        step_draws = self.draw(epoch, step)
        micro_batches: list[list[Slot]] = [[] for _ in range(num_micro_batches)]
        num_slots = self.size // num_micro_batches
        for name, draws in step_draws.items():
            if num_micro_batches == 1:
                order = list(range(len(draws)))
            else:
                order = self._sort_longest_first(name, step_draws)
            shares = partition(order, num_micro_batches, self.packed)
            for micro_batch, share in zip(micro_batches, shares, strict=True):
                # What fills up is the share's shortest row, or the step's where there is no share.
                row, row_epoch = draws[(share or order)[-1]]
                filler = Slot(name, row, row_epoch, 0.0)
                micro_batch += [Slot(name, *draws[k], 1.0) for k in share]
                micro_batch += [filler] * (num_slots - len(share))
        return micro_batches

    def _sort_longest_first(self, name: str, step_draws: dict[str, list[Draw]]) -> list[int]:
        """Sort the indices of a stream's draws in a step by length; of pairs, by the longer row."""
        leader = self.streams[name].follows or name
        paired_streams = []
        for other in step_draws:
            if leader in (other, self.streams[other].follows):
                paired_streams.append(self.streams[other])
        lengths = []
        for row, epoch in step_draws[leader]:
            examples = [stream.example(row, epoch) for stream in paired_streams]
            lengths.append(max(len(example["input_ids"]) for example in examples))
        return sorted(range(len(lengths)), key=lambda k: -lengths[k])


def partition(order: list[int], num_parts: int, even: bool) -> list[list[int]]:
    """Split items into parts whose sizes differ by one at most.

    Args:
        order: the items.
        num_parts: how many parts.
        even: deal the items to and fro, so that items sorted by length make parts of about the
            same total; otherwise each part is a stretch of its own.
    """
    parts: list[list[int]] = []
    if even:
        parts = [[] for _ in range(num_parts)]
        to_and_fro = [*range(num_parts), *reversed(range(num_parts))]
        for item, part_index in zip(order, itertools.cycle(to_and_fro), strict=False):
            parts[part_index].append(item)
        return parts

    size, num_longer = divmod(len(order), num_parts)
    start = 0
    for part_index in range(num_parts):
        stop = start + size + (part_index < num_longer)
        parts.append(order[start:stop])
        start = stop
    return parts


class MicroBatches:
    """A batch sampler: this rank's micro-batches of every step of an epoch, in order."""

    def __init__(self, steps: Steps, accumulation: int, rank: int = 0, world: int = 1):
        self.steps = steps
        self.accumulation = accumulation
        self.rank = rank
        self.world = world
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Slot]]:
        num_micro_batches = self.accumulation * self.world
        for step in range(len(self.steps)):
            micro_batches = self.steps.split_into_micro_batches(self.epoch, step, num_micro_batches)
            yield from micro_batches[self.rank :: self.world]


class SlotDataset:
    """What a DataLoader indexes: Slot -> (slot, example)."""

    def __init__(self, streams: dict[str, Stream], anchor: str):
        self.streams = streams
        self.anchor = anchor

    def __len__(self) -> int:
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
    batch["number"] = torch.tensor([slot.row for slot in slots])
    if any("target" in example for example in examples):
        batch["target"] = torch.tensor([example.get("target", 0.0) for example in examples])
    batch["epoch"] = torch.tensor([slot.epoch for slot in slots])

    rows: dict[str, tuple[int, int]] = {}
    for row, slot in enumerate(slots):
        start, _ = rows.get(slot.stream, (row, row))
        rows[slot.stream] = (start, row + 1)
    batch["rows"] = rows
    return batch


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
