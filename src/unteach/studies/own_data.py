"""Studies of rows of one's own: `full` names rows and no experiment, and the study has no
benchmark.

What the kinds of runs then share need not be written twice. `retain` is taught as `full` is, but
for its own settings. A forget run reads its rows as `full` does, and takes those of `full` where it
names none.
"""

from collections.abc import Mapping
from typing import Any

from unteach.config.shorthand import FILE_WORDS
from unteach.errors import UserError

LONG_KEYS = {"data": "data.train_file", **FILE_WORDS}
"""Short words of rows -> the keys that they stand for."""
TRAIN_ROWS = ("data.train_file", "data.train")
FORGET_ROWS = (*FILE_WORDS.values(), "data.forget", "data.retain", "data.holdout")
"""Keys of rows that only forget runs and evaluations read: the base and the taught models do not
depend on them."""
MARKS = "data.columns.forget"
"""The key of the column that marks rows to forget."""
READING = (
    "template",
    "data.columns.",
    "data.max_length",
    "data.too_long",
    "data.turns",
    "data.txt",
)
"""Beginnings of the keys that say how rows are read, which is the same for whatever reads them."""
FILES = (*FILE_WORDS.values(), "data.train_file")
"""Keys of rows in files."""
TRAINING_TARGET = "data.columns.alternate"
"""The column of an answer to train towards, which an evaluation does not read."""


def has_own_rows(study: Mapping[str, Any]) -> bool:
    """Say whether a study names no benchmark: its `full` has rows, and no experiment."""
    full = study.get("full")
    return isinstance(full, dict) and not full.get("experiment")


def write_keys_in_full(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write every key of rows in full: `data: FILE`, `forget: FILE`, `data: {train_file: FILE}`."""
    in_full: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "data" and value == "files":
            continue
        if key == "data" and isinstance(value, dict):
            for name, item in value.items():
                in_full[f"data.{name}"] = item
        else:
            in_full[LONG_KEYS.get(key, key)] = value
    return in_full


def names_rows(settings: Mapping[str, Any]) -> bool:
    """Say whether settings, with their keys in full, name the rows that are read."""
    keys = (*TRAIN_ROWS, *FORGET_ROWS)
    return not settings.keys().isdisjoint(keys)


def reads_files(settings: Mapping[str, Any]) -> bool:
    """Say whether the rows are files, which the suite `rows` measures where no other is named."""
    return not settings.keys().isdisjoint(FILES)


def complete_study(study: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a study of own rows, so that each of its sections says all that its runs need.

    Raises:
        UserError: `full` names no rows, or `retain` none and `full` no file that may mark them.
    """
    full = write_keys_in_full(study["full"])
    if full.keys().isdisjoint(TRAIN_ROWS):
        raise UserError(
            "full: names neither rows nor a benchmark: rows of your own are `data: FILE`, a "
            "benchmark is `experiment: finetune/<benchmark>/default`"
        )
    completed = dict(study)
    completed["full"] = full
    completed["vary"] = write_keys_in_full(study.get("vary") or {})
    if study.get("base"):
        completed["base"] = write_keys_in_full(study["base"])
    if study.get("retain") is not None:
        retain = write_keys_in_full(study["retain"])
        completed["retain"] = _complete_retain(retain, full)
    completed["forget"] = []
    for entry in study.get("forget") or []:
        entry_in_full = write_keys_in_full(entry)
        completed["forget"].append(_complete_forget(entry_in_full, full))
    return completed


def _complete_retain(retain: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    """Give the retain model the settings of the full one, under its own."""
    names_no_rows = retain.keys().isdisjoint(TRAIN_ROWS)
    if names_no_rows and not retain.get("experiment"):
        if "data.train_file" not in full:
            raise UserError(
                "retain: names no rows: this model is taught only what is to be kept; write `data: "
                "FILE`"
            )
        # The rows of full that its column forget does not mark.
        retain = {
            "data.train_file": full["data.train_file"],
            "data.marked": "retain",
            **retain,
        }
    shared = dict(full)
    for key in (*TRAIN_ROWS, "name", "vary", "search"):
        shared.pop(key, None)
    return {**shared, **retain}


def _complete_forget(entry: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    """Have a forget run read rows as the full model does, and its rows where it names none."""
    if entry.get("experiment"):
        return entry
    shared = {}
    for key, value in full.items():
        if key.startswith(READING):
            shared[key] = value
    if not names_rows(entry):
        for key in TRAIN_ROWS:
            if key in full:
                shared[key] = full[key]
    return {**shared, **entry}


def select_row_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Select what an evaluation needs to know of the rows of a forget run: which they are, and how
    they are read."""
    prefixes = (*FILES, *READING, "data.max_rows")
    selected = {}
    for key, value in settings.items():
        if key.startswith(prefixes) and key != TRAINING_TARGET:
            selected[key] = value
    return selected


def drop_row_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the values that reach runs which are taught."""
    kept = dict(values)
    for key in (*FORGET_ROWS, MARKS):
        kept.pop(key, None)
    return kept
