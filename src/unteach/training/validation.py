"""Measure held-out rows by the method's own rule, wherever `eval_strategy` says and at the end.

The loss is that of one step over all held-out rows: each term is summed over its units and divided
by their count, so it does not depend on batches or processes. A method that does not learn from
rows of `train` (one that unlearns) would measure how well it forgets them; their plain loss is
measured instead.
"""

import csv
import functools
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unteach import atomic
from unteach.config import schema
from unteach.data.batches import Batch, collate, move_to_device
from unteach.data.collators import Collator
from unteach.data.steps import Slot
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.lazy import torch
from unteach.methods.base import Method
from unteach.methods.finetune.sft import SFT
from unteach.models.loading import LoadedModel
from unteach.models.placement import reshard
from unteach.models.reference import LogprobTable, Reference
from unteach.training.build_reference import build_tables
from unteach.training.build_streams import build_rows
from unteach.training.step import forward_policy_and_reference

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import TrainingArguments

Value = TypeVar("Value")
logger = logging.getLogger(__name__)
STREAM = "validation"
FILE = "validation.json"


def build_validation(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    collator: Collator,
    args: "TrainingArguments",
    run_folder: Path,
    dist: DistContext,
) -> "Validation | None":
    """Build what measures the rows of `data.validation`; None where the run has none.

    Rows that cannot be used are logged.
    """
    if not config.data.streams.get(STREAM):
        return None
    method = config.trainer.method if config.trainer.method.is_finetuning() else SFT()
    datasets, notes = build_rows(loaded, STREAM, config.data.streams[STREAM], config.seed)
    for note in notes:
        logger.info(note)

    # Every stream of the method reads the same rows; all but the first follow its order.
    streams: dict[str, Stream] = {}
    for name in method.streams():
        first_name = next(iter(streams), None)
        streams[name] = Stream(name, datasets, first_name)
    draws = {}
    for name, stream in streams.items():
        draws[name] = [(row_index, 0) for row_index in range(len(stream))]

    tables_dir = run_folder / "reference" / STREAM
    tables = functools.partial(
        build_tables, method, loaded, streams, lambda: draws, collator, args, tables_dir, dist
    )
    return Validation(method, streams, tables, collator, args.per_device_train_batch_size, dist)


@dataclass
class _PartialResults:
    """What one process has measured on its batches.

    Attributes:
        sums: each term by its logged name, summed over its units.
        divisors: the name of the count that each term is divided by.
        factors: what each term is multiplied by in the loss; None: it is no part of the loss.
        row_outputs: (row index, the method's `eval_outputs` for that row).
    """

    sums: dict[str, float] = field(default_factory=dict)
    divisors: dict[str, str] = field(default_factory=dict)
    factors: dict[str, float | None] = field(default_factory=dict)
    row_outputs: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


