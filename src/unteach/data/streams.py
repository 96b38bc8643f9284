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
from typing import Any

from unteach.config.schema import BESIDE, PARTS
from unteach.data.handlers.qa import Example
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.seeds import permutation


@dataclass(frozen=True)
class Slot:
    """One place in a micro-batch: a row of a stream, and 0 as its weight where it only fills up."""

    stream: str
    row: int
    epoch: int
    weight: float


ALTERNATE = "alternate"
"""The stream of other answers to the rows of data.forget."""
RETAIN_ALTERNATE = "retain_alternate"
"""The stream of other answers to the rows of data.retain."""
ABSENT = {
    RETAIN_ALTERNATE: "another answer for each row of data.retain, and its dataset gives none; set "
    "data.retain=TOFU_QA_retain_idk, or a dataset of QAwithIdkDataset or QAwithAlternateDataset "
    "with return_original=true",
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
    follows: the stream whose draws are its own too, so that the two stand in pairs.
    """

    def __init__(self, name: str, parts: list[Any], follows: str | None = None):
        self.name, self.parts, self.follows = name, parts, follows
        self.where = [(part, row) for part in parts for row in range(len(part))]
        if not self.where:
            raise UserError(f"data.{name}: there are no rows")

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, number: int) -> Any:
        """A row as its dataset gives it."""
        part, row = self.where[number]
        return part[row]

    def tokenized_rows(self) -> Sequence[int]:
        """The rows whose tokens are known without tokenising any more: all, but where a run is only
        looked at."""
        if all(getattr(part, "num_tokenized", None) is None for part in self.parts):
            return range(len(self))
        return [
            number
            for number, (part, row) in enumerate(self.where)
            if not hasattr(part, "is_tokenized") or part.is_tokenized(row)
        ]

    def place(self, number: int) -> str:
        """Where a row stands: its line in its file, or its number from 1 where it has no line."""
        part, row = self.where[number]
        return part.place(row) if hasattr(part, "place") else f"row {row + 1}"

    def example(self, number: int, epoch: int = 0) -> Example:
        part, row = self.where[number]
        example = part.variant(row, epoch) if hasattr(part, "variant") else part[row]
        if self.name in BESIDE:
            part_name = PARTS.get(self.name, self.name)
            if part_name not in example:
                raise UserError(f"this method needs {ABSENT[self.name]}")
            return example[part_name]
        if "input_ids" not in example and "original" not in example:
            raise UserError(
                f"data.{self.name}: a row has several answers; training takes one (set answer_key)"
            )
        return example.get("original", example)

    def distinct(self, draws: list[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
        """For each (row, epoch), the first one that has the same tokens; epoch 0 alone where no row
        changes with it."""
        varies = any(hasattr(part, "variant") for part in self.parts)
        first: dict[Any, tuple[int, int]] = {}
        same = {}
        for row, epoch in draws if varies else {(row, 0) for row, _ in draws}:
            example = self.example(row, epoch)
            tokens = (tuple(example["input_ids"]), tuple(example["labels"]))
            same[row, epoch] = first.setdefault(tokens, (row, epoch))
        return same


class Steps:
    """The optimiser steps of a run: `size` anchor rows a step, and as many of every other stream.

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
        self._order = lru_cache(maxsize=4 * len(streams))(self._permutation)

    def __len__(self) -> int:
        """Steps in an epoch; the last one may be short."""
        return -(-len(self.streams[self.anchor]) // self.size)

    def _permutation(self, stream: str, epoch: int) -> list[int]:
        return permutation(len(self.streams[stream]), self.seed, "data", stream, epoch)

    def draw(self, epoch: int, step: int) -> dict[str, list[tuple[int, int]]]:
        """The (row, epoch of that stream) pairs of one step, a stream."""
        length = len(self.streams[self.anchor])
        first, last = step * self.size, min((step + 1) * self.size, length)
        drawn = {
            self.anchor: [(self._order(self.anchor, epoch)[i], epoch) for i in range(first, last)]
        }
        for name, stream in self.streams.items():
            if stream.follows:
                drawn[name] = drawn[stream.follows]
            elif name != self.anchor:
                places = [divmod(epoch * length + i, len(stream)) for i in range(first, last)]
                drawn[name] = [(self._order(name, cycle)[i], cycle) for cycle, i in places]
        return drawn

    def seen(self, count: int) -> dict[str, list[tuple[int, int]]]:
        """The (row, epoch of that stream) pairs of the first `count` steps, each once, a stream."""
        found: dict[str, dict[tuple[int, int], None]] = {name: {} for name in self.streams}
        for step in range(count):
            for name, rows in self.draw(*divmod(step, len(self))).items():
                found[name].update(dict.fromkeys(rows))
        return {name: list(rows) for name, rows in found.items()}

    def split_into_micro_batches(
        self, epoch: int, step: int, num_micro_batches: int
    ) -> list[list[Slot]]:
        """Deal a step's rows to micro-batches of equal size, filled up with rows of weight zero.

        Rows of near lengths come together, so that little is padded. Packed rows pad nothing: there
        each micro-batch gets about as many tokens as the others. Streams that stand in pairs are
        dealt as one.
        """
        drawn = self.draw(epoch, step)
        dealt: list[list[Slot]] = [[] for _ in range(num_micro_batches)]
        for name, rows in drawn.items():
            order = (
                self._longest_first(name, drawn)
                if num_micro_batches > 1
                else list(range(len(rows)))
            )
            for hand, places in zip(
                dealt, partition(order, num_micro_batches, self.packed), strict=True
            ):
                filler = Slot(name, *rows[(places or order)[-1]], 0.0)
                hand += [Slot(name, *rows[place], 1.0) for place in places]
                hand += [filler] * (self.size // num_micro_batches - len(places))
        return dealt

    def _longest_first(self, name: str, drawn: dict[str, list[tuple[int, int]]]) -> list[int]:
        """The places of a stream's rows in a step by their length; of pairs, by that of the
        longer."""
        leader = self.streams[name].follows or name
        pairs = [
            self.streams[other] for other in drawn if leader in (other, self.streams[other].follows)
        ]
        lengths = [
            max(len(stream.example(*row)["input_ids"]) for stream in pairs) for row in drawn[leader]
        ]
        return sorted(range(len(lengths)), key=lambda place: -lengths[place])


def partition(order: list[int], num_micro_batches: int, even: bool) -> list[list[int]]:
    """Items in order to hands, whose counts differ by one at most: each a stretch of its own, or to
    and fro."""
    if even:
        there_and_back = [*range(num_micro_batches), *reversed(range(num_micro_batches))]
        return [
            [
                item
                for place, item in enumerate(order)
                if there_and_back[place % (2 * num_micro_batches)] == hand
            ]
            for hand in range(num_micro_batches)
        ]
    ends = [
        len(order) // num_micro_batches * hand + min(hand, len(order) % num_micro_batches)
        for hand in range(num_micro_batches + 1)
    ]
    return [order[start:end] for start, end in itertools.pairwise(ends)]


class MicroBatches:
    """A batch sampler: this rank's micro-batches of every step of an epoch, in order."""

    def __init__(self, steps: Steps, accumulation: int, rank: int = 0, world: int = 1):
        self.steps, self.accumulation, self.rank, self.world = steps, accumulation, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Slot]]:
        for step in range(len(self.steps)):
            micro_batches = self.steps.split_into_micro_batches(
                self.epoch, step, self.accumulation * self.world
            )
            yield from micro_batches[self.rank :: self.world]


class Rows:
    """What a DataLoader indexes: Slot -> (slot, example)."""

    def __init__(self, streams: dict[str, Stream], anchor: str):
        self.streams, self.anchor = streams, anchor

    def __len__(self) -> int:
        return len(self.streams[self.anchor])

    def __getitem__(self, slot: Slot) -> tuple[Slot, Example]:
        return slot, self.streams[slot.stream].example(slot.row, slot.epoch)


def collate(items: list[tuple[Slot, Example]], collator: Any) -> dict[str, Any]:
    """One micro-batch over all streams: padded tensors, each row's weight, number and epoch, and
    `rows`, each stream's slice.

    Rows of weight zero keep their tokens and lose their labels, so that they count nowhere. An
    example's own weight (-1: its loss is ascended) is its row's, and so is a target, a number that
    stands for a label.
    """
    batch = collator([example for _, example in items])
    weight = torch.tensor([slot.weight * example.get("weight", 1.0) for slot, example in items])
    batch["labels"] = batch["labels"].masked_fill((weight == 0).unsqueeze(-1), -100)
    batch["weight"], batch["number"] = weight, torch.tensor([slot.row for slot, _ in items])
    if any("target" in example for _, example in items):
        batch["target"] = torch.tensor([example.get("target", 0.0) for _, example in items])
    batch["epoch"] = torch.tensor([slot.epoch for slot, _ in items])
    names = [slot.stream for slot, _ in items]
    batch["rows"] = {
        name: (names.index(name), names.index(name) + names.count(name))
        for name in dict.fromkeys(names)
    }
    return batch


def in_batches(
    stream: Stream,
    draws: list[tuple[int, int]],
    size: int,
    collator: Any,
    rank: int = 0,
    world: int = 1,
) -> Iterator[dict[str, Any]]:
    """The rows (row, epoch) of a stream, sorted by length: for passes that compute a table. Ranks
    share them out, and get as many batches each: where weights are sharded, all must make each
    pass."""
    order = sorted(draws, key=lambda draw: len(stream.example(*draw)["input_ids"]))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    batches += batches[:1] * (-len(batches) % world)
    for batch in batches[rank::world]:
        yield collate(
            [(Slot(stream.name, *draw, 1.0), stream.example(*draw)) for draw in batch], collator
        )
