"""What every run does around its training loop, whatever its loss: whole checkpoints, exact resume,
evaluation, stopping.

Mixed in before a transformers.Trainer: `class Trainer(Resumable, transformers.Trainer)`.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers

from unteach import json_files, run_dir
from unteach.distributed.process_context import DistContext
from unteach.errors import Preempted, UserError
from unteach.training import checkpoint, parallelism
from unteach.training.checkpoint import CheckpointPolicy
from unteach.training.guard import CollapseGuard
from unteach.training.validation import Validation

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments


class Resumable(transformers.Trainer):
    """Write checkpoints that count only when whole, with all that the library's own leave out, and
    evaluate by held-out rows and suites.

    Args:
        dist: the processes of this run.
        checkpoint_policy: which checkpoints are kept, and when training stops early.
        evaluator: runs the suites after a step; gives metrics under `eval_…`.
        validation: measures held-out rows, wherever `eval_strategy` says.
        guard: watches for a collapse of the model.
        save_companions: writes beside a checkpoint's weights what makes them a model folder.
        args, kwargs: what a transformers.Trainer takes.
    """

    def __init__(
        self,
        *args: Any,
        dist: DistContext,
        checkpoint_policy: CheckpointPolicy,
        evaluator: Callable[[int], dict[str, float]] | None = None,
        validation: Validation | None = None,
        guard: CollapseGuard | None = None,
        save_companions: Callable[[Path], None] | None = None,
        **kwargs: Any,
    ):
        self.dist = dist
        self.checkpoint_policy = checkpoint_policy
        self.evaluator = evaluator
        self.validation = validation
        self.guard = guard
        self.save_companions = save_companions
        self.preempted = False
        self._evaluation_due = False
        self._resumed: dict[str, Any] = {}
        self._resumed_from: Path | None = None
        super().__init__(*args, **kwargs)
        parallelism.reduce_in_float32(self)
        self.remove_callback(transformers.PrinterCallback)
        self.add_callback(_BoundaryCallback(self))
        self._stopping: transformers.EarlyStoppingCallback | None = None
        if checkpoint_policy.patience is not None:
            self._stopping = transformers.EarlyStoppingCallback(
                checkpoint_policy.patience, checkpoint_policy.threshold
            )
            self.add_callback(self._stopping)
        if guard:
            guard.log = self.log
            self.add_callback(guard)

    @property
    def _run_folder(self) -> Path:
        return Path(str(self.args.output_dir))

    @property
    def _own_model(self) -> "PreTrainedModel":
        """The model without what wraps it."""
        return cast("PreTrainedModel", self.model)

    def _prepare_for_training(
        self,
        max_steps: int,
        train_dataloader: "DataLoader",
        resume_from_checkpoint: str | None,
    ) -> Any:
        mode = self.dist.mode
        with contextlib.ExitStack() as stack:
            if mode == "fsdp2":
                stack.enter_context(parallelism.single_fsdp_root(self._own_model))
            if not resume_from_checkpoint:
                stack.enter_context(parallelism.restore_exact_masters(self, mode))
            try:
                prepared = super()._prepare_for_training(
                    max_steps, train_dataloader, resume_from_checkpoint
                )
            except ValueError as error:
                # the launch's file and the run's arguments do not go together
                raise UserError(f"launch: {error}") from error
        parallelism.verify(self, mode)
        return prepared

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights of a checkpoint.

        Under ZeRO-3 the engine's own files hold them; they are gathered only where nothing else is
        kept.
        """
        if self.dist.mode != "zero3":
            super().save_model(output_dir, _internal_call)
        elif self.args.save_only_model:
            state_dict = parallelism.gather_full_state_dict(self, self.dist)
            self._save(output_dir, state_dict=state_dict)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that is not of this model; the library would only warn."""
        # Weights that are tied to others are not written, and so not missing.
        unwritten = {*(getattr(self.model, "all_tied_weights_keys", None) or ())}
        unwritten.update(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        missing = sorted(set(load_result.missing_keys) - unwritten)
        unexpected = sorted(load_result.unexpected_keys)
        for names, fault in ((missing, "lacks"), (unexpected, "has, beside this model's,")):
            if names:
                listed = ", ".join(names[:3])
                if len(names) > 3:
                    listed += f" and {len(names) - 3} more"
                raise UserError(
                    f"the checkpoint {fault} the weights {listed}: it is "
                    "damaged or of another model. Remove that checkpoint's folder to go on from "
                    "the one before, or start with resume=never"
                )

    def collect_state(self) -> dict[str, Any]:
        """Collect what else a subclass has to keep in a checkpoint, as JSON; called in every
        process."""
        return {}

    def restore_state(self, state: dict[str, Any]) -> None:
        """Restore what `collect_state` returned."""

    def save_tensors(self, folder: Path) -> None:
        """Write beside a checkpoint what else a subclass keeps as tensors; called in every
        process."""

    def gather_numbers(self, values: "list[Tensor]") -> list[list[float]]:
        """Gather running numbers of every process, in the order of ranks.

        They are kept apart, for what they add up to must not depend on a restart.
        """
        own = torch.zeros(1, 0)
        if values:
            own = torch.stack([value.float() for value in values])[None]
        by_rank: list[list[float]] = self.accelerator.gather(own.to(self.args.device)).tolist()
        return by_rank

    def pick_own(self, by_rank: list[list[float]]) -> list[float]:
        """Pick this process's numbers out of those that `gather_numbers` returned.

        Where there are more or fewer processes now, the main one has the sums and the others 0.
        """
        if len(by_rank) == self.dist.world_size:
            return by_rank[self.dist.rank]
        totals = [sum(column) for column in zip(*by_rank, strict=True)]
        return [total * self.dist.is_main for total in totals]

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Measure the held-out rows, run the suites, and log the values.

        Returns:
            The values under eval_<name> and eval_<suite>_<metric>.
        """
        metrics: dict[str, float] = {}
        step = self.state.global_step
        try:
            if self.validation:
                target_dir = self._run_folder / f"checkpoint-{step}" / run_dir.EVALS
                with self.accelerator.autocast():
                    metrics.update(self.validation.measure(self.model_wrapped, target_dir))
            if self.evaluator:
                metrics.update(self.evaluator(step))
        except Preempted:
            # The checkpoint that this run began from says already that this evaluation is due. To
            # write it once more would put the only whole one at risk.
            if step and step != checkpoint.parse_step(self._resumed_from):
                self._evaluation_due = True
                self._save_checkpoint(self.model_wrapped, None)
            raise
        self._evaluation_due = False
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def validate_final_model(self) -> None:
        """Measure the held-out rows on the model that is kept, and print the values."""
        if self.validation is None:
            return
        with self.accelerator.autocast():
            # To stop here would lose the steps since the last checkpoint: the model is saved first.
            metrics = self.validation.measure(
                self.model_wrapped, self._run_folder / run_dir.EVALS, may_stop=False
            )
        if self.args.eval_strategy == "no":
            self.log(dict(metrics))
        if self.dist.is_main:
            values = [f"{name.removeprefix('eval_')} {metrics[name]:.4g}" for name in metrics]
            print(f"validation: {', '.join(values)}")

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]:
        # eval_on_start of a run that goes on: it was made at its start
        if skip_scheduler and self.state.global_step:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        best = self.args.metric_for_best_model
        if best is not None and f"eval_{best.removeprefix('eval_')}" not in metrics:
            names = ", ".join(name.removeprefix("eval_") for name in metrics)
            raise UserError(
                f"trainer.args.metric_for_best_model={best}: step {self.state.global_step} has no "
                f"such value (its ABSENT file says why). With a value: {names}"
            )
        return super()._determine_best_metric(metrics, trial)

    def _save_checkpoint(self, model: "Module", trial: object) -> None:
        """Write a checkpoint that counts only when it is whole, then delete older ones."""
        folder = self._run_folder / f"checkpoint-{self.state.global_step}"
        if self.dist.is_main:
            checkpoint.begin(folder)
        super()._save_checkpoint(model, trial)
        # In every process: some of the state is gathered.
        state = self._collect_all_state()
        if not self.args.save_only_model:
            self.save_tensors(folder)

        # Sharded weights are whole once every process has written its own.
        self.dist.barrier()
        if self.dist.is_main:
            parallelism.save_model_config(self._own_model, folder)
            if self.save_companions:
                self.save_companions(folder)
            checkpoint.write_state(folder, state)
            checkpoint.complete(folder)
            best, limit = self.state.best_model_checkpoint, self.checkpoint_policy.limit
            checkpoint.rotate(self._run_folder, limit, best)
        self.dist.barrier()

    def _collect_all_state(self) -> dict[str, Any]:
        """Collect what the library's own checkpoint leaves out."""
        num_without_better = 0
        if self._stopping:
            num_without_better = self._stopping.early_stopping_patience_counter
        return {
            "spread": {
                "mode": self.dist.mode,
                "world": self.dist.world_size,
                "rows": parallelism.count_rows_per_step(self.args),
            },
            "resumable": not self.args.save_only_model,
            "evaluation_due": self._evaluation_due,
            "logged_at": self._globalstep_last_logged,
            "loss_since_log": self.gather_numbers([self._tr_loss]),
            "loss_logged": self._total_loss_scalar,
            "without_better": num_without_better,
            "guard": self.guard.state() if self.guard else {},
            **self.collect_state(),
        }

    def train_from(self, start: Path | None) -> None:
        """Train from a checkpoint, or from the beginning."""
        self._resumed = checkpoint.read_state(start) if start else {}
        self._resumed_from = start
        if self.guard and self._resumed.get("guard"):
            self.guard.load_state(self._resumed["guard"])
        if start and self._was_training_over(checkpoint.parse_step(start)):
            self._take_trained_model(start)
            return
        if start and self.dist.is_main:
            json_files.drop_closing_line(self._run_folder / run_dir.METRICS)
        self.train(resume_from_checkpoint=str(start) if start else None)
        if self.guard and self.guard.goes_back and not self.preempted:
            if self.dist.mode not in ("one", "ddp"):
                self._load_best_model()
            else:
                self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    @property
    def patience_is_over(self) -> bool:
        """Whether `early_stopping_patience` evaluations in a row were not better."""
        if self._stopping is None:
            return False
        counter = self._stopping.early_stopping_patience_counter
        return bool(counter >= self._stopping.early_stopping_patience)

    def _was_training_over(self, step: int) -> bool:
        """Say whether training was over when the checkpoint of this step was written."""
        if self._stopping:
            patience = self._stopping.early_stopping_patience
            if self._resumed["without_better"] >= patience:
                return True
        if self.guard and self.guard.ended:
            return True
        return 0 < self.args.max_steps <= step

    def _take_trained_model(self, start: Path) -> None:
        """Load the model of a checkpoint after which training was over, or the best model.

        The library would train one more step where max_steps ends within an epoch.
        """
        self.state = transformers.TrainerState.load_from_json(str(start / "trainer_state.json"))
        if self._stopping:
            self._stopping.early_stopping_patience_counter = self._resumed["without_better"]
        self._close_log()
        takes_best = self.args.load_best_model_at_end or (self.guard and self.guard.goes_back)
        best = self.state.best_model_checkpoint if takes_best else None
        if self.dist.mode in ("one", "ddp"):
            self._load_from_checkpoint(best or str(start))
            return
        # Only a model that is wrapped and sharded can load its shards.
        max_steps = max(self.args.max_steps, 1)
        self._prepare_for_training(max_steps, self.get_train_dataloader(), str(start))
        if best:
            self._load_best_model()

    def _close_log(self) -> None:
        """Write the line that closes a run's log, where the process that trained ended before it
        could."""
        lines, _ = json_files.read_log(self._run_folder / run_dir.METRICS)
        if not self.dist.is_main or any("train_runtime" in line for line in lines):
            return
        loss_since_log = self.pick_own(self._resumed["loss_since_log"])[0]
        total_loss = self._resumed.get("loss_logged", 0.0) + loss_since_log
        mean_loss = total_loss / max(self.state.global_step, 1)
        self.log(
            {"train_runtime": 0.0, "total_flos": self.state.total_flos, "train_loss": mean_loss}
        )

    def restore(self) -> None:
        """Restore what is not in the library's own checkpoint, once training has begun again."""
        if not self._resumed:
            return
        self._tr_loss += self.pick_own(self._resumed["loss_since_log"])[0]
        self._globalstep_last_logged = self._resumed["logged_at"]
        if "loss_logged" in self._resumed:
            # The mean loss of a run is that of all its steps, not of those since the restart.
            self._total_loss_scalar = self._resumed["loss_logged"]
            self._initial_global_step = 0
        if self._stopping:
            self._stopping.early_stopping_patience_counter = self._resumed["without_better"]
        self.restore_state(self._resumed)
        if self._resumed["evaluation_due"]:
            self._determine_best_metric(self.evaluate(), trial=None)


class _BoundaryCallback(transformers.TrainerCallback):
    """Restore state at the beginning, and stop between two steps.

    When any process was asked to stop, all stop after the same step. The last steps of a run are
    logged, however few they are.
    """

    def __init__(self, trainer: Resumable):
        self.trainer = trainer

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.trainer.checkpoint_policy.refuse_steps_after(state.max_steps)
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
        control.should_save |= state.global_step in self.trainer.checkpoint_policy.at_steps
        if self.trainer.dist.should_stop():
            self.trainer._evaluation_due = control.should_evaluate
            control.should_evaluate = False
            control.should_save = True
            control.should_training_stop = True
            self.trainer.preempted = True