class Validation:
    """Measure held-out rows on the model in its current state.

    Args:
        method: the rule that the rows are measured by.
        streams: the held-out rows by the method's stream names.
        build_tables: computes the reference's tables, or loads them where they were kept; called
            before the first step.
        collator: turns examples into padded tensors.
        batch_size: rows per process and batch.
        dist: the processes that share the rows.
    """

    def __init__(
        self,
        method: Method,
        streams: dict[str, Stream],
        build_tables: Callable[[], dict[str, LogprobTable]],
        collator: Collator,
        batch_size: int,
        dist: DistContext,
    ):
        self.method = method
        self.streams = streams
        self.build_tables = build_tables
        self.collator = collator
        self.batch_size = batch_size
        self.dist = dist

    @property
    def num_rows(self) -> int:
        first_stream = next(iter(self.streams.values()))
        return len(first_stream)

    @functools.cached_property
    def reference(self) -> Reference:
        return Reference(self.method.reference(), self.build_tables())

    def prepare(self) -> None:
        """Compute the reference's tables, while the policy is not trained yet."""
        _ = self.reference

    def measure(self, model: "Module", target_dir: Path, may_stop: bool = True) -> dict[str, float]:
        """Measure all rows, write everything to files, and return the numbers.

        Args:
            model: as the trainer has wrapped it; its training mode is restored.
            target_dir: the folder that `validation.json` and tables are written to.
            may_stop: whether a run that was asked to stop does so between two batches.

        Returns:
            The numbers by name, each with the prefix `eval_`.
        """
        was_training = model.training
        model.eval()
        with torch.no_grad():
            results = self._measure_rows(model, may_stop)
        reshard(model)
        model.train(was_training)
        if self.dist.is_main:
            write_results(results, target_dir)

        metrics = {}
        for name, value in results.items():
            if isinstance(value, int | float) and name != "rows":
                metrics[f"eval_{name}"] = float(value)
        return metrics

    def _measure_rows(self, model: "Module", may_stop: bool) -> dict[str, Any]:
        """Pass all rows through the model and compute their loss, terms and metrics."""
        # Some methods need sums over all rows before any loss, so the counts take a pass of
        # their own.
        counts = self._count_units(model)
        step_counts = {}
        for name, count in counts.items():
            step_counts[name] = torch.tensor(count, device=self.dist.device)

        mine = _PartialResults()
        for batch in self._iterate_batches():
            if may_stop:
                self.dist.check_preemption()
            policy, reference = forward_policy_and_reference(
                model, self.method, batch, self.reference, step_counts
            )
            for term in self.method.terms(policy, reference):
                total = float(term.value.float().sum())
                mine.sums[term.log_name] = mine.sums.get(term.log_name, 0.0) + total
                mine.divisors[term.log_name] = term.divisor
                factor = None if term.factor is None else float(term.factor)
                mine.factors[term.log_name] = factor
            mine.row_outputs += self._split_row_outputs(batch, self.method.eval_outputs(policy))
        return self._summarize(self._gather(mine), counts)

    def _split_row_outputs(
        self, batch: Batch, outputs: dict[str, Any]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Pair each real row of a batch with its part of the method's outputs."""
        start, stop = next(iter(batch["rows"].values()))
        is_real = batch["weight"][start:stop] != 0
        row_indices = batch["number"][start:stop][is_real].tolist()
        columns = {name: values.tolist() for name, values in outputs.items()}

        row_outputs = []
        for position, row_index in enumerate(row_indices):
            values = {name: column[position] for name, column in columns.items()}
            row_outputs.append((row_index, values))
        return row_outputs

    def _summarize(
        self, partials: list[_PartialResults], counts: dict[str, float]
    ) -> dict[str, Any]:
        """Compute loss, terms and the method's metrics from what every process has measured."""
        divisors: dict[str, str] = {}
        factors: dict[str, float | None] = {}
        for partial in partials:
            divisors.update(partial.divisors)
            factors.update(partial.factors)
        terms = {}
        for name, divisor in divisors.items():
            total = sum(partial.sums.get(name, 0.0) for partial in partials)
            terms[name] = total / (counts[divisor] or 1.0)

        loss_parts = {}
        for name, factor in factors.items():
            if factor is not None:
                loss_parts[name] = factor * terms[name]
        loss = sum(loss_parts.values())
        results: dict[str, Any] = {"loss": loss}
        for name, value in terms.items():
            # The only part of a loss would be the loss again.
            if name not in loss_parts or len(loss_parts) > 1:
                results[name] = value

        row_outputs = []
        for partial in partials:
            row_outputs += partial.row_outputs
        row_outputs.sort(key=lambda row: row[0])
        columns: dict[str, list[Any]] = {}
        for _, values in row_outputs:
            for name, value in values.items():
                columns.setdefault(name, []).append(value)
        results.update(self.method.compute_metrics(loss, columns))
        results["rows"] = self.num_rows
        return results

    def _count_units(self, model: "Module") -> dict[str, float]:
        """Count the units of all rows by name, and sum what the method's `prepass` gives."""
        mine: dict[str, float] = {}
        has_prepass = self.method.has_prepass()
        for batch in self._iterate_batches():
            batch_counts = dict(self.method.counts(batch))
            if has_prepass:
                compared = self.reference.compute(batch)
                policy = model(batch=batch, want=self.method.prepass_specs(compared))
                batch_counts.update(self.method.prepass(policy, compared))
            for name, units in batch_counts.items():
                mine[name] = mine.get(name, 0.0) + float(units)

        total: dict[str, float] = {}
        for counts in self._gather(mine):
            for name, count in counts.items():
                total[name] = total.get(name, 0.0) + count
        return total

    def _gather(self, own: Value) -> list[Value]:
        """Collect a value from every process; every process gets all of them."""
        return self.dist.gather([own]) if self.dist.gather else [own]

    def _iterate_batches(self) -> Iterator[Batch]:
        """Give this process's batches of all rows, longest rows first.

        Every process gets as many batches as the others. One that has no row left gets a row of
        weight zero: where weights are sharded, all must make each pass.
        """
        first_stream = next(iter(self.streams.values()))
        order = sorted(
            range(len(first_stream)), key=lambda row: -len(first_stream.example(row)["input_ids"])
        )
        rows_per_round = self.batch_size * self.dist.world_size
        for start in range(0, len(order), rows_per_round):
            round_rows = order[start : start + rows_per_round]
            weighted_rows = [
                (row, 1.0) for row in round_rows[self.dist.rank :: self.dist.world_size]
            ]
            if not weighted_rows:
                weighted_rows = [(round_rows[0], 0.0)]

            items = []
            for name, stream in self.streams.items():
                for row, weight in weighted_rows:
                    items.append((Slot(name, row, 0, weight), stream.example(row)))
            yield move_to_device(collate(items, self.collator), self.dist.device)


def write_results(results: dict[str, Any], target_dir: Path) -> None:
    """Write all values as JSON, and each table among them (a list of rows) as a CSV file too."""
    target_dir.mkdir(parents=True, exist_ok=True)
    for name, value in results.items():
        if isinstance(value, list) and value:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(value[0]))
            writer.writeheader()
            writer.writerows(value)
            atomic.write_text(target_dir / f"validation_{name}.csv", text.getvalue())
    atomic.write_json(target_dir / FILE, results)
