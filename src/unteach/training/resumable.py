"""What every run does round its training loop, whosever loss it is: whole checkpoints, exact
resume, suites, stopping.

Mixed in before a transformers.Trainer: `class Trainer(Resumable, transformers.Trainer)`.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from unteach import json_files, run_dir
from unteach.distributed.process_context import DistContext
from unteach.errors import Preempted, UserError
from unteach.training import checkpoint, parallelism
from unteach.training.guard import CollapseGuard

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerControl, TrainerState, TrainingArguments


@dataclass(frozen=True)
class CheckpointPolicy:
    """How many whole checkpoints are kept, and after how many evaluations without one better by
    more than the threshold training stops."""

    limit: int = 1
    patience: int | None = None
    threshold: float = 0.0


class Resumable(transformers.Trainer):
    """Checkpoints that count only when whole, with all that the library's own leave out; evaluation
    by rows that are held out and by suites.

    dist: the processes of this run. validation, evaluator: run wherever `eval_strategy` says, and
    give metrics under `eval_…`. save_companions: writes beside a checkpoint's weights what makes
    them a model folder.
    """

    def __init__(
        self,
        *args: Any,
        dist: DistContext,
        checkpoint_policy: CheckpointPolicy,
        evaluator: Callable[[int], dict[str, float]] | None = None,
        validation: Any = None,
        guard: CollapseGuard | None = None,
        save_companions: Callable[[Path], None] | None = None,
        **kwargs: Any,
    ):
        self.save_companions, self.validation = save_companions, validation
        self.dist, self.evaluator, self.guard = dist, evaluator, guard
        self.checkpoint_policy = checkpoint_policy
        self.preempted = False
        self._evaluation_due = False
        self._resumed: dict[str, Any] = {}
        self._resumed_step = 0
        super().__init__(*args, **kwargs)
        parallelism.reduce_in_float32(self)
        self.remove_callback(transformers.PrinterCallback)
        self.add_callback(_AtBoundaries(self))
        patience, least = checkpoint_policy.patience, checkpoint_policy.threshold
        self._stopping = (
            transformers.EarlyStoppingCallback(patience, least) if patience is not None else None
        )
        if self._stopping:
            self.add_callback(self._stopping)
        if guard:
            guard.log = self.log
            self.add_callback(guard)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any
    ) -> Any:
        single_fsdp_root = (
            parallelism.single_fsdp_root(self.model)
            if self.dist.mode == "fsdp2"
            else contextlib.nullcontext()
        )
        fresh = (
            contextlib.nullcontext()
            if resume_from_checkpoint
            else parallelism.exact_masters(self, self.dist.mode)
        )
        with single_fsdp_root, fresh:
            try:
                prepared = super()._prepare_for_training(
                    max_steps, train_dataloader, resume_from_checkpoint
                )
            except ValueError as error:
                # the launch's file and the run's arguments do not go together
                raise UserError(f"launch: {error}") from error
        parallelism.verify(self, self.dist.mode)
        return prepared

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Under ZeRO-3 the engine's own files hold the weights; they are gathered only where
        nothing else is kept."""
        if self.dist.mode != "zero3":
            super().save_model(output_dir, _internal_call)
        elif self.args.save_only_model:
            state = parallelism.gather_full_state_dict(self, self.dist.mode)
            self._save(output_dir, state_dict=state)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that is not of this model. Weights that are tied to others are not
        written or missing."""
        unwritten = {*(getattr(self.model, "all_tied_weights_keys", None) or ())}
        unwritten |= {*(getattr(self.model, "_keys_to_ignore_on_save", None) or ())}
        missing = sorted({*load_result.missing_keys} - unwritten)
        for names, fault in (
            (missing, "lacks"),
            (sorted(load_result.unexpected_keys), "has, beside this model's,"),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise UserError(
                    f"the checkpoint {fault} the weights {', '.join(names[:3])}{more}: it is "
                    "damaged or of another model. Remove that checkpoint's folder to go on from "
                    "the one before, or start with resume=never"
                )

    def more_state(self) -> dict[str, Any]:
        """What else a checkpoint must hold, as JSON; called in every process."""
        return {}

    def restore_more(self, state: dict[str, Any]) -> None:
        """Takes back what `more_state` gave."""

    def of_each(self, values: "list[Tensor]") -> list[list[float]]:
        """Running numbers of every process, in the order of ranks: what they add up to must not
        depend on a restart."""
        own = (
            torch.stack([value.float() for value in values])[None] if values else torch.zeros(1, 0)
        )
        found: list[list[float]] = self.accelerator.gather(own.to(self.args.device)).tolist()
        return found

    def mine(self, of_each: list[list[float]]) -> list[float]:
        """This process's numbers again; where there are more or fewer processes now, the first has
        the sums."""
        if len(of_each) == self.dist.world_size:
            return of_each[self.dist.rank]
        return [sum(column) * self.dist.is_main for column in zip(*of_each, strict=True)]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures the rows held out, and runs the suites; logged under eval_<name> and
        eval_<suite>_<metric>."""
        metrics: dict[str, float] = {}
        step = self.state.global_step
        try:
            if self.validation:
                place = Path(str(self.args.output_dir)) / f"checkpoint-{step}" / run_dir.EVALS
                with self.accelerator.autocast():
                    metrics |= self.validation.measure(self.model_wrapped, place)
            if self.evaluator:
                metrics |= self.evaluator(step)
        except Preempted:
            # The checkpoint that this run began from says already that this evaluation is due. To
            # write it once more would put the only whole one at risk.
            if step and step != self._resumed_step:
                self._evaluation_due = True
                self._save_checkpoint(self.model_wrapped, None)
            raise
        self._evaluation_due = False
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]:
        # eval_on_start of a run that goes on: it was made at its start
        if skip_scheduler and self.state.global_step:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = self.args.metric_for_best_model
        if best is not None and f"eval_{best.removeprefix('eval_')}" not in metrics:
            there = ", ".join(name.removeprefix("eval_") for name in metrics)
            raise UserError(
                f"trainer.args.metric_for_best_model={best}: step {self.state.global_step} has no "
                f"such value (its ABSENT file says why). With a value: {there}"
            )
        return super()._determine_best_metric(metrics, trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint that counts only when it is whole, then lets older ones go."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.dist.is_main:
            checkpoint.begin(folder)
        super()._save_checkpoint(model, trial)
        state = {
            "spread": {
                "mode": self.dist.mode,
                "world": self.dist.world_size,
                "rows": parallelism.step_size(self.args),
            },
            "resumable": not self.args.save_only_model,
            "evaluation_due": self._evaluation_due,
            "logged_at": self._globalstep_last_logged,
            "loss_since_log": self.of_each([self._tr_loss]),
            "loss_logged": self._total_loss_scalar,
            "without_better": self._stopping.early_stopping_patience_counter
            if self._stopping
            else 0,
            "guard": self.guard.state() if self.guard else {},
            **self.more_state(),
        }
        self.dist.barrier()
        if self.dist.is_main:
            parallelism.describe(self.model, folder)
            if self.save_companions:
                self.save_companions(folder)
            checkpoint.write_state(folder, state)
            checkpoint.complete(folder)
            best, limit = self.state.best_model_checkpoint, self.checkpoint_policy.limit
            checkpoint.rotate(folder.parent, limit, best)
        self.dist.barrier()

    def train_from(self, start: Path | None) -> None:
        """Trains from a checkpoint, or from the beginning."""
        self._resumed = checkpoint.read_state(start) if start else {}
        self._resumed_step = checkpoint.step_of(start)
        if self.guard and self._resumed.get("guard"):
            self.guard.load_state(self._resumed["guard"])
        if start and self._trained(checkpoint.step_of(start)):
            self._end_as_trained(start)
            return
        if start and self.dist.is_main:
            json_files.drop_closing_line(Path(str(self.args.output_dir)) / run_dir.METRICS)
        self.train(resume_from_checkpoint=str(start) if start else None)
        if self.guard and self.guard.goes_back and not self.preempted:
            if self.dist.mode not in ("one", "ddp"):
                self._load_best_model()
            else:
                self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    @property
    def patience_is_over(self) -> bool:
        """Whether `early_stopping_patience` evaluations in a row were not better."""
        stopping = self._stopping
        return (
            stopping is not None
            and stopping.early_stopping_patience_counter >= stopping.early_stopping_patience
        )

    def _trained(self, step: int) -> bool:
        """Whether training was over when the checkpoint of this step was written."""
        patience = self._stopping.early_stopping_patience if self._stopping else None
        stopped = patience is not None and self._resumed["without_better"] >= patience
        return stopped or bool(self.guard and self.guard.ended) or 0 < self.args.max_steps <= step

    def _end_as_trained(self, start: Path) -> None:
        """Training was over when this checkpoint was written: only its model, or the best, is left
        to take.

        The library would train one more step where max_steps ends within an epoch.
        """
        self.state = transformers.TrainerState.load_from_json(str(start / "trainer_state.json"))
        if self._stopping:
            self._stopping.early_stopping_patience_counter = self._resumed["without_better"]
        self._close_log()
        takes_best = self.args.load_best_model_at_end or (self.guard and self.guard.goes_back)
        best = self.state.best_model_checkpoint if takes_best else None
        if self.dist.mode not in ("one", "ddp"):  # only what is spread can take its share of it
            self._prepare_for_training(
                max(self.args.max_steps, 1), self.get_train_dataloader(), str(start)
            )
            if best:
                self._load_best_model()
            return
        self._load_from_checkpoint(best or str(start))

    def _close_log(self) -> None:
        """Write the line that closes a run's log, where the process that trained ended before it
        could."""
        lines, _ = json_files.read_log(Path(str(self.args.output_dir)) / run_dir.METRICS)
        if not self.dist.is_main or any("train_runtime" in line for line in lines):
            return
        total = (
            self._resumed.get("loss_logged", 0.0) + self.mine(self._resumed["loss_since_log"])[0]
        )
        mean_loss = total / max(self.state.global_step, 1)
        self.log(
            {"train_runtime": 0.0, "total_flos": self.state.total_flos, "train_loss": mean_loss}
        )

    def restore(self) -> None:
        """Brings back what is not in the library's own checkpoint, once training has begun
        again."""
        if not self._resumed:
            return
        self._tr_loss += self.mine(self._resumed["loss_since_log"])[0]
        self._globalstep_last_logged = self._resumed["logged_at"]
        if "loss_logged" in self._resumed:  # the mean loss of a run is that of all its steps
            self._total_loss_scalar, self._initial_global_step = self._resumed["loss_logged"], 0
        if self._stopping:
            self._stopping.early_stopping_patience_counter = self._resumed["without_better"]
        self.restore_more(self._resumed)
        if self._resumed["evaluation_due"]:
            self._determine_best_metric(self.evaluate(), trial=None)


class _AtBoundaries(transformers.TrainerCallback):
    """Restores at the beginning; stops between two steps, on all processes at once, when one was
    asked to; has the last steps logged, however few they are."""

    def __init__(self, trainer: Resumable):
        self.trainer = trainer

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.trainer.restore()

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if state.global_step >= state.max_steps and args.logging_strategy == "steps":
            control.should_log = True
        if self.trainer.dist.should_stop():
            self.trainer._evaluation_due = control.should_evaluate
            control.should_evaluate = False
            control.should_save = True
            control.should_training_stop = True
            self.trainer.preempted = True
