"""Validation: rows that are held out, measured by the method's own rule wherever eval_strategy
says, and at the end.

The loss is that of one step over all of these rows: each term summed over its units and divided by
their count. So it does not depend on batches or processes. A method that does not learn from rows
of `train` (one that unlearns) would measure how well it forgets them; their plain loss is measured
for it.
"""

import csv
import functools
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, run_dir
from unteach.config import schema
from unteach.data.streams import Slot, Stream, collate
from unteach.distributed.process_context import DistContext
from unteach.lazy import torch
from unteach.methods.base import Method
from unteach.methods.finetune.sft import SFT
from unteach.models.loading import LoadedModel
from unteach.models.placement import reshard
from unteach.models.reference import Reference, Table
from unteach.training.build_reference import build_tables
from unteach.training.build_streams import build_rows
from unteach.training.step import forward_policy_and_reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

logger = logging.getLogger(__name__)
STREAM = "validation"
FILE = "validation.json"


def build_validation(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    collator: Any,
    args: "TrainingArguments",
    folder: Path,
    dist: DistContext,
) -> "Validation | None":
    """Build what measures the rows of data.validation, if there are any; say what became of rows
    that cannot be used."""
    if not config.data.streams.get(STREAM):
        return None
    method = config.trainer.method if config.trainer.method.is_finetuning() else SFT()
    rows, notes = build_rows(loaded, STREAM, config.data.streams[STREAM], config.seed)
    for note in notes:
        logger.info(note)
    streams: dict[str, Stream] = {}
    for name in method.streams():
        streams[name] = Stream(name, rows, next(iter(streams), None))
    draws = {name: [(row, 0) for row in range(len(stream))] for name, stream in streams.items()}
    kept = folder / "reference" / STREAM
    tables = functools.partial(
        build_tables, method, loaded, streams, lambda: draws, collator, args, kept, dist
    )
    return Validation(method, streams, tables, collator, args.per_device_train_batch_size, dist)


