"""Datasets of texts with a class or a number: what Classify and Regress learn from.

A text is tokenised as the tokenizer does by itself, without a template, as every classifier is
asked; its label stands at its last token, where the head reads.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

from unteach.data.examples import Example
from unteach.data.handlers.base import RowDataset
from unteach.data.io import sources
from unteach.data.io.cells import is_missing
from unteach.data.rows import Row
from unteach.data.truncation import IGNORED
from unteach.errors import UserError, find_nearest
from unteach.registry import dataset
from unteach.wording import quote_value


@dataclass(frozen=True)
class _LabelledText:
    """A text with the index of its class, or with a number."""

    text: str
    label: int
    target: float | None = None


@dataclass
class _LabelDataset(RowDataset[_LabelledText]):
    """Rows of a text and a cell that is learned of it."""

    text_key: str = "input"
    max_length: int = 512

    def has_both(self, row_index: int, text: object, cell: object, key: str) -> bool:
        """Whether a row has a text and a cell in the column `key`; note what it lacks."""
        if is_missing(cell):
            self.row_errors.drop(f"nothing in {key}", row_index)
            return False
        return self.row_errors.check_text(text, self.text_key, row_index)

    def encode_row(self, row_index: int, read: _LabelledText) -> list[Example]:
        """Build the example of a text, cut to max_length, with its label at the last token."""
        hidden = self.template.hide(read.text)
        ids = list(self.template.special.encode(hidden, add_special_tokens=True))
        self.count_cut(len(ids) > self.max_length, row_index)
        ids = ids[: self.max_length]
        example: Example = {
            "input_ids": ids,
            "labels": [IGNORED] * (len(ids) - 1) + [read.label],
            "index": row_index,
        }
        if read.target is not None:
            example["target"] = read.target
        return [example]


@dataset
@dataclass
class LabelledDataset(_LabelDataset):
    """Texts, each with its class. labels: all classes there may be, in order; null leaves them to
    the run."""

    label_key: str = "output"
    labels: list[str] | None = None

    def __post_init__(self) -> None:
        self.open_rows(self.text_key, self.label_key)
        names = self.labels
        if names is None:
            names = sort_labels(_collect_cells(self.rows, self.label_key, self.where))
        self.label_indices = {label: index for index, label in enumerate(names)}
        self.build_examples()

    def read_row(self, row_index: int, cells: Sequence[Any]) -> _LabelledText | None:
        """Read a row's text and its class."""
        text, cell = cells
        if not self.has_both(row_index, text, cell, self.label_key):
            return None
        label = str(cell)
        if label in self.label_indices:
            return _LabelledText(text, self.label_indices[label])
        guess = find_nearest(label, self.label_indices)
        allowed = ", ".join(self.label_indices)
        hint = f"did you mean {guess}?" if guess else f"the labels are {allowed}"
        self.row_errors.add(
            f"{self.label_key} is {label!r}, which is no label; {hint}",
            row_index,
        )
        return None

    @staticmethod
    def labels_in(args: dict[str, Any]) -> set[str]:
        """Collect the labels in the rows of a dataset of these arguments."""
        hf_args = args["hf_args"]
        rows = sources.load_rows(hf_args)
        key = args.get("label_key", "output")
        return _collect_cells(rows, key, sources.describe_source(hf_args))


def _collect_cells(rows: Sequence[Row], key: str, where: str) -> set[str]:
    """Collect what stands in a column, as text."""
    cells = set()
    for cell in sources.read_column(rows, key, where):
        if not is_missing(cell):
            cells.add(str(cell))
    return cells


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Sort labels: by number where all are whole numbers, else by letters."""
    labels = list(labels)
    if all(label.lstrip("-").isdecimal() for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


@dataset
@dataclass
class ScoredDataset(_LabelDataset):
    """Texts, each with a number: for Regress."""

    target_key: str = "output"

    def __post_init__(self) -> None:
        self.open_rows(self.text_key, self.target_key)
        self.build_examples()

    def read_row(self, row_index: int, cells: Sequence[Any]) -> _LabelledText | None:
        """Read a row's text and its number."""
        text, cell = cells
        if not self.has_both(row_index, text, cell, self.target_key):
            return None
        target = parse_number(cell)
        if target is None:
            self.row_errors.add(
                f"{self.target_key} must be a finite number, and is {quote_value(cell)}",
                row_index,
            )
            return None
        return _LabelledText(text, 0, target)


def parse_number(cell: str | SupportsFloat | None) -> float | None:
    """Read a cell as a finite number; None where it is none."""
    if cell is None or isinstance(cell, bool):
        return None
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def collect_labels(parts: list[tuple[type, dict[str, Any]]]) -> list[str]:
    """Collect the labels in the rows of several datasets, in order.

    Args:
        parts: (class, arguments) of each dataset.

    Raises:
        UserError: a dataset has no labels, or all have fewer than two.
    """
    labels: set[str] = set()
    for cls, args in parts:
        if not hasattr(cls, "labels_in"):
            raise UserError(
                f"{cls.__name__} has no labels; a classifier is trained on rows of LabelledDataset"
            )
        labels |= set(args.get("labels") or cls.labels_in(args))
    if len(labels) < 2:
        raise UserError(
            f"a classifier needs at least two labels, and these rows have "
            f"{', '.join(labels) or 'none'}"
        )
    return sort_labels(labels)
