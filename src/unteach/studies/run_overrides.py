"""The overrides that a run of a study is composed from: what it starts from, its own settings, what
varies, its suites and its folder."""

from typing import Any

from unteach.config.overrides import spell_value, unquote
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.studies.plan import PlannedRun
from unteach.studies.shared_overrides import names_a_place

ENTRY_KEYS = ("name", "from")
"""Keys of an entry of a study file that are no overrides."""
Settings = dict[str, Any]
"""An entry of a study file: keys of the configuration with their values."""


def spell_overrides(values: Settings) -> list[str]:
    """Write settings as overrides."""
    return [f"{key}={spell_value(value)}" for key, value in values.items()]


def build_tracking_overrides(
    wandb: Settings | None,
    study: str,
    kind: str,
) -> list[str]:
    """Make a run that is trained one of the study's group in Weights & Biases, with its kind as its
    job type."""
    if wandb is None or kind == "eval":
        return []
    settings = {"group": study, "job_type": kind, **wandb}
    overrides = ["trainer.args.report_to=wandb"]
    for key, value in settings.items():
        overrides.append(f"wandb.{key}={spell_value(value)}")
    return overrides


def continue_from(parent: PlannedRun | None) -> Settings:
    """Give the settings of a run that starts from another one of the study.

    It keeps its parent's model and starts from its parent's folder, where the tokenizer is too.
    """
    if parent is None:
        return {}
    settings: Settings = {}
    for override in parent.overrides:
        if override.startswith("model="):
            model = override.removeprefix("model=")
            # A place is the weights that the parent started from; the child has the parent's.
            if names_a_place(unquote(model)):
                model = "auto"
            if model:
                settings["model"] = model
            break
    settings[MODEL_KEY] = parent.folder
    settings[TOKENIZER_KEY] = parent.folder
    return settings
