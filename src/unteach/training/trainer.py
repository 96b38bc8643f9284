"""The one subclass of transformers.Trainer: streams in, any method's terms, the one rule of normalisation."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.utils.data import DataLoader

from unteach.data.streams import MicroBatches, Rows, Steps, Stream, collate
from unteach.engines.processes import Processes
from unteach.errors import Diverged, Preempted
from unteach.methods.base import Method
from unteach.models.reference import Reference
from unteach.training import checkpoint
from unteach.training.step import count_step, micro_batch_loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Keeping:
    """How many whole checkpoints are kept, and after how many evaluations without a better one training stops."""

    limit: int = 1
    patience: int | None = None


class StepLoader(DataLoader):
    """A DataLoader whose batches are this rank's micro-batches of each step."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class Trainer(transformers.Trainer):
    """Trains a method on streams.

    evaluator: called with the global step, returns metrics; runs wherever `eval_strategy` says.
    """

    loss_is_scaled_for_ga = True  # micro_batch_loss already divides by the counts of the whole step

    def __init__(
        self,
        model: Any,
        args: transformers.TrainingArguments,
        method: Method,
        streams: dict[str, Stream],
        anchor: str,
        collator: Any,
        reference: Reference,
        here: Processes,
        keeping: Keeping,
        evaluator: Callable[[int], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        self.method, self.streams, self.anchor, self.reference = method, streams, anchor, reference
        self.here, self.keeping, self.evaluator = here, keeping, evaluator
        self.preempted = False
        self._evaluation_due = False
        self._shares: dict[str, Tensor] = {}
        self._terms_logged_at = 0
        self._resumed: dict[str, Any] = {}
        self._last_rows: dict[str, list[int]] = {}
        rows: Any = Rows(streams, anchor)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=rows if evaluator else None,
            data_collator=collator,
            **kwargs,
        )
        self.remove_callback(transformers.PrinterCallback)
        self.add_callback(_AtBoundaries(self))
        if keeping.patience is not None:
            self.add_callback(transformers.EarlyStoppingCallback(keeping.patience))

    def get_train_dataloader(self) -> DataLoader:
        args, world = self.args, self.args.world_size
        size = args.per_device_train_batch_size * args.gradient_accumulation_steps * world
        steps = Steps(self.streams, self.anchor, size, args.seed)
        return StepLoader(
            Rows(self.streams, self.anchor),  # type: ignore[arg-type]
            batch_sampler=MicroBatches(steps, args.gradient_accumulation_steps, args.process_index, world),
            collate_fn=functools.partial(collate, collator=self.data_collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of one step, and how many units the whole step has, over all processes."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        counts = {name: count.to(device).float() for name, count in count_step(self.method, batches).items()}
        if self.args.world_size > 1:
            stacked = self.accelerator.reduce(torch.stack(list(counts.values())), reduction="sum")
            counts = dict(zip(counts, stacked, strict=True))
        return batches, counts

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        assert not return_outputs, "evaluation is done by suites, never by the Trainer's own loop"
        loss, shares = micro_batch_loss(model, self.method, inputs, self.reference, num_items_in_batch)
        if not torch.isfinite(loss):
            self._last_rows = {s: inputs["number"][a:b].tolist() for s, (a, b) in inputs["rows"].items()}
            self._last_rows = {
                s: rows for s, rows in self._last_rows.items() if not torch.isfinite(shares.get(s, loss))
            }
        for name, share in shares.items():
            self._shares[name] = self._shares.get(name, 0) + share
        return self._for_backend(loss)

    def _for_backend(self, loss: "Tensor") -> "Tensor":
        """Data parallelism averages gradients over processes where the rule needs their sum."""
        return loss * self.args.world_size

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient's norm before clipping; a run whose gradient is not finite ends here, before the step."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            rows = "; ".join(f"stream {s}, rows {r}" for s, r in self._last_rows.items()) or "its loss was still finite"
            raise Diverged(
                f"step {self.state.global_step + 1}: the gradient is not finite ({rows}). Nothing was updated with it. "
                "Lower trainer.args.learning_rate, or look at those rows."
            )
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each term of the loss, averaged over the steps since the last line, summed over processes."""
        if "loss" in logs and self._shares:
            steps = self.state.global_step - self._terms_logged_at
            totals = torch.stack([share.float() for share in self._shares.values()])
            if self.args.world_size > 1:
                totals = self.accelerator.reduce(totals, reduction="sum")
            logs |= {
                f"{name}_loss": total.item() / max(steps, 1) for name, total in zip(self._shares, totals, strict=True)
            }
            self._shares, self._terms_logged_at = {}, self.state.global_step
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Runs the suites; their values are logged under eval_<suite>_<metric>."""
        assert self.evaluator is not None
        try:
            metrics = self.evaluator(self.state.global_step)
        except Preempted:
            if self.state.global_step:
                self._evaluation_due = True
                self._save_checkpoint(self.model_wrapped, None)
            raise
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        if skip_scheduler and self.state.global_step:  # eval_on_start of a run that goes on: it was made at its start
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint that counts only when it is whole, then lets older ones go."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.here.first:
            checkpoint.begin(folder)
        super()._save_checkpoint(model, trial)
        since_log = torch.stack([self._tr_loss, *(share.to(self._tr_loss) for share in self._shares.values())])
        if self.args.world_size > 1:  # sums over processes; the first one takes them back
            since_log = self.accelerator.reduce(since_log, "sum")
        loss, *shares = since_log.tolist()
        state = {
            "evaluation_due": self._evaluation_due,
            "logged_at": self._globalstep_last_logged,
            "loss_since_log": loss,
            "shares": dict(zip(self._shares, shares, strict=True)),
        }
        self.here.wait()
        if self.here.first:
            checkpoint.write_state(folder, state)
            checkpoint.complete(folder)
            checkpoint.rotate(folder.parent, self.keeping.limit, self.state.best_model_checkpoint)
        self.here.wait()

    def train_from(self, start: Path | None) -> None:
        """Trains from a checkpoint, or from the beginning."""
        self._resumed = checkpoint.read_state(start) if start else {}
        self.train(resume_from_checkpoint=str(start) if start else None)

    def restore(self) -> None:
        """Brings back what is not in the library's own checkpoint, once training has begun again."""
        if not self._resumed:
            return
        if self.here.first:
            self._tr_loss += self._resumed["loss_since_log"]
            self._shares = {
                name: torch.tensor(share, device=self.args.device) for name, share in self._resumed["shares"].items()
            }
        else:
            self._shares = {name: torch.zeros((), device=self.args.device) for name in self._resumed["shares"]}
        self._globalstep_last_logged = self._terms_logged_at = self._resumed["logged_at"]
        if self._resumed["evaluation_due"]:
            self._determine_best_metric(self.evaluate(), trial=None)


class _AtBoundaries(transformers.TrainerCallback):
    """Restores at the beginning; stops between two steps, on all processes at once, when one was asked to."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.restore()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.here.asked_to_stop():
            self.trainer._evaluation_due = control.should_evaluate
            control.should_evaluate, control.should_save, control.should_training_stop = False, True, True
            self.trainer.preempted = True
