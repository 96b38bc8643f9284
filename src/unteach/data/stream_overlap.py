"""Rows that a run is both to forget and to retain: found in files before a model is loaded, and
counted elsewhere."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach.config.schema import ComponentConfig
from unteach.data import duplicates
from unteach.data.io import sources, tokenized_paths
from unteach.data.row_errors import RowErrors
from unteach.data.row_selection import flag
from unteach.data.tokenized import token_files
from unteach.lazy import np
from unteach.wording import counted

if TYPE_CHECKING:
    import numpy as np


def overlap_in_files(parts: Mapping[str, ComponentConfig]) -> str | None:
    """What there is to say about rows of the user's files that are both forgotten and retained; ""
    where none are.

    They stand in the streams `forget` and `retain`, or in `train` with a column that says which a
    row is. None where the run has no such rows, or has the tokens of one and the words of the
    other.
    """
    if {"forget", "retain"} <= set(parts):
        return find_shared_rows(parts["forget"], parts["retain"], "both forgotten and retained")
    train = parts.get("train")
    if train is None or "forget_key" not in train.args:
        return None
    return _compare(
        *_split_by_flag(_read(train), train.args["forget_key"]), "both forgotten and retained"
    )


def find_shared_rows(first: ComponentConfig, second: ComponentConfig, what: str) -> str | None:
    """What there is to say about rows that two datasets share; None where words would be compared
    with tokens."""
    if not are_comparable(first, second):
        return None
    read = _read_tokens if is_of_tokens(first) else _read
    return _compare(read(first), read(second), what)


def are_comparable(first: ComponentConfig, second: ComponentConfig) -> bool:
    """Whether the rows of two datasets are both words, or both tokens."""
    return is_of_tokens(first) == is_of_tokens(second)


def is_of_tokens(part: ComponentConfig) -> bool:
    """Whether a dataset of the user's files has no words, only their tokens."""
    return tokenized_paths.is_tokenized(part.args["hf_args"].get("path"))


@dataclass(frozen=True)
class _Side:
    """Rows to forget or to retain. hashes: a number for each, equal where rows say the same.
    places: their numbers."""

    hashes: "np.ndarray"
    places: Sequence[int]
    faults: RowErrors

    def describe(self, rows: list[int]) -> str:
        return f"{self.faults.where}, {self.faults.listed([self.places[row] for row in rows])}"


def _read(part: ComponentConfig) -> _Side:
    """The rows of a dataset."""
    hf_args = part.args["hf_args"]
    rows = sources.load_rows(hf_args)
    hashes = duplicates.hash_rows(duplicates.read_keys(part.cls, part.args), rows)
    return _Side(hashes, range(len(rows)), RowErrors(sources.named(hf_args), rows))


def _read_tokens(part: ComponentConfig) -> _Side:
    """The same of rows that are tokens already."""
    hf_args = part.args["hf_args"]
    numbers = array("q")
    for shard in token_files.read_shards(Path(hf_args["path"])):
        for row in range(len(shard)):
            numbers.append(hash(np.asarray(shard.ids(row), np.int64).tobytes()) or 1)
    return _Side(
        np.array(numbers, np.int64), range(len(numbers)), RowErrors(sources.named(hf_args), [])
    )


def _split_by_flag(side: _Side, column: str) -> tuple[_Side, _Side]:
    """The rows with 1 in a column, and those with 0."""
    faults = side.faults
    places: dict[bool, list[int]] = {True: [], False: []}
    for number, row in enumerate(faults.rows):
        if side.hashes[number]:  # what is dropped need not say it
            where = sources.place(faults.rows, number, faults.where)
            places[flag(row.get(column), column, where)].append(number)
    forgotten, retained = places[True], places[False]
    return _Side(side.hashes[forgotten], forgotten, faults), _Side(
        side.hashes[retained], retained, faults
    )


def _compare(forgotten: _Side, retained: _Side, what: str) -> str:
    rows = duplicates.find_shared(forgotten.hashes, retained.hashes)
    if not rows:
        return ""
    also = duplicates.find_shared(retained.hashes, forgotten.hashes)
    return f"{_count(len(rows), what)}: {forgotten.describe(rows)}, and {retained.describe(also)}"


def note_overlap(forget: Sequence[Any], retain: Sequence[Any]) -> list[str]:
    """The same about built datasets of which not all are of the user's files: a sentence, or
    none."""
    if all("choice" in getattr(part, "hf_args", {}) for part in (*forget, *retain)):
        return []  # which was said when the files were looked at
    forgotten, retained = _hashes(forget), _hashes(retain)
    shared = (
        duplicates.find_shared(np.concatenate(forgotten), np.concatenate(retained))
        if forgotten and retained
        else []
    )
    return [_count(len(shared), "both forgotten and retained")] if shared else []


def _hashes(parts: Sequence[Any]) -> list[Any]:
    found = [getattr(part, "row_hashes", None) for part in parts]
    return [hashes for hashes in found if hashes is not None]


def _count(number: int, what: str) -> str:
    return f"{counted(number, 'row')} {'is' if number == 1 else 'are'} {what}"
