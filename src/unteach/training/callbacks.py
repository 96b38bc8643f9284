"""What watches a run: the metrics file, and what is shown of each logged step."""

import json
import time
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from unteach import console
from unteach.errors import name_file

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

NOT_SHOWN = ("epoch", "train_", "total_flos", "num_input_tokens_seen")
"""Beginnings of logged names that are left out of a line: the library's own account of a run at its
end."""
LAST = ("grad_norm", "learning_rate")


class Watcher(TrainerCallback):
    """Looks on while a model trains, and changes nothing of how it does."""

    def close(self) -> None:
        """Called once training is over, however it ended."""


class MetricsFile(Watcher):
    """Appends every logged line to `metrics.jsonl`, flushed at once."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        if state.is_world_process_zero and logs:
            progress = state.global_step / state.max_steps if state.max_steps else None
            line = {"step": state.global_step, "epoch": state.epoch, "progress": progress, **logs}
            with name_file(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def format_logs(logs: dict[str, Any], left_out: Container[str] = ()) -> str:
    """Write logged values as words: the loss and its terms first, gradient norm and learning rate
    last."""
    shown = {
        k: value for k, value in logs.items() if not k.startswith(NOT_SHOWN) and k not in left_out
    }
    order = sorted(shown, key=lambda name: (name in LAST, name != "loss"))
    return "  ".join(f"{name.removeprefix('eval_')} {_short(shown[name])}" for name in order)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


class LogLines(Watcher):
    """One plain line for each logged step: values, speed, time left. For output that cannot be
    redrawn.

    left_out: logged names that no line shows.
    """

    def __init__(self, left_out: Container[str] = ()) -> None:
        self.left_out = left_out
        self.began: float | None = None
        self.first_step = 0

    def on_step_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if self.began is None:
            self.began, self.first_step = time.monotonic(), state.global_step

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        if (
            not state.is_world_process_zero
            or not logs
            or not (said := format_logs(logs, self.left_out))
        ):
            return
        is_training = "loss" in logs
        is_evaluation = not is_training and any(name.startswith("eval_") for name in logs)
        what = "evaluated  " if is_evaluation else ""
        epoch = f"  epoch {state.epoch:.2f}" if is_training and state.epoch is not None else ""
        pace = self._pace(state) if is_training else ""
        console.say(f"step {state.global_step}/{state.max_steps}{epoch}  {what}{said}{pace}")

    def _pace(self, state: "TrainerState") -> str:
        done = state.global_step - self.first_step
        if self.began is None or done < 1:
            return ""
        spent = max(time.monotonic() - self.began, 1e-9)
        left = (state.max_steps - state.global_step) * spent / done
        return f"  {done / spent:.3g} steps/s  {console.format_duration(left)} left"


class Progress(Watcher):
    """One live line: step, loss and its terms, and the time left. For a terminal.

    left_out: logged names that no line above it shows.
    """

    def __init__(self, label: str, left_out: Container[str] = ()):
        self.label, self.left_out = label, left_out
        self.bar: Any = None

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if not state.is_world_process_zero:
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}", markup=False),
        )
        self.bar = Progress(*columns, speed_estimate_period=console.EARLIEST_SPEED)
        self.task = self.bar.add_task(
            console.neutralize(self.label),
            total=state.max_steps,
            completed=state.global_step,
            said="",
        )
        self.bar.start()

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        if not self.bar or not logs:
            return
        if "loss" in logs:
            terms = {k: v for k, v in logs.items() if k == "loss" or k.endswith("_loss")}
            self.bar.update(self.task, said=" ".join(f"{k} {v:.3f}" for k, v in terms.items()))
        elif said := format_logs(logs, self.left_out):
            # an evaluation, or a look of the guard: above the bar
            console.say(f"step {state.global_step}/{state.max_steps}  {said}")

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None

    def on_train_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.close()


def make_display(label: str, left_out: Container[str] = ()) -> Watcher:
    """Build what shows a run's steps on this output."""
    return Progress(label, left_out) if console.is_live() else LogLines(left_out)
