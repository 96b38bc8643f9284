"""How every pass runs: what the store has is taken from it, and the rest goes batch by batch over
the processes.

The size of a batch is found by a budget of padded tokens. Where a batch does not fit into memory in
any process, all of them lower the budget together and go on with what is left, so that they keep
planning the same batches.
"""

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unteach import fingerprints
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Plan, ProgressCallback, Store
from unteach.errors import NO_MEMORY
from unteach.lazy import torch
from unteach.models.placement import reshard

TOKENS_PER_BATCH = {"cuda": 16384, "cpu": 2048}
"""Padded tokens of one batch at most, until memory says otherwise; more gains a CPU nothing and
costs its caches."""
Row = list[int]
"""The numbers of the items that go through the model as one row."""


class BatchPlanner:
    """Which items make a row, and which rows a batch: longest first, none wider than the budget
    allows.

    length: tokens of an item's row. most: items of one batch at most.
    """

    def __init__(
        self, items: Sequence[Any], length: Callable[[Any], int], most: int | None, budget: int
    ):
        self.items, self.length, self.most, self.budget = items, length, most or len(items), budget

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        return [[number] for number in numbers]

    def width(self, row: Row) -> int:
        return self.length(self.items[row[0]])

    def batches(self, numbers: Sequence[int]) -> list[list[Row]]:
        batches, current = [], list[Row]()
        for row in sorted(self.rows(numbers), key=lambda row: -self.width(row)):
            full = sum(map(len, current)) + len(row) > self.most
            if current and (full or self.cost([*current, row]) > self.budget):
                batches.append(current)
                current = []
            current.append(row)
        return batches + ([current] if current else [])

    def cost(self, batch: list[Row]) -> int:
        """Tokens of a batch, whose first row is the widest, with its padding."""
        return self.width(batch[0]) * len(batch)

    def lower(self, failed: list[list[Row]]) -> bool:
        """Lowers the budget to half of the smallest batch that failed; False where that was a
        single item."""
        self.budget = min(map(self.cost, failed)) // 2
        return all(sum(map(len, batch)) > 1 for batch in failed)


