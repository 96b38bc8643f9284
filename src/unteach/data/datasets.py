"""Dataset handlers: rows to tokenised examples.

A handler is built with its configured arguments and the model's `template`. `examples` holds what can be trained or
scored; `dropped` and `cut` count, by reason, the rows that cannot and the answers that were shortened.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unteach.data import sources
from unteach.data.template import Encoded, Template
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.seeds import subseed

Example = dict[Any, Any]
"""{input_ids, labels, index}; several answers or several variants of a row are a dict of Examples."""


@dataset
@dataclass
class QADataset:
    """Questions and answers; the loss is on the answer. With shots: shown pairs stand before each question."""

    template: Template
    hf_args: dict[str, Any]
    question_key: str = "question"
    answer_key: str = "answer"
    few_shot_dataset_hf_args: dict[str, Any] | None = None
    max_length: int = 512
    examples: list[Example] = field(init=False)
    dropped: Counter[str] = field(init=False, default_factory=Counter)
    cut: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        rows = sources.load_rows(self.hf_args)
        self.where = f"{self.hf_args.get('path')}/{self.hf_args.get('name') or self.hf_args.get('split')}"
        questions = sources.column(rows, self.question_key, self.where)
        answers = sources.column(rows, self.answer_key, self.where)
        self.shots = self._shots()
        built = [self.build(i, *row) for i, row in enumerate(zip(questions, answers, strict=True))]
        self.examples = [example for example in built if example is not None]
        if not self.examples:
            raise UserError(f"{self.where}: no row can be used ({dict(self.dropped)})")

    def _shots(self) -> list[tuple[str, str]]:
        if not self.few_shot_dataset_hf_args:
            return []
        shown = sources.load_rows(self.few_shot_dataset_hf_args)
        keys = (self.question_key, self.answer_key)
        return list(zip(*(sources.column(shown, key, "few-shot rows") for key in keys), strict=True))

    def build(self, index: int, question: str, answer: str | list[str]) -> Example | None:
        """One row's example; None, and counted, where nothing of the answer is left to learn."""
        if isinstance(answer, list):
            variants = [self.build(index, question, one) for one in answer]
            return dict(enumerate(variants)) if variants and all(variants) else None
        if not isinstance(answer, str) or not answer.strip():
            self.dropped["empty answer"] += 1
            return None
        encoded = self.template.encode(question, answer, self.shots, self.max_length)
        if not encoded.answer or len(encoded.prompt) == 0:
            self.dropped[f"no room for an answer within max_length={self.max_length}"] += 1
            return None
        self.cut += bool(encoded.cut)
        return example_of(encoded, index)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> Example:
        return self.examples[row]


def example_of(encoded: Encoded, index: int) -> Example:
    return {"input_ids": encoded.input_ids, "labels": encoded.labels, "index": index}


@dataset
@dataclass
class QAwithIdkDataset(QADataset):
    """Each question also with a refusal, drawn from a file of lines as a function of (seed, epoch, row)."""

    idk_path: str | None = None
    return_original: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        self.refusals = read_lines(self.idk_path)
        super().__post_init__()
        rows = sources.load_rows(self.hf_args)
        self.questions = sources.column(rows, self.question_key, self.where)

    def variant(self, row: int, epoch: int) -> Example:
        """The example of a row in an epoch: {original, alternate}, or the alternate alone."""
        original = self.examples[row]
        index = original["index"]
        refusal = random.Random(subseed(self.seed, "idk", epoch, index)).choice(self.refusals)
        alternate = example_of(self.template.encode(self.questions[index], refusal, self.shots, self.max_length), index)
        return {"original": original, "alternate": alternate} if self.return_original else alternate

    def __getitem__(self, row: int) -> Example:
        return self.variant(row, epoch=0)


@dataset
@dataclass
class QAwithAlternateDataset(QADataset):
    """Each question also with another answer, from a column of its own."""

    alternate_key: str = "alternate"
    return_original: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = sources.load_rows(self.hf_args)
        alternates = sources.column(rows, self.alternate_key, self.where)
        questions = sources.column(rows, self.question_key, self.where)
        paired = []
        for original in self.examples:
            index = original["index"]
            if alternate := self.build(index, questions[index], alternates[index]):
                paired.append({"original": original, "alternate": alternate} if self.return_original else alternate)
        self.examples = paired


def read_lines(path: str | None) -> list[str]:
    """The lines of a text file of refusals; without a path, those that ship with unteach."""
    file = Path(path) if path else Path(__file__).parent / "refusals.txt"
    if not file.exists():
        raise UserError(f"idk_path={path}: there is no such file of refusals, one a line")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"idk_path={path}: the file has no lines")
    return lines
