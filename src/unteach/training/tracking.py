"""Trackers: whether they are here, and what a run is called in Weights & Biases.

One run there is one run here, however often it goes on.
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
"""Where the library's callback reads whether to upload weights; all else it takes from the run that
is open."""

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""By the name of a tracker in report_to: the packages of which it needs one."""


def refuse_missing(args: dict[str, Any]) -> None:
    """Raise UserError where `report_to` names a tracker whose package is not installed."""
    asked = args.get("report_to") or []
    for name in [asked] if isinstance(asked, str) else asked:
        packages = PACKAGES.get(name, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise UserError(missing_extra("track", f"trainer.args.report_to={name}"))


@contextlib.contextmanager
def tracked(config: schema.TrainConfig, folder: Path, first: bool) -> Iterator[None]:
    """Opens the run that `wandb` of the configuration names, in the first process, and closes it
    afterwards.

    The same folder is the same run there: one that was stopped goes on with its curves. Without a
    section `wandb` the library's callback opens one by itself. The trainer must be built inside.
    """
    before = os.environ.get(LOG_MODEL)
    if config.wandb is not None:
        os.environ[LOG_MODEL] = config.wandb.log_model
        if first:
            _open(config, config.wandb, folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(LOG_MODEL, None)
        else:
            os.environ[LOG_MODEL] = before
        if (
            "wandb" in sys.modules
            and (opened := getattr(sys.modules["wandb"], "run", None)) is not None
        ):
            opened.finish()  # the next run of this process is another


def _open(config: schema.TrainConfig, told: schema.Wandb, folder: Path) -> None:
    import wandb

    if told.dir:
        Path(told.dir).mkdir(parents=True, exist_ok=True)
    name = config.trainer.args.get("run_name") or config.task_name
    wandb.init(
        project=told.project,
        entity=told.entity,
        group=told.group,
        job_type=told.job_type,
        dir=told.dir,
        name=name,
        id=fingerprints.hash_value(str(folder.resolve())),
        resume="allow",
    )
