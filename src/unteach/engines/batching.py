"""How every pass runs: what the store has is taken from it, and the rest goes batch by batch over
the processes.

The size of a batch is found by a budget of padded tokens. Where a batch does not fit into memory in
any process, all of them lower the budget together and go on with what is left, so that they keep
planning the same batches.
"""

import functools
import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from unteach import fingerprints
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Plan, ProgressCallback, Store
from unteach.errors import is_out_of_memory
from unteach.lazy import torch
from unteach.models.placement import reshard

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS_PER_BATCH = {"cuda": 16384, "cpu": 2048}
"""Padded tokens of one batch at most, until memory says otherwise; more gains a CPU nothing and
costs its caches."""
Row = list[int]
"""The indices of the items that go through the model as one row."""
Batch = list[Row]
Work = Callable[[Batch], list[Any]]
"""Measures a batch: one result an item, in the order in which its rows name them."""


def list_items(batch: Batch) -> list[int]:
    """List the items of a batch, row by row."""
    return list(itertools.chain.from_iterable(batch))


def count_items(batches: Sequence[Batch]) -> int:
    """Count the items of batches."""
    return sum(len(row) for batch in batches for row in batch)


class BatchPlanner:
    """Puts items into rows, and rows into batches: longest first, none wider than the budget.

    Args:
        items: what is measured.
        get_length: the tokens of an item's row.
        max_items: items of one batch at most; None for all of them.
        budget: padded tokens of one batch at most.
    """

    def __init__(
        self,
        items: Sequence[Any],
        get_length: Callable[[Any], int],
        max_items: int | None,
        budget: int,
    ):
        self.items = items
        self.get_length = get_length
        self.max_items = max_items or len(items)
        self.budget = budget

    def make_rows(self, indices: Sequence[int]) -> list[Row]:
        """Put items into rows; here each has one of its own."""
        return [[index] for index in indices]

    def get_width(self, row: Row) -> int:
        return self.get_length(self.items[row[0]])

    def sort_rows(self, indices: Sequence[int]) -> list[Row]:
        """Put items into rows, the widest first."""
        rows = self.make_rows(indices)
        return sorted(rows, key=self.get_width, reverse=True)

    def plan_batches(self, indices: Sequence[int]) -> Sequence[Batch]:
        """Put rows into batches, each as full as the budget and the number of items allow."""
        batches: list[Batch] = []
        batch: Batch = []
        for row in self.sort_rows(indices):
            has_too_many = len(list_items(batch)) + len(row) > self.max_items
            if batch and (has_too_many or self.count_tokens([*batch, row]) > self.budget):
                batches.append(batch)
                batch = []
            batch.append(row)
        if batch:
            batches.append(batch)
        return batches

    def count_tokens(self, batch: Batch) -> int:
        """Count the tokens of a batch, whose first row is the widest, with its padding."""
        return self.get_width(batch[0]) * len(batch)

    def lower_budget(self, failed: list[Batch]) -> bool:
        """Lower the budget to half of the smallest batch that failed.

        Returns:
            False where one of them was a single item, which no budget makes smaller.
        """
        self.budget = min(map(self.count_tokens, failed)) // 2
        return all(len(list_items(batch)) > 1 for batch in failed)


