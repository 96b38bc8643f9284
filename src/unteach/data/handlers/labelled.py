"""Datasets of texts with a class or a number: what Classify and Regress learn from.

A text is tokenised as the tokenizer does by itself, without a template, as every classifier is
asked; its label stands at its last token, where the head reads.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsFloat

from unteach.data.examples import Example
from unteach.data.handlers.base import RowDataset
from unteach.data.io import sources
from unteach.data.io.cells import is_missing
from unteach.data.truncation import IGNORED
from unteach.errors import UserError, find_nearest
from unteach.registry import dataset
from unteach.wording import quote_value


@dataclass
class _LabelDataset(RowDataset):
    """Rows of a text and a cell that is learned of it."""

    text_key: str = "input"
    max_length: int = 512

    def _load_pairs(self, key: str) -> list[tuple[int, str, Any]]:
        """Load (row index, text, cell) of the rows that have both; note the others."""
        pairs = []
        for row_index, (text, cell) in enumerate(self.load(self.text_key, key)):
            if is_missing(cell):
                self.row_errors.drop(f"nothing in {key}", row_index)
            elif self.row_errors.check_text(text, self.text_key, row_index):
                pairs.append((row_index, text, cell))
        return pairs

    def _build(self, row_index: int, text: str, label: int) -> Example:
        """Build the example of a text, cut to max_length, with its label at the last token."""
        hidden = self.template.hide(text)
        ids = list(self.template.special.encode(hidden, add_special_tokens=True))
        self.count_cut(len(ids) > self.max_length, row_index)
        ids = ids[: self.max_length]
        labels = [IGNORED] * (len(ids) - 1) + [label]
        return {
            "input_ids": ids,
            "labels": labels,
            "index": row_index,
        }


@dataset
@dataclass
class LabelledDataset(_LabelDataset):
    """Texts, each with its class. labels: all classes there may be, in order; null leaves them to
    the run."""

    label_key: str = "output"
    labels: list[str] | None = None

    def __post_init__(self) -> None:
        pairs = self._load_pairs(self.label_key)
        labels = self.labels
        if labels is None:
            cells = [cell for _, _, cell in pairs]
            labels = sort_labels(set(map(str, cells)))
        label_indices = {label: index for index, label in enumerate(labels)}

        examples = []
        for row_index, text, cell in pairs:
            label = str(cell)
            if label in label_indices:
                label_index = label_indices[label]
                examples.append(self._build(row_index, text, label_index))
                continue
            guess = find_nearest(label, labels)
            allowed = ", ".join(labels)
            hint = f"did you mean {guess}?" if guess else f"the labels are {allowed}"
            self.row_errors.add(
                f"{self.label_key} is {label!r}, which is no label; {hint}",
                row_index,
            )
        self.keep(examples)

    @staticmethod
    def labels_in(args: dict[str, Any]) -> set[str]:
        """Collect the labels in the rows of a dataset of these arguments."""
        hf_args = args["hf_args"]
        rows = sources.load_rows(hf_args)
        key = args.get("label_key", "output")
        cells = sources.read_column(rows, key, sources.describe_source(hf_args))
        labels = set()
        for cell in cells:
            if not is_missing(cell):
                labels.add(str(cell))
        return labels


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
        examples = []
        for row_index, text, cell in self._load_pairs(self.target_key):
            target = parse_number(cell)
            if target is None:
                self.row_errors.add(
                    f"{self.target_key} must be a finite number, and is {quote_value(cell)}",
                    row_index,
                )
                continue
            example = self._build(row_index, text, 0)
            example["target"] = target
            examples.append(example)
        self.keep(examples)


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
