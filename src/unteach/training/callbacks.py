"""Watch a run: write its metrics file, and show each logged step."""

import json
import time
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.progress
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from unteach import console, logs
from unteach.errors import name_file

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

NOT_SHOWN = ("epoch", "train_", "total_flos", "num_input_tokens_seen")
"""Prefixes of logged names that no line shows: what the library logs at the end of a run."""
SHOWN_LAST = ("grad_norm", "learning_rate")


class Watcher(TrainerCallback):
    """A callback that changes nothing of how a model trains."""

    def close(self) -> None:
        """Clean up; called once training is over, however it ended."""


class MetricsFile(Watcher):
    """Append every logged line to `metrics.jsonl`, flushed at once."""

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


def format_logs(logs: dict[str, Any], hidden: Container[str] = ()) -> str:
    """Format logged values: the loss and its terms first, gradient norm and learning rate last.

    Args:
        logs: values by name.
        hidden: names that are left out.
    """
    names = [name for name in logs if not name.startswith(NOT_SHOWN) and name not in hidden]
    names.sort(key=lambda name: (name in SHOWN_LAST, name != "loss"))
    parts = []
    for name in names:
        value = logs[name]
        text = f"{value:.4g}" if isinstance(value, int | float) else str(value)
        parts.append(f"{name.removeprefix('eval_')} {text}")
    return "  ".join(parts)


class LogLines(Watcher):
    """Print a plain line for each logged step: values, speed, time left.

    For output that cannot be redrawn.

    Args:
        hidden: logged names that no line shows.
    """

    def __init__(self, hidden: Container[str] = ()) -> None:
        self.hidden = hidden
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
        if not state.is_world_process_zero or not logs:
            return
        values = format_logs(logs, self.hidden)
        if not values:
            return
        step = f"step {state.global_step}/{state.max_steps}"
        if "loss" in logs:
            epoch = f"  epoch {state.epoch:.2f}" if state.epoch is not None else ""
            console.say(f"{step}{epoch}  {values}{self._format_speed(state)}")
        elif any(name.startswith("eval_") for name in logs):
            console.say(f"{step}  evaluated  {values}")
        else:
            console.say(f"{step}  {values}")

    def _format_speed(self, state: "TrainerState") -> str:
        """Format the steps a second and the time left; empty before the first step is done."""
        num_done = state.global_step - self.first_step
        if self.began is None or num_done < 1:
            return ""
        elapsed = max(time.monotonic() - self.began, 1e-9)
        seconds_left = (state.max_steps - state.global_step) * elapsed / num_done
        return f"  {num_done / elapsed:.3g} steps/s  {console.format_duration(seconds_left)} left"


class Progress(Watcher):
    """Show one live line on a terminal: step, loss and its terms, and the time left.

    Args:
        label: of the line.
        hidden: logged names that no line above it shows.
    """

    def __init__(self, label: str, hidden: Container[str] = ()):
        self.label = label
        self.hidden = hidden
        self.bar: rich.progress.Progress | None = None

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if not state.is_world_process_zero:
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}", markup=False),
        )
        self.bar = rich.progress.Progress(*columns, speed_estimate_period=console.EARLIEST_SPEED)
        self.task = self.bar.add_task(
            console.neutralize(self.label),
            total=state.max_steps,
            completed=state.global_step,
            losses="",
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
            losses = []
            for name, value in logs.items():
                if name == "loss" or name.endswith("_loss"):
                    losses.append(f"{name} {value:.3f}")
            self.bar.update(self.task, losses=" ".join(losses))
            return
        # An evaluation, or a look of the guard, is printed above the bar.
        values = format_logs(logs, self.hidden)
        if values:
            console.say(f"step {state.global_step}/{state.max_steps}  {values}")

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


def build_display(label: str, hidden: Container[str] = ()) -> Watcher:
    """Build what shows a run's steps: a live line on a terminal, plain lines elsewhere."""
    if logs.is_quiet():
        return Watcher()
    return Progress(label, hidden) if console.is_live() else LogLines(hidden)
