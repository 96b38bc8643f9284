"""Dataset handlers: rows to tokenised examples.

A handler is built with its configured arguments and the model's `template`; its items are what can be trained or
scored. `dropped` and `cut` count, by reason, the rows that cannot and the answers that were shortened.
"""

import random
from array import array
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unteach.data import sources
from unteach.data.template import Encoded, Template
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.schema import TemplateArgs
from unteach.seeds import subseed

Example = dict[Any, Any]
"""{input_ids, labels, index}; several answers or several variants of a row are a dict of Examples."""


@dataclass
class RowDataset:
    """A handler of rows of which each gives one example with an answer in it; counts what became of the others."""

    template: Template
    hf_args: dict[str, Any]
    examples: list[Example] = field(init=False)
    dropped: Counter[str] = field(init=False, default_factory=Counter)
    cut: int = field(init=False, default=0)

    @property
    def where(self) -> str:
        return sources.named(self.hf_args)

    def keep(self, built: list[Example | None]) -> None:
        self.examples = [example for example in built if example is not None]
        if not self.examples:
            raise UserError(f"{self.where}: no row can be used ({dict(self.dropped)})")

    def usable(self, encoded: Encoded, index: int) -> Example | None:
        """A row's example; None, and counted, where nothing of its answer is left to learn."""
        if not encoded.answer or len(encoded.input_ids) < 2:
            self.dropped["no room for an answer within max_length"] += 1
            return None
        self.cut += bool(encoded.cut)
        return example_of(encoded, index)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> Example:
        return self.examples[row]


@dataset
@dataclass
class QADataset(RowDataset):
    """Questions and answers; the loss is on the answer. With shots: shown pairs stand before each question.

    forget_key: a column of 0 and 1; rows with 1 weigh -1, so that SignedSFT unlearns them.
    """

    question_key: str = "question"
    answer_key: str = "answer"
    few_shot_dataset_hf_args: dict[str, Any] | None = None
    max_length: int = 512
    forget_key: str | None = None

    def __post_init__(self) -> None:
        rows = sources.load_rows(self.hf_args)
        questions = sources.column(rows, self.question_key, self.where)
        answers = sources.column(rows, self.answer_key, self.where)
        self.shots = self._shots()
        self.texts = list(zip(questions, answers, strict=True))
        self.keep([self.build(i, *text) for i, text in enumerate(self.texts)])
        if self.forget_key:
            self._weigh(sources.column(rows, self.forget_key, self.where))

    def _weigh(self, forget: list[Any]) -> None:
        if odd := {str(value) for value in forget} - {"0", "1", "True", "False"}:
            raise UserError(f"{self.where}: {self.forget_key} must be 0 or 1 in every row, not {', '.join(odd)}")
        for example in self.examples:
            example["weight"] = -1.0 if str(forget[example["index"]]) in ("1", "True") else 1.0

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
        return self.usable(self.template.encode(question, answer, self.shots, self.max_length), index)

    def text(self, row: int) -> tuple[str, str]:
        """The question and the answer of an example, as they were given."""
        example = self.examples[row]
        return self.texts[example.get("original", example)["index"]]


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

    def variant(self, row: int, epoch: int) -> Example:
        """The example of a row in an epoch: {original, alternate}, or the alternate alone."""
        original = self.examples[row]
        index = original["index"]
        refusal = random.Random(subseed(self.seed, "idk", epoch, index)).choice(self.refusals)
        question, _ = self.texts[index]
        alternate = example_of(self.template.encode(question, refusal, self.shots, self.max_length), index)
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


@dataset
@dataclass
class CompletionDataset(RowDataset):
    """A prefix and how it goes on, as plain text; the loss is on the completion and the EOS after it.

    prefix_key: null where nothing stands before the completion. insert_space: a space stands between the two.
    """

    prefix_key: str | None = "prompt"
    text_key: str = "text"
    max_length: int = 2048
    insert_space: bool = False

    def __post_init__(self) -> None:
        rows = sources.load_rows(self.hf_args)
        completions = sources.column(rows, self.text_key, self.where)
        prefixes = sources.column(rows, self.prefix_key, self.where) if self.prefix_key else [""] * len(rows)
        self.plain = Template(self.template.tokenizer, replace(self.template.args, kind="raw"))
        self.keep([self.build(i, *row) for i, row in enumerate(zip(prefixes, completions, strict=True))])

    def build(self, index: int, prefix: Any, completion: Any) -> Example | None:
        if not isinstance(prefix, str):
            self.dropped["a prefix that is no text"] += 1
            return None
        if not isinstance(completion, str) or not completion.strip():
            self.dropped["empty completion"] += 1
            return None
        space = " " if self.insert_space else ""
        return self.usable(self.plain.encode(prefix, space + completion, max_length=self.max_length), index)


@dataset
@dataclass
class PretrainingDataset:
    """Plain text, every token learned: documents one after the other, each closed by EOS, cut into pieces.

    A piece has at most max_length tokens. The first only leads in and is not learned: BOS or, where the tokenizer puts
    none, the token before. packed=false: no piece has tokens of two documents.
    """

    template: Template
    hf_args: dict[str, Any]
    text_key: str = "text"
    max_length: int = 2048
    packed: bool = True
    dropped: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        where = sources.named(self.hf_args)
        if self.max_length < 2:
            raise UserError(f"{where}: max_length must be at least 2, got {self.max_length}")
        plain = Template(self.template.tokenizer, TemplateArgs(kind="raw"))
        self.bos, self.tokens, ends = plain.encode_prompt(""), array("i"), []
        for text in sources.column(sources.load_rows(self.hf_args), self.text_key, where):
            if not isinstance(text, str) or not text.strip():
                self.dropped["empty text"] += 1
                continue
            self.tokens.extend(plain.encode("", text).answer)
            ends.append(len(self.tokens))
        if not ends:
            raise UserError(f"{where}: no row can be used ({dict(self.dropped)})")
        room = self.max_length - 1
        self.pieces = [
            (start > first, start, min(start + room, last))
            for first, last in ([(0, ends[-1])] if self.packed else zip([0, *ends], ends, strict=False))
            for start in range(first, last, room)
        ]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, row: int) -> Example:
        goes_on, start, stop = self.pieces[row]
        before = self.bos or tuple(self.tokens[start - goes_on : start])
        return example_of(Encoded(before, tuple(self.tokens[start:stop])), row)


def read_lines(path: str | None) -> list[str]:
    """The lines of a text file of refusals; without a path, those that ship with unteach."""
    file = Path(path) if path else Path(__file__).parent / "refusals.txt"
    if not file.exists():
        raise UserError(f"idk_path={path}: there is no such file of refusals, one a line")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"idk_path={path}: the file has no lines")
    return lines
