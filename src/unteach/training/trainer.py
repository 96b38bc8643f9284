"""The one subclass of transformers.Trainer: streams in, any method's terms, the one rule of
normalisation."""

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from accelerate.utils.memory import clear_device_cache
from torch.utils.data import DataLoader

from unteach.config.dual_optim import DualOptim
from unteach.data.batches import Batch, SlotDataset, collate
from unteach.data.collators import Collator
from unteach.data.steps import MicroBatches, Steps, Turns
from unteach.data.streams import Stream
from unteach.data.template import Template
from unteach.errors import Diverged, UserError
from unteach.methods.base import Method, Side, TwoSided
from unteach.methods.wrap.perturb import Perturbation
from unteach.methods.wrap.surgery import Surgery
from unteach.models.reference import LogprobTable, Reference
from unteach.training.diverged_rows import MicroBatchRecord, find_diverged_rows
from unteach.training.dual_adamw import DualAdamW, build_dual_adamw
from unteach.training.gradient_vectors import GradientVectors
from unteach.training.parallelism import count_rows_per_step
from unteach.training.resumable import Resumable
from unteach.training.step import count_step_units, micro_batch_loss, prepass_step, setup_method
from unteach.training.two_gradients import StepInputs, TwoGradients

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments


SURGERY_MEMORY = "surgery"
"""The folder of a checkpoint that has what a rule of surgery remembers."""


