"""Requests in batches through a model of this process, whatever the model is."""

from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal

from unteach.engines.batching import BatchPlanner, BatchRunner, Row
from unteach.inference.backends.base import Answered, Failure, Request

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Pools(BatchPlanner):
    """Batches of more rows than go on at once: one that is over leaves its place to one that waits.

    A pool is the unit that is run whole, so it is small enough that a stop costs little, and that
    each of the processes has one. times: texts of a row. turns: rows to a place.
    """

    def __init__(self, *args: Any, times: int, turns: int = 1, world: int = 1):
        super().__init__(*args)
        self.times, self.turns, self.world = times, turns, world

    def places(self, row: Row) -> int:
        """How many rows go on at once, if none is longer than this one."""
        return max(1, min(self.most, self.budget // (self.width(row) * self.times)))

    def batches(self, numbers: Sequence[int]) -> list[list[Row]]:
        rows, found = sorted(self.rows(numbers), key=lambda row: -self.width(row)), []
        share = -(-len(rows) // self.world)
        while rows:
            places = self.places(rows[0])
            size = max(places, min(places * self.turns, share)) if places > 1 else 1
            found.append(rows[:size])
            rows = rows[size:]
        return found

    def cost(self, batch: list[Row]) -> int:
        return super().cost(batch[: self.places(batch[0])]) * self.times


def run_batches(
    engine: BatchRunner,
    kind: str,
    requests: Sequence[Request],
    batching: BatchPlanner,
    work: Callable[[list[Row]], list[Any]],
    done: Set[int],
) -> Answered:
    """Run every batch that has a request which is not done, planned as if none were.

    A row that fits nowhere fails alone.
    A batch is run whole, for the company that a row keeps may move its numbers by a rounding.
    """
    numbers = [request.number for request in requests]
    plan = batching.batches(range(len(requests)))
    waiting = [batch for batch in plan if any(numbers[i] not in done for row in batch for i in row)]

    def alone(said: str) -> Failure:
        return Failure(f"this row does not fit into memory, even alone ({said.splitlines()[0]})")

    for i, answer in engine.each(kind, batching, waiting, work, alone=alone):
        if numbers[i] not in done:
            yield numbers[i], answer


def move_to_device(model: "PreTrainedModel", device: Any) -> None:
    """Move a model to a device, unless it came with a place of its own (quantised, or spread by
    device_map)."""
    if not getattr(model, "is_quantized", False) and getattr(model, "hf_device_map", None) is None:
        model.to(device)


def find_finish_reason(stopped: bool, made: int, most: int) -> Literal["eos", "stop", "length"]:
    """Say what ended a continuation of `made` ids without the end of sequence."""
    if stopped:
        return "stop"
    return "length" if made >= most else "eos"
