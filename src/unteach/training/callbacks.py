"""What watches a run: the metrics file and the progress line."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class Watcher(TrainerCallback):
    """Looks on while a model trains, and changes nothing of how it does."""

    def close(self) -> None:
        """Called once training is over, however it ended."""


class MetricsFile(Watcher):
    """Appends every logged line to `metrics.jsonl`, flushed at once."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            progress = state.global_step / state.max_steps if state.max_steps else None
            line = {"step": state.global_step, "epoch": state.epoch, "progress": progress, **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


class Progress(Watcher):
    """One live line: step, loss and its terms, and the time left."""

    def __init__(self, label: str):
        self.label = label
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
        )
        self.bar = Progress(*(TextColumn(c) if isinstance(c, str) else c for c in columns), transient=False)
        self.task = self.bar.add_task(self.label, total=state.max_steps, said="")
        self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.bar and logs and "loss" in logs:
            shown = {k: v for k, v in logs.items() if k == "loss" or k.endswith("_loss")}
            self.bar.update(self.task, said=" ".join(f"{k} {v:.3f}" for k, v in shown.items() if k != "train_loss"))

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()
