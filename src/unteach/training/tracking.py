"""Weights & Biases: what a run is called there, and one run there for one run here, however often it goes on."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from unteach import runs, schema


@contextlib.contextmanager
def tracked(config: schema.Config, folder: Path) -> Iterator[None]:
    """Puts `wandb` of the configuration where the library's callback reads it; afterwards closes the run there.

    The same folder is the same run there: one that was stopped goes on with its curves. Variables that the user set
    stand wherever the configuration says nothing.
    """
    told = config.wandb or schema.Wandb()
    asked = config.trainer.args.get("report_to") if config.trainer else None
    on = config.wandb is not None or "wandb" in (asked if isinstance(asked, list) else [asked])
    names = {
        "WANDB_PROJECT": told.project,
        "WANDB_ENTITY": told.entity,
        "WANDB_RUN_GROUP": told.group,
        "WANDB_JOB_TYPE": told.job_type,
        "WANDB_LOG_MODEL": told.log_model if config.wandb else None,
        "WANDB_DIR": told.dir or (str(folder) if on else None),
        "WANDB_RUN_ID": runs.digest(str(folder.resolve())) if on else None,
        "WANDB_RESUME": "allow" if on else None,
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: value for name, value in names.items() if value is not None})
    if told.dir:
        Path(told.dir).mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if "wandb" in sys.modules and (open_run := getattr(sys.modules["wandb"], "run", None)) is not None:
            open_run.finish()