def _ignore_interrupts(worker_id: int) -> None:
    """Leave Ctrl-C, which a terminal sends to workers too, to the run: it may want their rows for
    one more step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StepLoader(DataLoader):
    """A DataLoader whose batches are this rank's micro-batches of each step."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class Trainer(Resumable):
    """Train a method on streams.

    Args:
        model: with the one forward, not wrapped yet.
        args: the library's.
        method: turns the outputs of a pass into terms of the loss.
        streams: what it trains on, by name.
        anchor: the stream whose length is an epoch.
        collator: turns examples into padded tensors.
        reference: what the method compares the policy with; its tables are filled in when training
            begins.
        packed: whether rows go through the model end to end, without padding.
        template: how the model is asked, for methods that train it on words of their own.
        build_tables: computes the reference's tables, once the policy is distributed over the
            processes.
        surgery: combines the forget and the retain gradient of a step.
        perturbation: of the forget side.
        dual_optim: the learning rates of steps of two sides that take turns; None: each step has
            rows of both.
        turns: how they do.
        kwargs: what `Resumable` takes.
    """

    loss_is_scaled_for_ga = True  # micro_batch_loss already divides by the counts of the whole step

    def __init__(
        self,
        model: "PreTrainedModel",
        args: transformers.TrainingArguments,
        method: Method,
        streams: dict[str, Stream],
        anchor: str,
        collator: Collator,
        reference: Reference,
        packed: bool = False,
        template: Template | None = None,
        build_tables: Callable[[], dict[str, LogprobTable]] = dict,
        surgery: Surgery | None = None,
        perturbation: Perturbation | None = None,
        dual_optim: DualOptim | None = None,
        turns: Turns | None = None,
        **kwargs: Any,
    ):
        self.build_tables = build_tables
        self.method = method
        self.streams = streams
        self.anchor = anchor
        self.reference = reference
        self.packed = packed
        self._shares_since_log: dict[str, Tensor] = {}
        self._steps_since_log: dict[str, int] = {}
        self.dual_optim = dual_optim
        self.turns = turns
        self._side: Side | None = None
        self._dual_adamw: DualAdamW | None = None
        self._step_shares: dict[str, Tensor] = {}
        self._step_records: list[MicroBatchRecord] = []
        self._step_batches: list[Batch] = []
        self._vectors: GradientVectors | None = None
        setup_method(model, method, args.seed, streams, template)
        self.two_gradients: TwoGradients | None = None
        if surgery is not None or perturbation is not None:
            assert isinstance(method, TwoSided), "the configuration is refused otherwise"
            self.two_gradients = TwoGradients(
                method, model, reference, surgery, perturbation, args.seed
            )

        # The library wants an evaluation dataset where eval_strategy is set; ours is never read.
        train_dataset: Any = SlotDataset(streams, anchor)
        does_evaluate = kwargs.get("evaluator") or kwargs.get("validation")
        try:
            super().__init__(
                model=model,
                args=args,
                data_collator=collator,
                train_dataset=train_dataset,
                eval_dataset=train_dataset if does_evaluate else None,
                **kwargs,
            )
        except ValueError as error:  # arguments that do not go together, or not on this machine
            raise UserError(f"trainer.args: {error}") from error
        self.add_callback(_MethodCallback(self))

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        rows_per_step = count_rows_per_step(args)
        steps = Steps(self.streams, self.anchor, rows_per_step, args.seed, self.packed, self.turns)
        micro_batches = MicroBatches(
            steps, args.gradient_accumulation_steps, args.process_index, args.world_size
        )
        return StepLoader(
            SlotDataset(self.streams, self.anchor),  # type: ignore[arg-type]
            batch_sampler=micro_batches,
            collate_fn=functools.partial(collate, collator=cast(Collator, self.data_collator)),
            num_workers=args.dataloader_num_workers,
            worker_init_fn=_ignore_interrupts,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )

    def create_optimizer(self, *args: "Module") -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args)
        if self.dual_optim is not None:
            optimizer = build_dual_adamw(optimizer, self.dual_optim.forget_lr_ratio)
            self._dual_adamw = optimizer
            self.optimizer = optimizer
        return optimizer

    def _choose_side(self, batch: Batch) -> None:
        """Have the next step be of the side that its rows are of, where sides take turns."""
        if self.turns is None or self._dual_adamw is None:
            return
        stream = next(iter(batch["rows"]))
        self._side = "forget" if stream in self.turns.streams else "retain"
        self._dual_adamw.side = self._side

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: "torch.device"
    ) -> tuple[list[Batch], Any]:
        """Take the micro-batches of one step, and count the units of the whole step, over all
        processes."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        self._choose_side(batches[0])
        counts: dict[str, Tensor] = {}
        for name, count in count_step_units(self.method, batches).items():
            counts[name] = count.to(device).float()
        moved = (cast(Batch, self._prepare_inputs(cast(Any, batch))) for batch in batches)
        counts.update(prepass_step(self.model_wrapped, self.method, moved, self.reference))
        if self.args.world_size > 1:
            # One reduction for all counts.
            stacked = self.accelerator.reduce(torch.stack(list(counts.values())), reduction="sum")
            counts = dict(zip(counts, stacked, strict=True))
        self._step_batches = batches
        return batches, counts

    def training_step(
        self, model: "Module", inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> "Tensor":
        """Compute the gradient of a micro-batch; with surgery or a perturbation that of the whole
        step, when its last micro-batch comes."""
        if self.two_gradients is None:
            return super().training_step(model, inputs, num_items_in_batch)
        loss = torch.zeros((), device=self.args.device)
        if inputs is not self._step_batches[-1]:
            return loss
        model.train()
        if hasattr(self.optimizer, "train"):  # one that trains other weights than it evaluates
            cast(Any, self.optimizer).train()

        def record(batch: Batch, side_loss: "Tensor", shares: "dict[str, Tensor]") -> None:
            self._record(batch, side_loss, shares)
            loss.add_(side_loss)

        def record_perturbed(
            batch: Batch, side_loss: "Tensor", shares: "dict[str, Tensor]"
        ) -> None:
            self._step_records.append(
                MicroBatchRecord(batch["number"], batch["rows"], side_loss, shares)
            )

        def iterate_batches() -> Iterator[Batch]:
            for batch in self._step_batches:
                yield cast(Batch, self._prepare_inputs(cast(Any, batch)))

        self.two_gradients.compute(
            self._find_vectors(model),
            StepInputs(
                number=self.state.global_step,
                iterate_batches=iterate_batches,
                counts=num_items_in_batch,
                record=record,
                record_perturbed=record_perturbed,
                autocast=self.compute_loss_context_manager,
            ),
        )
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        return self._scale_for_backend(loss)

    def _find_vectors(self, model: "Module") -> GradientVectors:
        """Give the trained parameters of the wrapped model as one vector."""
        if self._vectors is None or self._vectors.model is not model:
            self._vectors = GradientVectors(model, self.dist.mode, self.args.world_size)
        return self._vectors

    def compute_loss(
        self,
        model: "Module",
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute a micro-batch's share of the step's loss.

        Args:
            num_items_in_batch: the counts that `get_batch_samples` gave.
        """
        assert not return_outputs, (
            "evaluation is done by suites and Validation, never by the Trainer's own loop"
        )
        batch = cast(Batch, inputs)
        loss, shares = micro_batch_loss(
            model, self.method, batch, self.reference, num_items_in_batch, self._side
        )
        self._record(batch, loss.detach(), shares)
        return self._scale_for_backend(loss)

    def _record(self, batch: Batch, loss: "Tensor", shares: "dict[str, Tensor]") -> None:
        """Keep what a micro-batch gives for the log, for the method, and to name its rows by."""
        self._step_records.append(MicroBatchRecord(batch["number"], batch["rows"], loss, shares))
        for name, share in shares.items():
            self._shares_since_log[name] = self._shares_since_log.get(name, 0) + share
            self._step_shares[name] = self._step_shares.get(name, 0) + share

    def _scale_for_backend(self, loss: "Tensor") -> "Tensor":
        """Undo that data parallelism averages gradients over processes: the rule needs their
        sum."""
        return loss * self.args.world_size

    def _get_grad_norm(self, model: "PreTrainedModel", grad_norm: object = None) -> Any:
        """Compute the gradient's norm before clipping.

        Raises:
            Diverged: where the gradient is not finite, before the optimiser steps with it.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is None or torch.isfinite(torch.as_tensor(norm)):
            return norm
        causes = []
        for stream, row_indices in find_diverged_rows(self._step_records).items():
            causes.append(f"stream {stream}, rows {row_indices}")
        cause = "; ".join(causes) or "its loss was still finite"
        raise Diverged(
            f"step {self.state.global_step + 1}: the gradient is not finite ({cause}). Nothing "
            "was updated with it. Lower trainer.args.learning_rate, or look at those rows."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values; beside a loss, each of its terms too, averaged over the steps since the last
        line that had it, and summed over processes."""
        if "loss" in logs and self._shares_since_log:
            for name, total in self._sum_over_processes(self._shares_since_log).items():
                logs[name] = total / max(self._steps_since_log.get(name, 1), 1)
            self._shares_since_log = {}
            self._steps_since_log = {}
        super().log(logs, start_time)

    def _sum_over_processes(self, shares: "dict[str, Tensor]") -> dict[str, float]:
        if not shares:
            return {}
        totals = torch.stack([share.float() for share in shares.values()])
        if self.args.world_size > 1:
            totals = self.accelerator.reduce(totals, reduction="sum")
        return dict(zip(shares, totals.tolist(), strict=True))

    def end_step(self) -> None:
        """Give the method the reduced terms of the step that ended."""
        shares = self._step_shares
        for name in shares:
            self._steps_since_log[name] = self._steps_since_log.get(name, 0) + 1
        self._step_shares = {}
        self._step_records = []
        # The reduction waits for a GPU: only for a method that has the hook.
        if not self.method.learns_from_steps():
            return
        terms = {}
        for name, total in self._sum_over_processes(shares).items():
            terms[name.removesuffix("_loss")] = total
        self.method.after_step(terms, self.state.epoch or 0.0)

    def collect_state(self) -> dict[str, Any]:
        return {
            "terms": list(self._shares_since_log),
            "shares": self.gather_numbers(list(self._shares_since_log.values())),
            "term_steps": [self._steps_since_log.get(name, 0) for name in self._shares_since_log],
            "method": self.method.state(),
        }

    def save_tensors(self, folder: Path) -> None:
        surgery = self.two_gradients.surgery if self.two_gradients else None
        if surgery is not None and surgery.has_memory():
            vectors = self._find_vectors(self.model_wrapped)
            vectors.save(surgery.state(), folder / SURGERY_MEMORY, self.dist.is_main)

    def restore_state(self, state: dict[str, Any]) -> None:
        self._shares_since_log = {}
        for name, share in zip(state["terms"], self.pick_own(state["shares"]), strict=True):
            self._shares_since_log[name] = torch.tensor(share, device=self.args.device)
        # Checkpoints of earlier versions have no steps by term: every step had all of them.
        num_steps = self.state.global_step - state["logged_at"]
        counts = state.get("term_steps") or [num_steps] * len(state["terms"])
        self._steps_since_log = dict(zip(state["terms"], counts, strict=True))
        self.method.load_state(state["method"])
        surgery = self.two_gradients.surgery if self.two_gradients else None
        if surgery is not None and surgery.has_memory() and self._resumed_from is not None:
            vectors = self._find_vectors(self.model_wrapped)
            surgery.load_state(vectors.load(self._resumed_from / SURGERY_MEMORY))


class _MethodCallback(transformers.TrainerCallback):
    """Complete the reference before the first step, and end each step for the method before
    anything saves it."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.trainer.reference.tables = self.trainer.build_tables()
        if self.trainer.validation:
            self.trainer.validation.prepare()

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.trainer.end_step()
