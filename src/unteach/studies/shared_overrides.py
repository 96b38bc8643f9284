"""Which overrides of a study's command line reach which of its runs.

An override goes to every run that has its key: one of training reaches no evaluation, one of suites
no run that is not measured, and one of the model that a study starts from no run that starts from
another run of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from unteach.config import groups
from unteach.config.overrides import unquote
from unteach.config.references import is_place
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.studies import own_data

TRAINING_SECTIONS = ("trainer", "collator", "wandb")
"""Sections that an evaluation does not have: their overrides are for the runs that are trained."""
START_KEYS = (
    MODEL_KEY,
    TOKENIZER_KEY,
    "model.peft_args",
    "model.added_tokens",
    "model.base_path",
    "model.merge_adapter",
)
"""Keys of the weights that a chain of runs begins with: what follows has its parent's."""


def get_section(override: str) -> str:
    """Give the first part of an override's key."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def drop_training_overrides(overrides: Iterable[str]) -> tuple[str, ...]:
    """Keep the overrides that an evaluation on a benchmark has a use for."""
    kept = []
    for override in overrides:
        is_of_training = get_section(override) in (*TRAINING_SECTIONS, "data")
        merges_adapter = override.lstrip("+").startswith("model.merge_adapter=")
        if not is_of_training and not merges_adapter:
            kept.append(override)
    return tuple(kept)


def drop_training(
    values: Mapping[str, Any],
    overrides: Iterable[str],
    has_own_rows: bool,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keep the settings and the overrides that mean something to an evaluation of a study.

    Args:
        values: settings, by key.
        overrides: key=value.
        has_own_rows: whether the study has rows of its own, so that evaluations read some too.
    """
    kept_values = {}
    for key, value in values.items():
        if not _is_of_training(key, has_own_rows):
            kept_values[key] = value
    kept_overrides = []
    for override in overrides:
        key = override.partition("=")[0]
        if not _is_of_training(key, has_own_rows):
            kept_overrides.append(override)
    return kept_values, tuple(kept_overrides)


def _is_of_training(key: str, has_own_rows: bool) -> bool:
    """Say whether a key is of training alone, and means nothing to an evaluation."""
    section = get_section(key)
    if section != "data" and key not in own_data.LONG_KEYS:
        return section in TRAINING_SECTIONS
    if not has_own_rows:
        return True
    long_key = own_data.LONG_KEYS.get(key, key)
    return key not in own_data.select_row_settings({long_key: None})


def drop_suite_overrides(overrides: Iterable[str]) -> tuple[str, ...]:
    """Keep the overrides that a run without an evaluation has a use for; `eval=NAME` among them
    gives it one."""
    overrides = tuple(overrides)
    kept = []
    for override in overrides:
        if override.partition("=")[0] == "eval":
            return overrides
        if get_section(override) != "eval":
            kept.append(override)
    return tuple(kept)


def drop_audit_overrides(overrides: Iterable[str]) -> tuple[str, ...]:
    """Keep the overrides for a run that is no audit."""
    return tuple(word for word in overrides if get_section(word) != "audit")


def drop_start_overrides(overrides: Iterable[str]) -> tuple[str, ...]:
    """Keep the overrides for a run that starts from another one of the study, whose weights it
    has."""
    kept = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if any(key == start or key.startswith(f"{start}.") for start in START_KEYS):
            continue
        names_weights = key == "model" and names_a_place(unquote(value))
        kept.append("model=auto" if names_weights else override)
    return tuple(kept)


def names_a_place(model: str) -> bool:
    """Say whether a value of `model` is where weights are, and no name of a configuration."""
    return is_place(model) and model not in groups.list_options("model")
