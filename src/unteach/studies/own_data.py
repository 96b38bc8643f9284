"""Studies of rows of one's own: `full` names rows and no experiment, and the study has no
benchmark.

What the kinds of runs then share is said once. `retain` is taught as `full` is, but for what it
says itself. A forget run reads its rows as `full` does, and takes those of `full` where it names
none.
"""

from collections.abc import Iterable, Mapping
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


def is_own(study: Mapping[str, Any]) -> bool:
    """Whether a study names no benchmark: its `full` has rows, and no experiment."""
    full = study.get("full")
    return isinstance(full, dict) and not full.get("experiment")


def spell_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with every key of rows in full: `data: FILE`, `forget: FILE`, `data:
    {train_file: FILE}`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "data" and isinstance(value, dict):
            found |= {f"data.{name}": item for name, item in value.items()}
        elif key == "data" and value == "files":
            continue
        else:
            found[LONG_KEYS.get(key, key)] = value
    return found


def names_rows(settings: Mapping[str, Any]) -> bool:
    """Whether settings, in full, say which rows are read."""
    return any(key in settings for key in (*TRAIN_ROWS, *FORGET_ROWS))


def reads_files(settings: Mapping[str, Any]) -> bool:
    """Whether the rows are files, which the suite `rows` measures where no other is named."""
    return any(key in settings for key in FILES)


def complete(study: Mapping[str, Any]) -> dict[str, Any]:
    """A study of own rows, each of whose sections says all that its runs need.

    Raises:
        UserError: where `full` names no rows, or `retain` none and `full` no file that may mark
        them.
    """
    full = spell_out(study["full"])
    if not any(key in full for key in TRAIN_ROWS):
        raise UserError(
            "full: names neither rows nor a benchmark: rows of your own are `data: FILE`, a "
            "benchmark is `experiment: finetune/<benchmark>/default`"
        )
    completed = {**study, "full": full, "vary": spell_out(study.get("vary") or {})}
    if study.get("base"):
        completed["base"] = spell_out(study["base"])
    if study.get("retain") is not None:
        completed["retain"] = _complete_retain(spell_out(study["retain"]), full)
    entries = study.get("forget") or []
    completed["forget"] = [_complete_forget(spell_out(entry), full) for entry in entries]
    return completed


def _complete_retain(retain: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    if not (retain.get("experiment") or any(key in retain for key in TRAIN_ROWS)):
        if "data.train_file" not in full:
            raise UserError(
                "retain: names no rows: this model is taught only what is to be kept; write `data: "
                "FILE`"
            )
        # The rows of full that its column forget does not mark.
        retain = {"data.train_file": full["data.train_file"], "data.marked": "retain", **retain}
    left_out = (*TRAIN_ROWS, "name", "vary", "search")
    return {key: value for key, value in full.items() if key not in left_out} | retain


def _complete_forget(entry: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    if entry.get("experiment"):
        return entry
    shared = {key: value for key, value in full.items() if key.startswith(READING)}
    if not names_rows(entry):
        shared |= {key: full[key] for key in TRAIN_ROWS if key in full}
    return shared | entry


def rows_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation is told of the rows of a forget run: which they are, and how they are
    read."""
    keys = (*FILES, *READING, "data.max_rows")
    not_asked = "data.columns.alternate"  # an answer to train towards
    return {
        key: value for key, value in settings.items() if key.startswith(keys) and key != not_asked
    }


def without_rows(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that reach runs which are taught."""
    return {key: value for key, value in values.items() if key not in (*FORGET_ROWS, MARKS)}


def unique(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different ones, in their order."""
    kept: list[dict[str, Any]] = []
    for one in found:
        if one not in kept:
            kept.append(one)
    return kept
