"""Where the time of a step goes: torch.profiler on a schedule of optimiser steps, a Chrome trace a
stretch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach.atomic import atomic_write
from unteach.config import watching
from unteach.lazy import torch
from unteach.training.callbacks import Watcher

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

FOLDER = "profile"


class ProfileTrace(Watcher):
    """Writes `<run>/profile/step<N>-rank<R>.json` after each active stretch: for chrome://tracing
    or Perfetto."""

    def __init__(self, asked: watching.Profiler, folder: Path):
        self.asked, self.folder = asked, folder / FOLDER
        self.profile: Any = None

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if args.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        asked = self.asked

        def write(profile: Any) -> None:
            path = self.folder / f"step{state.global_step}-rank{args.process_index}.json"
            with atomic_write(path) as temporary:
                profile.export_chrome_trace(str(temporary))

        self.profile = torch.profiler.profile(
            activities=kinds,
            on_trace_ready=write,
            with_stack=asked.stack,
            record_shapes=asked.shapes,
            profile_memory=asked.memory,
            schedule=torch.profiler.schedule(
                skip_first=asked.skip_first,
                wait=asked.wait,
                warmup=asked.warmup,
                active=asked.active,
                repeat=asked.repeat,
            ),
        )
        self.profile.start()

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        self.profile.step()

    def close(self) -> None:
        if self.profile:
            self.profile.stop()
            self.profile = None
