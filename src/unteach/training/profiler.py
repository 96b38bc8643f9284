"""Profile where the time of a step goes: torch.profiler on a schedule of optimiser steps.

Each active stretch gives one Chrome trace.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from unteach.atomic import atomic_write
from unteach.config import watching
from unteach.lazy import torch
from unteach.training.callbacks import Watcher

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

FOLDER = "profile"


class ProfileTrace(Watcher):
    """Write `<run>/profile/step<N>-rank<R>.json` after each active stretch, for chrome://tracing or
    Perfetto."""

    def __init__(self, settings: watching.Profiler, run_folder: Path):
        self.settings = settings
        self.trace_dir = run_folder / FOLDER
        self.profile: torch.profiler.profile | None = None

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if args.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)

        def write_trace(profile: "torch.profiler.profile") -> None:
            name = f"step{state.global_step}-rank{args.process_index}.json"
            with atomic_write(self.trace_dir / name) as temporary:
                profile.export_chrome_trace(str(temporary))

        settings = self.settings
        schedule = torch.profiler.schedule(
            skip_first=settings.skip_first,
            wait=settings.wait,
            warmup=settings.warmup,
            active=settings.active,
            repeat=settings.repeat,
        )
        self.profile = torch.profiler.profile(
            activities=activities,
            on_trace_ready=write_trace,
            with_stack=settings.stack,
            record_shapes=settings.shapes,
            profile_memory=settings.memory,
            schedule=schedule,
        )
        self.profile.start()

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if self.profile:
            self.profile.step()

    def close(self) -> None:
        if self.profile:
            self.profile.stop()
            self.profile = None