class BatchRunner:
    """A model that measures items in batches.

    Args:
        batch_size: items of a batch at most; None leaves it to the budget.
        dist: the processes that share the work.
        store: what was measured before.

    Attributes:
        budgets: padded tokens of a batch that memory allowed, by the name of a pass.
    """

    def __init__(
        self,
        model: "PreTrainedModel | None",
        batch_size: int | None,
        dist: DistContext,
        store: Store | None,
    ):
        # A subclass may load its model when the first pass needs it, and gives None.
        if model is not None:
            self.model: Any = model
        self.batch_size = batch_size
        self.dist = dist
        self.store = store
        self.budgets: dict[str, int] = {}

    @property
    def device(self) -> "torch.device":
        """Where a batch is put; weights that are sharded may rest elsewhere."""
        if self.dist.is_sharded:
            device: torch.device = self.dist.device
            return device
        return next(self.model.parameters()).device

    def get_budget(self, pass_name: str) -> int:
        """Return how many padded tokens memory allowed before, or a first guess."""
        return self.budgets.get(pass_name) or TOKENS_PER_BATCH[get_device_type()]

    def build_planner(
        self,
        pass_name: str,
        items: Sequence[Any],
        get_length: Callable[[Any], int],
    ) -> BatchPlanner:
        return BatchPlanner(items, get_length, self.batch_size, self.get_budget(pass_name))

    def measure(
        self,
        kind: str,
        planner: BatchPlanner,
        work: Work,
        on_progress: ProgressCallback,
    ) -> list[Any]:
        """Return the results of all items, in their order.

        Those in the store are taken from it; the others are measured batch by batch over the
        processes.

        Args:
            kind: the name of the pass and, after a space, whatever else its results depend on.
        """
        items = planner.items
        dist = self.dist
        results: list[Any] = [None] * len(items)
        if self.store:
            results = [self.store.get(kind, item) for item in items]
        missing = self._list_missing(results)

        # The plan is kept until the pass is over, by the main process alone.
        plan_store = self.store if dist.is_main else None
        digest = fingerprints.hash_value([kind, self.batch_size, items])
        waiting = self._resume_plan(digest, planner, missing) if missing else []
        num_known = len(items) - count_items(waiting)
        if on_progress and num_known:
            on_progress(num_known)
        if waiting:
            record_plan = None
            if plan_store:
                record_plan = functools.partial(plan_store.write_plan, digest)
            measured = self.run(
                kind,
                planner,
                waiting,
                work,
                on_progress,
                record_plan=record_plan,
            )
            for i, result in self._gather(list(measured)):
                results[i] = result
        if plan_store:
            plan_store.drop_plan(digest)
        return results

    def list_unmeasured(self, kind: str, items: Sequence[Any]) -> list[Any]:
        """List the items that `measure` would measure; no model is needed to say so."""
        results: list[Any] = [None] * len(items)
        if self.store:
            results = [self.store.get(kind, item) for item in items]
        return [items[i] for i in self._list_missing(results)]

    def _list_missing(self, results: list[Any]) -> list[int]:
        """List which results any process lacks: all measure those, so that they plan the same
        batches."""
        missing = [i for i, result in enumerate(results) if result is None]
        return sorted(set(self._gather(missing)))

    def _gather(self, values: list[Any]) -> list[Any]:
        """Join the lists of all processes."""
        return self.dist.gather(values) if self.dist.gather else values

    def _resume_plan(
        self,
        digest: str,
        planner: BatchPlanner,
        missing: list[int],
    ) -> list[Batch]:
        """Return the batches that are left of a pass, as they were planned when it began.

        A batch of which anything is missing is made whole again, so that each result comes from the
        same neighbours. All processes get the plan of the main one.
        """
        dist = self.dist
        plan: Plan | None = None
        if self.store and dist.is_main:
            plan = self.store.read_plan(digest)
        if dist.gather:
            plan = dist.gather([plan] if dist.is_main else [])[0]

        lacking = set(missing)
        left = []
        for batch in plan or []:
            if not lacking.isdisjoint(list_items(batch)):
                left.append(batch)
        unplanned = lacking.difference(*map(list_items, left))
        left += planner.plan_batches(sorted(unplanned))
        if self.store and dist.is_main and unplanned:
            self.store.write_plan(digest, left)
        return left

    def run(
        self,
        kind: str,
        planner: BatchPlanner,
        waiting: Sequence[Batch],
        work: Work,
        on_progress: ProgressCallback = None,
        describe_failure: Callable[[str], Any] | None = None,
        record_plan: Callable[[Plan], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Run the batches of this process; yield the index of each item and its result.

        Args:
            kind: as `measure` takes it.
            waiting: the batches of all processes.
            describe_failure: makes a result, out of the error's message, for an item that does not
                fit into memory even alone; without it, such an item ends the pass.
            record_plan: called with the batches that are left where memory has them planned anew.
        """
        dist = self.dist
        was_training = self.model.training
        self.model.eval()
        try:
            num_run = 0
            while num_run < len(waiting):
                dist.check_preemption()

                # Every process takes one batch of this round. A process without one runs the
                # round's first batch where weights are sharded: the others need its shard.
                round_batches = list(waiting[num_run : num_run + dist.world_size])
                num_run += len(round_batches)
                my_batch = None
                if dist.rank < len(round_batches):
                    my_batch = round_batches[dist.rank]
                elif dist.is_sharded:
                    self._try_batch(kind, planner, round_batches[0], work, keep=False)
                results, memory_error = self._try_batch(kind, planner, my_batch, work)
                yield from results
                has_failed = dist.any(memory_error is not None)
                failed = self._list_failed(round_batches, memory_error) if has_failed else []
                if on_progress:
                    on_progress(count_items(round_batches) - count_items(failed))
                if not failed:
                    continue

                # One process out of memory is enough: all agree on a smaller budget and plan the
                # rest anew, so that the batches stay the same everywhere.
                if not planner.lower_budget(failed):
                    if describe_failure is None:
                        raise RuntimeError(
                            memory_error or "another process of this run is out of memory"
                        )
                    if memory_error and my_batch and len(list_items(my_batch)) == 1:
                        yield my_batch[0][0], describe_failure(memory_error)
                    failed = [batch for batch in failed if len(list_items(batch)) > 1]
                waiting = self._plan_anew(kind, planner, [*failed, *waiting[num_run:]], record_plan)
                num_run = 0
        finally:
            self.model.train(was_training)
            reshard(self.model)

    def _plan_anew(
        self,
        kind: str,
        planner: BatchPlanner,
        left: list[Batch],
        record_plan: Callable[[Plan], None] | None,
    ) -> Sequence[Batch]:
        """Plan what is left of a pass under its lowered budget, which later passes keep."""
        self.budgets[kind.partition(" ")[0]] = planner.budget
        items = itertools.chain.from_iterable(map(list_items, left))
        batches = planner.plan_batches(list(items))
        if record_plan:
            record_plan(list(batches))
        return batches

    def _try_batch(
        self,
        kind: str,
        planner: BatchPlanner,
        batch: Batch | None,
        work: Work,
        keep: bool = True,
    ) -> tuple[list[tuple[int, Any]], str | None]:
        """Run one batch; return its results by item, or what was said of memory.

        With sharded weights an out-of-memory error is raised: the other processes are blocked in
        the middle of this very pass, so it cannot be tried again.

        Args:
            keep: whether the store keeps the results.
        """
        if batch is None:
            return [], None
        try:
            results = self._measure_batch(kind, planner, batch, work, keep)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.dist.is_sharded:
                raise
            message = f"{type(error).__name__}: {error}"
        else:
            return list(zip(list_items(batch), results, strict=True)), None
        # Outside `except` the error's traceback no longer holds the failed batch's tensors.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return [], message

    def _measure_batch(
        self,
        kind: str,
        planner: BatchPlanner,
        batch: Batch,
        work: Work,
        keep: bool,
    ) -> list[Any]:
        """Measure a batch and keep its results in the store."""
        with torch.no_grad():
            results = work(batch)
        if self.store and keep:
            items = [planner.items[i] for i in list_items(batch)]
            self.store.put(kind, items, results)
        return results

    def _list_failed(self, round_batches: list[Batch], memory_error: str | None) -> list[Batch]:
        """List the batches of this round that did not fit, as every process knows it."""
        flags = self._gather([memory_error is not None])
        # A round may have fewer batches than there are processes.
        failed_batches = []
        for batch, has_failed in zip(round_batches, flags, strict=False):
            if has_failed:
                failed_batches.append(batch)
        return failed_batches


def get_device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
