"""Streams: named sources of examples, each of one or several datasets."""

import bisect
import hashlib
import itertools
from array import array
from collections.abc import Sequence
from typing import Any

from unteach.config.schema import BESIDE, PARTS
from unteach.data.examples import Example
from unteach.errors import UserError

Draw = tuple[int, int]
"""A row of a stream, and the epoch of that stream."""
ALTERNATE = "alternate"
"""The stream of other answers to the rows of data.forget."""
RETAIN_ALTERNATE = "retain_alternate"
"""The stream of other answers to the rows of data.retain."""
ABSENT = {
    RETAIN_ALTERNATE: "another answer for each row of data.retain, and its dataset gives none; set "
    "data.retain=TOFU_QA_retain_idk, or a dataset of QAwithIdkDataset or QAwithAlternateDataset "
    "with return_original=true",
    ALTERNATE: "another answer for each row of data.forget, and its dataset gives none; set "
    "data.forget=TOFU_QA_forget_idk, or a dataset of QAwithIdkDataset or QAwithAlternateDataset "
    "with return_original=true",
    "chosen": "a chosen and a rejected answer in each row of data.train, and its dataset gives "
    "none; take a dataset of "
    "PreferenceDataset",
    "mismatched": "rows of data.train that say whether their answer was liked, and its dataset has "
    "none; take a "
    "dataset of FeedbackDataset",
}
ABSENT["rejected"] = ABSENT["chosen"]
"""What a method needs that trains on a stream of schema.BESIDE, where the dataset's rows have no
such part."""


class Stream:
    """The examples of one or several datasets, one after the other.

    A stream of schema.BESIDE takes its own part of each row's example, every other stream the row's
    `original`.

    Args:
        name: the stream's.
        datasets: give examples by index; they may have `variant`, `place`, `is_tokenized` as those
            of data/handlers do.
        follows: the stream whose draws are its own too, so that the two stand in pairs.
    """

    def __init__(self, name: str, datasets: list[Any], follows: str | None = None):
        self.name = name
        self.datasets = datasets
        self.follows = follows
        self.ends = list(itertools.accumulate(map(len, datasets)))
        """where the rows of each dataset end"""
        if not len(self):
            raise UserError(f"data.{name}: there are no rows")

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def find(self, row_index: int) -> tuple[Any, int]:
        """Find the dataset that a row is of, and which row of it it is."""
        if not 0 <= row_index < len(self):
            raise IndexError(f"data.{self.name} has {len(self)} rows, and no row {row_index}")
        part = bisect.bisect_right(self.ends, row_index)
        return self.datasets[part], row_index - (self.ends[part - 1] if part else 0)

    def __getitem__(self, row_index: int) -> Any:
        """Give a row as its dataset gives it."""
        dataset, row = self.find(row_index)
        return dataset[row]

    def list_tokenized_rows(self) -> Sequence[int]:
        """List the rows that have their tokens already: all, unless a run is only looked at."""
        if all(getattr(dataset, "num_tokenized", None) is None for dataset in self.datasets):
            return range(len(self))
        tokenized = []
        for row_index in range(len(self)):
            dataset, row = self.find(row_index)
            if not hasattr(dataset, "is_tokenized") or dataset.is_tokenized(row):
                tokenized.append(row_index)
        return tokenized

    def locate(self, row_index: int) -> str:
        """Say where a row stands: its line in its file, or its number from 1."""
        dataset, row = self.find(row_index)
        if hasattr(dataset, "place"):
            return str(dataset.place(row))
        return f"row {row + 1}"

    def example(self, row_index: int, epoch: int = 0) -> Example:
        """Give the example that is trained on of a row in an epoch."""
        dataset, row = self.find(row_index)
        varies = hasattr(dataset, "variant")
        example = dataset.variant(row, epoch) if varies else dataset[row]
        if self.name in BESIDE:
            part_name = PARTS.get(self.name, self.name)
            if part_name not in example:
                raise UserError(f"this method needs {ABSENT[self.name]}")
            return example[part_name]
        if "input_ids" not in example and "original" not in example:
            raise UserError(
                f"data.{self.name}: a row has several answers; training takes one (set answer_key)"
            )
        return example.get("original", example)

    def find_distinct(self, draws: list[Draw]) -> dict[Draw, Draw]:
        """Find, for each draw, the first one that has the same tokens.

        Epoch 0 stands for all where no row changes with the epoch.
        """
        varies = any(hasattr(dataset, "variant") for dataset in self.datasets)
        if not varies:
            draws = list({(row, 0) for row, _ in draws})
        first: dict[Any, Draw] = {}
        same: dict[Draw, Draw] = {}
        for draw in draws:
            example = self.example(*draw)
            ids, labels = array("q", example["input_ids"]), array("q", example["labels"])
            tokens = hashlib.sha256(ids.tobytes() + b"/" + labels.tobytes()).digest()
            same[draw] = first.setdefault(tokens, draw)
        return same
