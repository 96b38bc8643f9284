"""Steps: which rows an optimiser step sees, as a pure function of (seed, epoch, step).

The rows of a step are drawn first, then dealt to ranks and micro-batches; places left over are
filled with rows of weight zero. The anchor stream sets the epoch and is visited once in it; every
other stream runs through seeded permutations of its own, one after the other, without replacement.
How a step is dealt changes nothing it computes.
"""

import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from unteach.data.streams import Draw, Stream
from unteach.seeds import permutation


@dataclass(frozen=True)
class Slot:
    """One place in a micro-batch: a row of a stream, and 0 as its weight where it only fills up."""

    stream: str
    row: int
    epoch: int
    weight: float


@dataclass(frozen=True)
class Turns:
    """Two sides whose steps take turns: a step has rows of the streams of one side alone.

    Attributes:
        streams: of the side that begins; all others are of the other side.
        lengths: how many steps in a row each side has.
    """

    streams: tuple[str, ...]
    lengths: tuple[int, int]

    def find_side(self, stream: str) -> int:
        """Say of which side a stream is: 0 begins, 1 follows."""
        return 0 if stream in self.streams else 1

    def count_steps(self, num_anchor_steps: int, anchor_side: int) -> int:
        """Count the steps of an epoch in which the anchor's side has `num_anchor_steps`."""
        full, rest = divmod(num_anchor_steps, self.lengths[anchor_side])
        other = self.lengths[1 - anchor_side]
        return full * sum(self.lengths) + (rest + other if rest else 0)

    def locate(self, step: int, num_anchor_steps: int, anchor_side: int) -> tuple[int, int]:
        """Say whose a step of an epoch is, and how many steps that side had before it there."""
        full, rest = divmod(num_anchor_steps, self.lengths[anchor_side])
        cycle, place = divmod(step, sum(self.lengths))
        first, second = self.lengths
        num_first = rest if cycle == full and anchor_side == 0 else first
        if place < num_first:
            return 0, cycle * first + place
        return 1, cycle * second + place - num_first

    def count_side_steps(self, side: int, num_anchor_steps: int, anchor_side: int) -> int:
        """Count the steps that a side has in an epoch."""
        if side == anchor_side:
            return num_anchor_steps
        num_cycles = -(-num_anchor_steps // self.lengths[anchor_side])
        return num_cycles * self.lengths[side]


class Steps:
    """The optimiser steps of a run.

    Args:
        streams: the streams by name.
        anchor: the stream whose length is an epoch.
        size: anchor rows of a step; every other stream gives as many.
        seed: the run's.
        packed: whether rows go through the model end to end, without padding.
        turns: where steps of two sides take turns; None: every step has rows of all streams.
    """

    def __init__(
        self,
        streams: dict[str, Stream],
        anchor: str,
        size: int,
        seed: int,
        packed: bool = False,
        turns: Turns | None = None,
    ):
        self.streams = streams
        self.anchor = anchor
        self.size = size
        self.seed = seed
        self.packed = packed
        self.turns = turns
        # A step needs one order of each stream, or two where an epoch of it ends.
        self._order = lru_cache(maxsize=4 * len(streams))(self._permute)

    def __len__(self) -> int:
        """Steps in an epoch; the last one of the anchor may be short."""
        if self.turns is None:
            return self._num_anchor_steps
        anchor_side = self.turns.find_side(self.anchor)
        return self.turns.count_steps(self._num_anchor_steps, anchor_side)

    @property
    def _num_anchor_steps(self) -> int:
        """Steps of an epoch that have rows of the anchor."""
        return -(-len(self.streams[self.anchor]) // self.size)

    def _permute(self, stream: str, epoch: int) -> "array[int]":
        """Order the rows of a stream for one of its epochs."""
        num_rows = len(self.streams[stream])
        return array("q", permutation(num_rows, self.seed, "data", stream, epoch))

    def draw(self, epoch: int, step: int) -> dict[str, list[Draw]]:
        """Draw the rows of one step, by stream."""
        if self.turns is None:
            return self._draw_beside_anchor(epoch, step, self.streams)
        anchor_side = self.turns.find_side(self.anchor)
        side, num_before = self.turns.locate(step, self._num_anchor_steps, anchor_side)
        streams = {
            name: stream
            for name, stream in self.streams.items()
            if self.turns.find_side(name) == side
        }
        if side == anchor_side:
            return self._draw_beside_anchor(epoch, num_before, streams)
        num_in_epoch = self.turns.count_side_steps(side, self._num_anchor_steps, anchor_side)
        first = (epoch * num_in_epoch + num_before) * self.size
        return self._draw_from(range(first, first + self.size), streams)

    def _draw_beside_anchor(
        self, epoch: int, step: int, streams: dict[str, Stream]
    ) -> dict[str, list[Draw]]:
        """Draw the rows of a step of the anchor's, and as many of each other stream."""
        num_anchor_rows = len(self.streams[self.anchor])
        first = step * self.size
        positions = range(first, min(first + self.size, num_anchor_rows))
        anchor_order = self._order(self.anchor, epoch)
        draws = {self.anchor: [(anchor_order[position], epoch) for position in positions]}
        others = {name: stream for name, stream in streams.items() if name != self.anchor}
        # Another stream goes on through its own epochs from where the last step left it.
        before = epoch * num_anchor_rows
        num_drawn = range(before + positions.start, before + positions.stop)
        return self._draw_from(num_drawn, others, draws)

    def _draw_from(
        self,
        positions: range,
        streams: dict[str, Stream],
        drawn: dict[str, list[Draw]] | None = None,
    ) -> dict[str, list[Draw]]:
        """Draw the rows of streams that run through epochs of their own.

        Args:
            positions: how many rows were drawn of each before, one number for each that is drawn.
            drawn: of streams that others may follow.
        """
        draws = dict(drawn or {})
        for name, stream in streams.items():
            if stream.follows:
                draws[name] = draws[stream.follows]
                continue
            draws[name] = []
            for position in positions:
                own_epoch, own_position = divmod(position, len(stream))
                own_order = self._order(name, own_epoch)
                draws[name].append((own_order[own_position], own_epoch))
        return draws

    def list_seen(self, num_steps: int) -> dict[str, list[Draw]]:
        """List the draws of the first `num_steps` steps, each once, by stream."""
        seen: dict[str, list[Draw]] = {name: [] for name in self.streams}
        for step in range(num_steps):
            epoch, step_of_epoch = divmod(step, len(self))
            step_draws = self.draw(epoch, step_of_epoch)
            for name, draws in step_draws.items():
                seen[name] += draws
        for name, draws in seen.items():
            # A dictionary keeps the order and drops what comes again.
            seen[name] = list(dict.fromkeys(draws))
        return seen

    def split_into_micro_batches(
        self,
        epoch: int,
        step: int,
        num_micro_batches: int,
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
                shortest = share[-1] if share else order[-1]
                row, row_epoch = draws[shortest]
                filler = Slot(name, row, row_epoch, weight=0.0)
                for draw_index in share:
                    row, row_epoch = draws[draw_index]
                    micro_batch.append(Slot(name, row, row_epoch, weight=1.0))
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
            longer = max(len(example["input_ids"]) for example in examples)
            lengths.append(longer)
        return sorted(range(len(lengths)), key=lambda index: -lengths[index])


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
        part_indices = itertools.cycle(to_and_fro)
        for item, part_index in zip(order, part_indices, strict=False):
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

    def __init__(
        self,
        steps: Steps,
        accumulation: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.steps = steps
        self.accumulation = accumulation
        self.rank = rank
        self.world = world
        self.epoch = 0

    def __len__(self) -> int:
        """Micro-batches of this rank in an epoch."""
        return len(self.steps) * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration goes through."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Slot]]:
        num_micro_batches = self.accumulation * self.world
        for step in range(len(self.steps)):
            micro_batches = self.steps.split_into_micro_batches(
                self.epoch,
                step,
                num_micro_batches,
            )
            yield from micro_batches[self.rank :: self.world]