class BatchRunner:
    """A model that measures items in batches. dist: the processes that share the work. store: what
    was measured before.

    batch_size: items of a batch at most; None leaves it to the budget.
    """

    def __init__(self, model: Any, batch_size: int | None, dist: DistContext, store: Store | None):
        self.model, self.batch_size, self.dist, self.store = model, batch_size, dist, store
        self.budgets: dict[str, int] = {}

    @property
    def device(self) -> Any:
        """Where a batch is put; weights that are sharded may rest elsewhere."""
        return self.dist.device if self.dist.is_sharded else next(self.model.parameters()).device

    def budget(self, what: str) -> int:
        """Padded tokens of a batch of one kind: what memory allowed before, or a first guess."""
        return self.budgets.get(what) or TOKENS_PER_BATCH[device()]

    def batching(
        self, what: str, items: Sequence[Any], length: Callable[[Any], int]
    ) -> BatchPlanner:
        return BatchPlanner(items, length, self.batch_size, self.budget(what))

    def _measured(
        self,
        kind: str,
        batching: BatchPlanner,
        work: Callable[[list[Row]], list[Any]],
        said: ProgressCallback,
    ) -> list[Any]:
        """All results in the items' own order: those in the store, and the others batch by batch
        over the processes.

        work: gives the results of a batch's items in the order in which its rows name them.
        """
        items, dist = batching.items, self.dist
        results = [self.store.get(kind, item) if self.store else None for item in items]
        missing = [i for i, result in enumerate(results) if result is None]
        # what any process lacks is measured again, so that all plan the same batches
        if dist.gather:
            missing = sorted(set(dist.gather(missing)))
        if said and len(items) > len(missing):
            said(len(items) - len(missing))
        of = fingerprints.hash_value([kind, self.batch_size, items])
        if not missing:
            if self.store and dist.is_main:
                self.store.drop_plan(of)
            return results
        waiting = self._plan(of, batching, missing)
        record = (
            functools.partial(self.store.write_plan, of) if self.store and dist.is_main else None
        )
        found = list(self.each(kind, batching, waiting, work, said, record=record))
        for i, result in dist.gather(found) if dist.gather else found:
            results[i] = result
        if self.store and dist.is_main:
            self.store.drop_plan(of)
        return results

    def _plan(self, of: str, batching: BatchPlanner, missing: list[int]) -> list[list[Row]]:
        """The batches that are left of a pass: as they were planned when it began, the same in
        every process.

        A batch of which anything is missing is made whole again, so that each result comes from the
        same neighbours.
        """
        dist, lacking = self.dist, set(missing)
        planned = None
        if self.store and dist.is_main:
            planned = self.store.read_plan(of)
        if dist.gather:
            planned = dist.gather([planned] if dist.is_main else [])[0]
        planned = planned or []
        left = [batch for batch in planned if any(i in lacking for row in batch for i in row)]
        unplanned = lacking.difference(i for batch in left for row in batch for i in row)
        left += batching.batches(sorted(unplanned))
        if self.store and dist.is_main and unplanned:
            self.store.write_plan(of, left)
        return left

    def each(
        self,
        kind: str,
        batching: BatchPlanner,
        waiting: list[list[Row]],
        work: Callable[[list[Row]], list[Any]],
        said: ProgressCallback = None,
        alone: Callable[[str], Any] | None = None,
        record: Callable[[Plan], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """The batches of this process as they are done: the number of each item, and its result.

        alone: what stands for an item that does not fit into memory even alone; without it, such an
            item ends the pass.
        record: is given the batches that are left where memory has them planned anew.
        """
        dist, was_training = self.dist, self.model.training
        self.model.eval()
        try:
            while waiting:
                dist.check_preemption()
                now, waiting = waiting[: dist.world_size], waiting[dist.world_size :]
                mine = now[dist.rank] if dist.rank < len(now) else None
                # the others' pass needs this process's share of the weights
                if mine is None and dist.is_sharded:
                    self._attempt(kind, batching, now[0], work, None, keep=False)
                done, said_of_memory = self._attempt(kind, batching, mine, work, said)
                yield from done
                if dist.any(said_of_memory is not None):
                    failed = self._failed(now, said_of_memory)
                    if not batching.lower(failed):
                        if alone is None:
                            raise RuntimeError(
                                said_of_memory or "another process of this run is out of memory"
                            )
                        if said_of_memory and mine and sum(map(len, mine)) == 1:
                            yield mine[0][0], alone(said_of_memory)
                        failed = [batch for batch in failed if sum(map(len, batch)) > 1]
                    self.budgets[kind.partition(" ")[0]] = batching.budget
                    waiting = batching.batches(
                        [i for batch in (*failed, *waiting) for row in batch for i in row]
                    )
                    if record:
                        record(waiting)
        finally:
            self.model.train(was_training)
            reshard(self.model)

    def _attempt(
        self,
        kind: str,
        batching: BatchPlanner,
        batch: list[Row] | None,
        work: Callable[[list[Row]], list[Any]],
        said: ProgressCallback,
        keep: bool = True,
    ) -> tuple[list[tuple[int, Any]], str | None]:
        """One batch of this process: its results, or what was said of memory. keep: whether the
        store keeps them.

        Where weights are sharded the others wait in the middle of a pass that failed here: it
        cannot be made again.
        """
        if batch is None:
            return [], None
        try:
            numbers = [i for row in batch for i in row]
            results = self._one(
                kind, [batching.items[i] for i in numbers] if keep else [], batch, work
            )
        except (RuntimeError, MemoryError) as error:
            if not of_memory(error) or self.dist.is_sharded:
                raise
            words = f"{type(error).__name__}: {error}"
        else:
            if said:
                said(len(numbers) * self.dist.world_size)
            return list(zip(numbers, results, strict=True)), None
        _free()  # the error is gone by now, and with it what it held
        return [], words

    def _one(
        self, kind: str, items: list[Any], batch: list[Row], work: Callable[[list[Row]], list[Any]]
    ) -> list[Any]:
        with torch.no_grad():
            results = work(batch)
        if self.store and items:
            self.store.put(kind, items, results)
        return results

    def _failed(self, now: list[list[Row]], said_of_memory: str | None) -> list[list[Row]]:
        """Which batches of this round did not fit, as every process knows it."""
        mine = [said_of_memory is not None]
        flags = self.dist.gather(mine) if self.dist.gather else mine
        return [batch for batch, failed in zip(now, flags, strict=False) if failed]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def of_memory(error: Exception) -> bool:
    """Whether an error says that there is no memory left."""
    said = f"{type(error).__name__} {error}".lower()
    return any(sign in said for sign in NO_MEMORY)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