class Validation:
    """Measures its rows on a model as it stands.

    tables: makes what its method compares with, or finds it where it was kept; it is made before
    the first step.
    """

    def __init__(
        self,
        method: Method,
        streams: dict[str, Stream],
        tables: Callable[[], dict[str, Table]],
        collator: Any,
        size: int,
        dist: DistContext,
    ):
        self.method, self.streams, self.tables, self.collator = method, streams, tables, collator
        self.size, self.dist = size, dist

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.streams.values())))

    @functools.cached_property
    def reference(self) -> Reference:
        return Reference(self.method.reference(), self.tables())

    def measure(
        self, model: "PreTrainedModel", place: Path, may_stop: bool = True
    ) -> dict[str, float]:
        """The values under `eval_…`; all that is known goes to files in `place`.

        may_stop: whether a run that was asked to stop does so between two batches.
        """
        was_training = model.training
        model.eval()
        with torch.no_grad():
            found = self._measured(model, may_stop)
        reshard(model)
        model.train(was_training)
        numbers = {
            k: value for k, value in found.items() if isinstance(value, int | float) and k != "rows"
        }
        if self.dist.is_main:
            write(place, found)
        return {f"eval_{name}": float(value) for name, value in numbers.items()}

    def _measured(self, model: "PreTrainedModel", may_stop: bool) -> dict[str, Any]:
        step = self._counted(model)
        counts = {
            name: torch.tensor(count, device=self.dist.device) for name, count in step.items()
        }
        sums: dict[str, float] = {}
        facts: dict[str, tuple[str, float | None]] = {}
        noted: list[tuple[int, dict[str, Any]]] = []
        for batch in self._batches():
            if may_stop:
                self.dist.check_preemption()
            policy, compared = forward_policy_and_reference(
                model, self.method, batch, self.reference, counts
            )
            for term in self.method.terms(policy, compared):
                sums[term.logged] = sums.get(term.logged, 0.0) + float(term.value.float().sum())
                facts[term.logged] = (term.divisor, term.factor)
            first = slice(*next(iter(batch["rows"].values())))
            real = batch["number"][first][batch["weight"][first] != 0].tolist()
            found = {
                name: value.tolist() for name, value in self.method.eval_outputs(policy).items()
            }
            noted += [
                (row, {name: value[i] for name, value in found.items()})
                for i, row in enumerate(real)
            ]
        everyone = self._of_all((sums, facts, noted))
        return self._summed_up(everyone, step)

    def _summed_up(self, everyone: list[Any], step: dict[str, float]) -> dict[str, Any]:
        facts = {name: fact for _, of_one, _ in everyone for name, fact in of_one.items()}
        terms = {
            name: sum(sums.get(name, 0.0) for sums, _, _ in everyone) / (step[divisor] or 1.0)
            for name, (divisor, _) in facts.items()
        }
        parts = {
            name: factor * terms[name] for name, (_, factor) in facts.items() if factor is not None
        }
        noted = dict(sorted(pair for _, _, of_one in everyone for pair in of_one))
        keys: dict[str, Any] = next(iter(noted.values()), {})
        rows = {key: [row[key] for row in noted.values()] for key in keys}
        told = {name: value for name, value in terms.items() if name not in parts or len(parts) > 1}
        loss = sum(parts.values())
        return {
            "loss": loss,
            **told,
            **self.method.compute_metrics(loss, rows),
            "rows": self.num_rows,
        }

    def _counted(self, model: "PreTrainedModel") -> dict[str, float]:
        """The units of all rows by name and, where the method asks for it, what must be known of
        all of them first."""
        counts: dict[str, float] = {}
        wants = self.method.prepass_specs()
        for batch in self._batches():
            found = dict(self.method.counts(batch))
            if wants:
                found |= self.method.prepass(
                    model(batch=batch, want=wants), self.reference.on(batch)
                )
            for name, count in found.items():
                counts[name] = counts.get(name, 0.0) + float(count)
        total: dict[str, float] = {}
        for of_one in self._of_all(counts):
            for name, count in of_one.items():
                total[name] = total.get(name, 0.0) + count
        return total

    def _of_all(self, mine: Any) -> list[Any]:
        """What every process has."""
        return self.dist.gather([mine]) if self.dist.gather else [mine]

    def _batches(self) -> Iterator[dict[str, Any]]:
        """This process's batches of all rows, longest first; as many in every process, filled up
        with weight zero."""
        first = next(iter(self.streams.values()))
        order = sorted(range(len(first)), key=lambda row: -len(first.example(row)["input_ids"]))
        step = self.size * self.dist.world_size
        for start in range(0, len(order), step):
            taken = order[start : start + step]
            mine = taken[self.dist.rank :: self.dist.world_size]
            rows = [(row, 1.0) for row in mine] or [(taken[0], 0.0)]
            slots = [Slot(name, row, 0, weight) for name in self.streams for row, weight in rows]
            batch = collate(
                [(slot, self.streams[slot.stream].example(slot.row)) for slot in slots],
                self.collator,
            )
            yield {
                key: v.to(self.dist.device) if hasattr(v, "to") else v for key, v in batch.items()
            }


def write(place: Path, found: dict[str, Any]) -> None:
    """All values as JSON, and each table among them (a list of rows) as a csv beside it."""
    place.mkdir(parents=True, exist_ok=True)
    for name, table in found.items():
        if isinstance(table, list) and table:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
            atomic.write_text(place / f"validation_{name}.csv", text.getvalue())
    atomic.write_json(place / FILE, found)


def at_the_end(trainer: Any, folder: Path) -> None:
    """Measures the rows held out on the model that is kept, and says what it is worth."""
    validation = trainer.validation
    if validation is None:
        return
    with trainer.accelerator.autocast():
        # To stop here would lose the steps since the last checkpoint: the model is saved first.
        found = validation.measure(trainer.model_wrapped, folder / run_dir.EVALS, may_stop=False)
    if trainer.args.eval_strategy == "no":
        trainer.log(dict(found))
    if validation.dist.is_main:
        told = ", ".join(
            f"{name.removeprefix('eval_')} {value:.4g}" for name, value in found.items()
        )
        print(f"validation: {told}")
