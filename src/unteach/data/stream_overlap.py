"""Rows that a run is both to forget and to retain: found in files before a model is loaded, and
counted elsewhere."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach.config.schema import DatasetConfig
from unteach.data import duplicates
from unteach.data.io import sources, tokenized_paths
from unteach.data.row_errors import RowErrors
from unteach.data.row_selection import parse_flag
from unteach.data.rows import locate_row
from unteach.data.tokenized import token_files
from unteach.lazy import np
from unteach.wording import format_count

if TYPE_CHECKING:
    import numpy as np

FORGOTTEN_AND_RETAINED = "both forgotten and retained"


def find_overlap_in_files(parts: Mapping[str, DatasetConfig]) -> str | None:
    """Find rows of the user's files that are both forgotten and retained.

    They stand in the streams `forget` and `retain`, or in `train` with a column that says which a
    row is.

    Returns:
        A sentence; "" where no row is in both; None where the run has no such rows, or has the
        tokens of one and the words of the other.
    """
    if {"forget", "retain"} <= set(parts):
        return find_shared_rows(parts["forget"], parts["retain"], FORGOTTEN_AND_RETAINED)
    train = parts.get("train")
    if train is None or "forget_key" not in train.args:
        return None
    rows = _hash_words(train)
    forgotten, retained = _split_by_flag(rows, train.args["forget_key"])
    return _describe_shared(forgotten, retained, FORGOTTEN_AND_RETAINED)


def find_shared_rows(
    first: DatasetConfig,
    second: DatasetConfig,
    role: str,
) -> str | None:
    """Find the rows that two datasets share.

    Args:
        first: a dataset of the user's files.
        second: another one.
        role: what rows of both are, as `both holdout and train`.

    Returns:
        A sentence; "" where they share none; None where words would be compared with tokens.
    """
    if not are_comparable(first, second):
        return None
    hash_side = _hash_tokens if has_only_tokens(first) else _hash_words
    return _describe_shared(hash_side(first), hash_side(second), role)


def are_comparable(first: DatasetConfig, second: DatasetConfig) -> bool:
    """Whether the rows of two datasets are both words, or both tokens."""
    return has_only_tokens(first) == has_only_tokens(second)


def has_only_tokens(part: DatasetConfig) -> bool:
    """Whether a dataset of the user's files has no words, only their tokens."""
    return tokenized_paths.is_tokenized(part.args["hf_args"].get("path"))


@dataclass(frozen=True)
class _Side:
    """Rows on one side of a comparison.

    Args:
        hashes: int64 [num_rows], equal where rows say the same.
        row_indices: the index of each in its source.
        row_errors: knows where they stand.
    """

    hashes: "np.ndarray"
    row_indices: Sequence[int]
    row_errors: RowErrors

    def list_places(self, rows: list[int]) -> str:
        """Say where some of the rows stand."""
        row_indices = [self.row_indices[row] for row in rows]
        places = self.row_errors.list_places(row_indices)
        return f"{self.row_errors.where}, {places}"


def _hash_words(part: DatasetConfig) -> _Side:
    """Hash what the rows of a dataset say."""
    hf_args = part.args["hf_args"]
    rows = sources.load_rows(hf_args)
    column_keys = duplicates.find_column_keys(part.cls, part.args)
    hashes = duplicates.hash_rows(column_keys, rows)
    row_errors = RowErrors(sources.describe_source(hf_args), rows)
    return _Side(
        hashes=hashes,
        row_indices=range(len(rows)),
        row_errors=row_errors,
    )


def _hash_tokens(part: DatasetConfig) -> _Side:
    """Hash the tokens of the rows of a tokenised dataset."""
    hf_args = part.args["hf_args"]
    hashes = array("q")
    for shard in token_files.read_shards(Path(hf_args["path"])):
        for row in range(len(shard)):
            ids = np.asarray(shard.slice_ids(row), np.int64)
            hashes.append(hash(ids.tobytes()) or 1)
    row_errors = RowErrors(sources.describe_source(hf_args), [])
    return _Side(
        hashes=np.array(hashes, np.int64),
        row_indices=range(len(hashes)),
        row_errors=row_errors,
    )


def _split_by_flag(side: _Side, column: str) -> tuple[_Side, _Side]:
    """Split rows into those with 1 in a column, and those with 0."""
    row_errors = side.row_errors
    forgotten: list[int] = []
    retained: list[int] = []
    for row_index, row in enumerate(row_errors.rows):
        if not side.hashes[row_index]:
            continue  # what is dropped need not say it
        place = locate_row(row_errors.rows, row_index, row_errors.where)
        if parse_flag(row.get(column), column, place):
            forgotten.append(row_index)
        else:
            retained.append(row_index)
    return (
        _Side(side.hashes[forgotten], forgotten, row_errors),
        _Side(side.hashes[retained], retained, row_errors),
    )


def _describe_shared(first: _Side, second: _Side, role: str) -> str:
    """Say which rows two sides share, with their places on both; "" where they share none."""
    in_first = duplicates.find_shared(first.hashes, second.hashes)
    if not in_first:
        return ""
    in_second = duplicates.find_shared(second.hashes, first.hashes)
    first_places = first.list_places(in_first)
    second_places = second.list_places(in_second)
    num_rows = _count_rows(len(in_first), role)
    return f"{num_rows}: {first_places}, and {second_places}"


def note_overlap(forget: Sequence[Any], retain: Sequence[Any]) -> list[str]:
    """Count the rows that built datasets of `forget` and `retain` share: a sentence, or none."""
    datasets = (*forget, *retain)
    if all("choice" in getattr(dataset, "hf_args", {}) for dataset in datasets):
        return []  # all are of the user's files, and it was said when these were looked at
    forgotten = _collect_hashes(forget)
    retained = _collect_hashes(retain)
    if not forgotten or not retained:
        return []
    shared = duplicates.find_shared(
        np.concatenate(forgotten),
        np.concatenate(retained),
    )
    if not shared:
        return []
    return [_count_rows(len(shared), FORGOTTEN_AND_RETAINED)]


def _collect_hashes(datasets: Sequence[Any]) -> "list[np.ndarray]":
    """Collect the hashes of the rows of datasets that keep them."""
    hashes = []
    for dataset in datasets:
        row_hashes = getattr(dataset, "row_hashes", None)
        if row_hashes is not None:
            hashes.append(row_hashes)
    return hashes


def _count_rows(num_rows: int, role: str) -> str:
    """Say how many rows play a role."""
    count = format_count(num_rows, "row")
    verb = "is" if num_rows == 1 else "are"
    return f"{count} {verb} {role}"
