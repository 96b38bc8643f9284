"""Datasets of texts with a class or a number: what Classify and Regress learn from.

A text is tokenised as the tokenizer does by itself, without a template, as every classifier is
asked; what is known of it stands at its last token, where the head reads.
"""

import math
from dataclasses import dataclass
from typing import Any

from unteach.data.handlers.qa import Example, RowDataset
from unteach.data.io import sources, tables
from unteach.errors import UserError, nearest
from unteach.registry import dataset
from unteach.wording import shown


@dataclass
class _Told(RowDataset):
    """Rows of a text and what is told of it."""

    text_key: str = "input"
    max_length: int = 512

    def told(self, key: str) -> list[tuple[int, str, Any]]:
        """(number, text, cell) of the rows that have both; `faults` notes the others."""
        found = []
        for number, (text, cell) in enumerate(self.load(self.text_key, key)):
            if tables.missing(cell):
                self.faults.drop(f"nothing in {key}", number)
            elif self.faults.text(text, self.text_key, number):
                found.append((number, text, cell))
        return found

    def example(self, number: int, text: str, label: int) -> Example:
        ids = list(self.template.special.encode(self.template.hide(text), add_special_tokens=True))
        self.count_cut(len(ids) > self.max_length, number)
        ids = ids[: self.max_length]
        return {"input_ids": ids, "labels": [-100] * (len(ids) - 1) + [label], "index": number}


@dataset
@dataclass
class LabelledDataset(_Told):
    """Texts, each with its class. labels: all classes there may be, in order; null leaves them to
    the run."""

    label_key: str = "output"
    labels: list[str] | None = None

    def __post_init__(self) -> None:
        told = self.told(self.label_key)
        labels = (
            self.labels if self.labels is not None else ordered({str(cell) for _, _, cell in told})
        )
        number_of = {label: k for k, label in enumerate(labels)}
        for number, _, cell in told:
            if str(cell) not in number_of:
                guess = nearest(str(cell), labels)
                hint = f"did you mean {guess}?" if guess else f"the labels are {', '.join(labels)}"
                self.faults.add(
                    f"{self.label_key} is {str(cell)!r}, which is no label; {hint}", number
                )
        self.keep(
            [
                self.example(n, text, number_of[str(cell)])
                for n, text, cell in told
                if str(cell) in number_of
            ]
        )

    @staticmethod
    def labels_in(args: dict[str, Any]) -> set[str]:
        """The labels that stand in the rows of a dataset of these arguments."""
        key, hf_args = args.get("label_key", "output"), args["hf_args"]
        cells = sources.column(sources.load_rows(hf_args), key, sources.named(hf_args))
        return {str(cell) for cell in cells if not tables.missing(cell)}


def ordered(labels: set[str]) -> list[str]:
    """Labels in order: by number where all are whole numbers, else by letters."""
    numbers = all(label.lstrip("-").isdecimal() for label in labels)
    return sorted(labels, key=int) if numbers else sorted(labels)


@dataset
@dataclass
class ScoredDataset(_Told):
    """Texts, each with a number: for Regress."""

    target_key: str = "output"

    def __post_init__(self) -> None:
        examples = []
        for number, text, cell in self.told(self.target_key):
            target = as_number(cell)
            if target is None:
                self.faults.add(
                    f"{self.target_key} must be a finite number, and is {shown(cell)}", number
                )
            else:
                examples.append({**self.example(number, text, 0), "target": target})
        self.keep(list(examples))


def as_number(cell: Any) -> float | None:
    """A cell as a finite number; None where it is none."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and not isinstance(cell, bool) else None


def labels_of_rows(parts: list[tuple[type, dict[str, Any]]]) -> list[str]:
    """The labels in the rows of several datasets (class, arguments), in order; a run cannot do with
    fewer than two."""
    found: set[str] = set()
    for cls, args in parts:
        if not hasattr(cls, "labels_in"):
            raise UserError(
                f"{cls.__name__} has no labels; a classifier is trained on rows of LabelledDataset"
            )
        found |= set(args.get("labels") or cls.labels_in(args))
    if len(found) < 2:
        raise UserError(
            f"a classifier needs at least two labels, and these rows have "
            f"{', '.join(found) or 'none'}"
        )
    return ordered(found)
