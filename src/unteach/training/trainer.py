"""The one subclass of transformers.Trainer: streams in, any method's terms, the one rule of
normalisation."""

import functools
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.utils.data import DataLoader

from unteach.data.streams import MicroBatches, Rows, Steps, Stream, collate
from unteach.data.template import Template
from unteach.errors import Diverged, UserError
from unteach.methods.base import Method
from unteach.models.reference import Reference, Table
from unteach.training.resumable import Resumable
from unteach.training.step import count_step, micro_batch_loss, prepass_step, setup_method

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to workers too, to the run: it may want their rows for
    one more step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StepLoader(DataLoader):
    """A DataLoader whose batches are this rank's micro-batches of each step."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class Trainer(Resumable):
    """Trains a method on streams. What else is given is Resumable's.

    packed: rows go through the model end to end. template: how the model is asked. tables: makes
    the reference's tables, once the policy is spread as the run is.
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
        packed: bool = False,
        template: Template | None = None,
        tables: Callable[[], dict[str, Table]] = dict,
        **kwargs: Any,
    ):
        self.tables = tables
        self.method, self.streams, self.anchor, self.reference = method, streams, anchor, reference
        self.packed = packed
        self._shares: dict[str, Tensor] = {}
        self._terms_logged_at = 0
        self._seen: list[tuple[Tensor, dict[str, tuple[int, int]], Tensor, dict[str, Tensor]]] = []
        self._step_shares: dict[str, Tensor] = {}
        setup_method(model, method, args.seed, streams, template)
        rows: Any = Rows(streams, anchor)
        evaluated = rows if kwargs.get("evaluator") or kwargs.get("validation") else None
        given = {"train_dataset": rows, "eval_dataset": evaluated}
        try:
            super().__init__(model=model, args=args, data_collator=collator, **given, **kwargs)
        except ValueError as error:  # arguments that do not go together, or not on this machine
            raise UserError(f"trainer.args: {error}") from error
        self.add_callback(_TellMethod(self))

    def get_train_dataloader(self) -> DataLoader:
        args, world = self.args, self.args.world_size
        size = args.per_device_train_batch_size * args.gradient_accumulation_steps * world
        steps = Steps(self.streams, self.anchor, size, args.seed, self.packed)
        return StepLoader(
            Rows(self.streams, self.anchor),  # type: ignore[arg-type]
            batch_sampler=MicroBatches(
                steps, args.gradient_accumulation_steps, args.process_index, world
            ),
            collate_fn=functools.partial(collate, collator=self.data_collator),
            num_workers=args.dataloader_num_workers,
            worker_init_fn=_ignore_interrupts,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: "torch.device"
    ) -> tuple[list[Any], Any]:
        """The micro-batches of one step, and how many units the whole step has, over all
        processes."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        counts = {
            name: count.to(device).float()
            for name, count in count_step(self.method, batches).items()
        }
        moved = map(self._prepare_inputs, batches)
        counts |= prepass_step(self.model_wrapped, self.method, moved, self.reference)  # type: ignore[arg-type]
        if self.args.world_size > 1:
            stacked = self.accelerator.reduce(torch.stack(list(counts.values())), reduction="sum")
            counts = dict(zip(counts, stacked, strict=True))
        return batches, counts

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        assert not return_outputs, (
            "evaluation is done by suites and Validation, never by the Trainer's own loop"
        )
        loss, shares = micro_batch_loss(
            model, self.method, inputs, self.reference, num_items_in_batch
        )
        self._seen.append((inputs["number"], inputs["rows"], loss.detach(), shares))
        for name, share in shares.items():
            self._shares[name] = self._shares.get(name, 0) + share
            self._step_shares[name] = self._step_shares.get(name, 0) + share
        return self._for_backend(loss)

    def _for_backend(self, loss: "Tensor") -> "Tensor":
        """Data parallelism averages gradients over processes where the rule needs their sum."""
        return loss * self.args.world_size

    def _get_grad_norm(self, model: "PreTrainedModel", grad_norm: Any = None) -> Any:
        """The gradient's norm before clipping; a run whose gradient is not finite ends here, before
        the step."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            rows = (
                "; ".join(f"stream {s}, rows {r}" for s, r in self._broken().items())
                or "its loss was still finite"
            )
            raise Diverged(
                f"step {self.state.global_step + 1}: the gradient is not finite ({rows}). Nothing "
                "was updated with it. Lower trainer.args.learning_rate, or look at those rows."
            )
        return norm

    def _broken(self) -> dict[str, list[int]]:
        """The rows of each stream in the micro-batches of this step whose loss is not finite.

        It is asked for only then: to look at each loss as it comes would make a GPU wait for it.
        """
        found: dict[str, list[int]] = {}
        for number, rows, loss, shares in self._seen:
            for stream, (start, stop) in rows.items() if not torch.isfinite(loss) else ():
                if not torch.isfinite(shares.get(f"{stream}_loss", loss)):
                    found.setdefault(stream, []).extend(number[start:stop].tolist())
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each term of the loss, averaged over the steps since the last line, summed over
        processes."""
        if "loss" in logs and self._shares:
            steps = self.state.global_step - self._terms_logged_at
            totals = self._over_processes(self._shares)
            logs |= {name: total / max(steps, 1) for name, total in totals.items()}
            self._shares, self._terms_logged_at = {}, self.state.global_step
        super().log(logs, start_time)

    def more_state(self) -> dict[str, Any]:
        of_each = self.of_each(list(self._shares.values()))
        return {"terms": list(self._shares), "shares": of_each, "method": self.method.state()}

    def _over_processes(self, shares: "dict[str, Tensor]") -> dict[str, float]:
        """Sums over all processes."""
        if not shares:
            return {}
        totals = torch.stack([share.float() for share in shares.values()])
        if self.args.world_size > 1:
            totals = self.accelerator.reduce(totals, reduction="sum")
        return dict(zip(shares, totals.tolist(), strict=True))

    def end_step(self) -> None:
        """Tells the method the reduced terms of the step that ended."""
        terms, self._step_shares, self._seen = self._step_shares, {}, []
        if type(self.method).after_step is not Method.after_step:
            reduced = {
                name.removesuffix("_loss"): total
                for name, total in self._over_processes(terms).items()
            }
            self.method.after_step(reduced, self.state.epoch or 0.0)

    def restore_more(self, state: dict[str, Any]) -> None:
        mine = [
            torch.tensor(share, device=self.args.device) for share in self.mine(state["shares"])
        ]
        self._shares = dict(zip(state["terms"], mine, strict=True))
        self._terms_logged_at = state["logged_at"]
        self.method.load_state(state["method"])


class _TellMethod(transformers.TrainerCallback):
    """Completes the reference; ends each optimiser step for the method, before anything saves
    it."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.trainer.reference.tables = self.trainer.tables()
        if self.trainer.validation:
            _ = self.trainer.validation.reference

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.trainer.end_step()
