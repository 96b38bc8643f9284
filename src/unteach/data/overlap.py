"""Rows that a run is both to forget and to retain: found in files before a model is loaded, and counted elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.config.schema import Part
from unteach.data import repeats, sources, tokenized
from unteach.data.choice import flag
from unteach.data.faults import Faults
from unteach.wording import counted

if TYPE_CHECKING:
    import numpy as np


def overlap_in_files(parts: Mapping[str, Part]) -> str | None:
    """What there is to say about rows of the user's files that are both forgotten and retained; "" where none are.

    They stand in the streams `forget` and `retain`, or in `train` with a column that says which a row is. None where
    the run has no such rows, or has their tokens alone.
    """
    if {"forget", "retain"} <= set(parts):
        forgotten, retained = _read(parts["forget"]), _read(parts["retain"])
        return _compare(forgotten, retained) if forgotten and retained else None
    train = parts.get("train")
    if train is None or "forget_key" not in train.args:
        return None
    rows = _read(train)
    return _compare(*_split_by_flag(rows, train.args["forget_key"])) if rows else None


@dataclass(frozen=True)
class _Side:
    """Rows to forget or to retain. hashes: a number for each, equal where rows say the same. places: their numbers."""

    hashes: "np.ndarray"
    places: Sequence[int]
    faults: Faults

    def describe(self, rows: list[int]) -> str:
        return f"{self.faults.where}, {self.faults.listed([self.places[row] for row in rows])}"


def _read(part: Part) -> _Side | None:
    """The rows of a dataset; None where only their tokens are there."""
    hf_args = part.args["hf_args"]
    if tokenized.is_tokenized(hf_args.get("path")):
        return None
    rows = sources.load_rows(hf_args)
    hashes = repeats.hash_rows(repeats.read_keys(part.cls, part.args), rows)
    return _Side(hashes, range(len(rows)), Faults(sources.named(hf_args), rows))


def _split_by_flag(side: _Side, column: str) -> tuple[_Side, _Side]:
    """The rows with 1 in a column, and those with 0."""
    faults = side.faults
    places: dict[bool, list[int]] = {True: [], False: []}
    for number, row in enumerate(faults.rows):
        if side.hashes[number]:  # what is dropped need not say it
            where = sources.place(faults.rows, number, faults.where)
            places[flag(row.get(column), column, where)].append(number)
    forgotten, retained = places[True], places[False]
    return _Side(side.hashes[forgotten], forgotten, faults), _Side(side.hashes[retained], retained, faults)


def _compare(forgotten: _Side, retained: _Side) -> str:
    rows = repeats.find_shared(forgotten.hashes, retained.hashes)
    if not rows:
        return ""
    also = repeats.find_shared(retained.hashes, forgotten.hashes)
    return f"{_both(len(rows))}: {forgotten.describe(rows)}, and {retained.describe(also)}"


def note_overlap(forget: Sequence[Any], retain: Sequence[Any]) -> list[str]:
    """The same about built datasets of which not all are of the user's files: a sentence, or none."""
    import numpy as np

    if all("choice" in getattr(part, "hf_args", {}) for part in (*forget, *retain)):
        return []  # which was said when the files were looked at
    forgotten, retained = _hashes(forget), _hashes(retain)
    shared = repeats.find_shared(np.concatenate(forgotten), np.concatenate(retained)) if forgotten and retained else []
    return [_both(len(shared))] if shared else []


def _hashes(parts: Sequence[Any]) -> list[Any]:
    found = [getattr(part, "row_hashes", None) for part in parts]
    return [hashes for hashes in found if hashes is not None]


def _both(number: int) -> str:
    return f"{counted(number, 'row')} {'is' if number == 1 else 'are'} both forgotten and retained"
