"""Check that a run's trackers are installed, and open its run in Weights & Biases.

A run of ours is one run there, however often it goes on.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unteach import fingerprints
from unteach.config import schema
from unteach.errors import UserError, missing_extra

LOG_MODEL = "WANDB_LOG_MODEL"
"""The variable in which the library's callback reads whether to upload weights; everything else it
takes from the run that is open."""
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""By the name of a tracker in report_to, the packages of which it needs one."""


def refuse_missing(args: dict[str, Any]) -> None:
    """Raise UserError where `report_to` names a tracker whose package is not installed."""
    trackers = args.get("report_to") or []
    if isinstance(trackers, str):
        trackers = [trackers]
    for name in trackers:
        packages = PACKAGES.get(name, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise UserError(missing_extra("track", f"trainer.args.report_to={name}"))


@contextlib.contextmanager
def open_trackers(config: schema.TrainConfig, run_folder: Path, is_main: bool) -> Iterator[None]:
    """Open the run that `wandb` of the configuration names, and close it afterwards.

    The same folder is the same run there: one that was stopped goes on with its curves. Without a
    section `wandb` the library's callback opens one by itself. The trainer must be built inside.

    Args:
        config: a run's.
        run_folder: the run's.
        is_main: whether this is the main process, which alone opens it.
    """
    before = os.environ.get(LOG_MODEL)
    if config.wandb is not None:
        os.environ[LOG_MODEL] = config.wandb.log_model
        if is_main:
            _open_wandb(config, config.wandb, run_folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(LOG_MODEL, None)
        else:
            os.environ[LOG_MODEL] = before
        # The next run of this process is another: one left open would take its values.
        open_run = getattr(sys.modules.get("wandb"), "run", None)
        if open_run is not None:
            open_run.finish()


def _open_wandb(config: schema.TrainConfig, settings: schema.Wandb, run_folder: Path) -> None:
    import wandb

    if settings.dir:
        Path(settings.dir).mkdir(parents=True, exist_ok=True)
    wandb.init(
        project=settings.project,
        entity=settings.entity,
        group=settings.group,
        job_type=settings.job_type,
        dir=settings.dir,
        name=config.trainer.args.get("run_name") or config.task_name,
        id=fingerprints.hash_value(str(run_folder.resolve())),
        resume="allow",
    )
