"""Requests in batches through a model of this process, whatever the model is."""

from array import array
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

from unteach.config.inference import Sampling
from unteach.data.packed_list import PackedList
from unteach.engines.batching import Batch, BatchPlanner, BatchRunner, Row, Work, list_items
from unteach.engines.sampling import SeededSampler, build_warpers
from unteach.inference.backends.base import Answered, Failure, FinishReason, Request
from unteach.lazy import np
from unteach.seeds import derive_seed

if TYPE_CHECKING:
    import torch


class PoolPlanner(BatchPlanner):
    """Plans pools: batches of more rows than go on at once, where one that is over leaves its slot
    to one that waits.

    A pool is the unit that is run whole, so it is small enough that a stop costs little, and that
    each of the processes has one.

    Args:
        lengths: the tokens of each row with those to come.
        texts_per_row: texts that go on at once for each row.
        rows_per_slot: rows of a pool to each of its slots.
    """

    def __init__(
        self,
        lengths: "array[int]",
        max_items: int | None,
        budget: int,
        texts_per_row: int,
        rows_per_slot: int = 1,
        num_processes: int = 1,
    ):
        super().__init__(lengths, int, max_items, budget)
        self.texts_per_row = texts_per_row
        self.rows_per_slot = rows_per_slot
        self.num_processes = num_processes

    def count_slots(self, row: Row) -> int:
        """Count how many rows go on at once, if none is longer than this one."""
        num_fitting = self.budget // (self.get_width(row) * self.texts_per_row)
        return max(1, min(self.max_items, num_fitting))

    def plan_batches(self, indices: Sequence[int]) -> Sequence[Batch]:
        """Put rows into pools, the widest first."""
        numbers = np.asarray(indices)
        widths = np.asarray(self.items)[numbers]
        # Python's sort keeps the order of equal ones, and so does this.
        order = numbers[np.argsort(-widths, kind="stable")]
        share = -(-len(order) // self.num_processes)
        pools: PackedList[Batch] = PackedList()
        start = 0
        while start < len(order):
            num_slots = self.count_slots([int(order[start])])
            size = 1
            if num_slots > 1:
                size = max(num_slots, min(num_slots * self.rows_per_slot, share))
            pools.append([[index] for index in order[start : start + size].tolist()])
            start += size
        return pools

    def count_tokens(self, batch: Batch) -> int:
        going_on = batch[: self.count_slots(batch[0])]
        return super().count_tokens(going_on) * self.texts_per_row


def run_batches(
    engine: BatchRunner,
    kind: str,
    requests: Sequence[Request],
    planner: BatchPlanner,
    work: Work,
    done: Set[int],
) -> Answered:
    """Run every batch that has a request which is not done, planned as if none were.

    A batch is run whole, for the company that a row keeps may move its numbers by a rounding. A row
    that fits nowhere fails alone.
    """
    numbers = array("q", (request.number for request in requests))
    waiting: PackedList[Batch] = PackedList()
    for batch in planner.plan_batches(range(len(numbers))):
        if any(numbers[i] not in done for i in list_items(batch)):
            waiting.append(batch)

    def describe_failure(message: str) -> Failure:
        reason = message.splitlines()[0]
        return Failure(f"this row does not fit into memory, even alone ({reason})")

    for i, answer in engine.run(
        kind,
        planner,
        waiting,
        work,
        describe_failure=describe_failure,
    ):
        if numbers[i] not in done:
            yield numbers[i], answer


def move_to_device(model: "torch.nn.Module", device: "torch.device | None") -> None:
    """Move a model to a device, unless it came with a place of its own (quantised, or spread by
    device_map)."""
    is_placed = getattr(model, "hf_device_map", None) is not None
    if not is_placed and not getattr(model, "is_quantized", False):
        model.to(device)


def build_sampler(requests: Sequence[Request], sampling: Sampling) -> SeededSampler | None:
    """Build what draws each request's texts by its own seed; None where nothing is drawn."""
    if not sampling.drawn:
        return None
    warpers = build_warpers(
        sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
    )
    seeds = []
    for request in requests:
        for text_index in range(sampling.num_return_sequences):
            seeds.append(derive_seed(request.seed, text_index))
    return SeededSampler(warpers, seeds)


def find_finish_reason(
    is_stopped: bool,
    num_ids: int,
    max_new_tokens: int,
) -> FinishReason:
    """Say what ended a continuation of so many ids, the end of sequence not among them.

    Args:
        is_stopped: whether a stop string is in its text.
    """
    if is_stopped:
        return "stop"
    return "length" if num_ids >= max_new_tokens else "eos"
