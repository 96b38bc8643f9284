"""Datasets of questions and answers, also with a refusal or another answer to each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from unteach.data.examples import Example, build_example, join_alternatives
from unteach.data.handlers.base import RowDataset
from unteach.data.instructions import Context, InstructionColumns, encode_all, encode_last
from unteach.data.io import sources
from unteach.data.row_selection import parse_flag
from unteach.data.rows import locate_row
from unteach.data.truncation import TooLong
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.seeds import derive_seed


@dataclass(frozen=True)
class _Question:
    """A question after its context, with its answer, or several by their number.

    Attributes:
        weight: what the loss of its examples is multiplied by; None: nothing is said of it.
        alternate: another answer, where rows have one.
    """

    context: Context
    question: Any
    answer: Any
    weight: float | None = None
    alternate: Any = None


@dataset
@dataclass
class QADataset(RowDataset[_Question]):
    """Questions and answers; the loss is on the answer. With shots: shown pairs stand before each
    question.

    input_key, system_key, history_key: columns of Alpaca's rows. What stands in input_key follows
    the question on a line of its own; a system prompt and earlier turns ([question, answer] each)
    stand before it, and the answers of earlier turns are learned too, but with turns=last.
    forget_key: a column of 0 and 1; rows with 1 weigh -1, so that SignedSFT unlearns them.
    too_long: what becomes of a row of more than max_length tokens (see data/truncation.py).
    """

    DEFERS: ClassVar[bool] = True
    question_key: str = "question"
    answer_key: str = "answer"
    few_shot_dataset_hf_args: dict[str, Any] | None = None
    max_length: int = 512
    forget_key: str | None = None
    too_long: TooLong = "truncate_right"
    input_key: str | None = None
    system_key: str | None = None
    history_key: str | None = None
    turns: Literal["all", "last"] = "all"

    def __post_init__(self) -> None:
        self.around = InstructionColumns(self.input_key, self.system_key, self.history_key)
        self.open_rows(*self._list_columns(), optional=self.around.names)
        self.shots = self._load_shots()
        self.build_examples()

    def _list_columns(self) -> list[str]:
        """List the columns that each row must have."""
        columns = [self.question_key, self.answer_key]
        return [*columns, self.forget_key] if self.forget_key else columns

    def _load_shots(self) -> list[tuple[str, str]]:
        """Load the pairs that stand before each question."""
        if not self.few_shot_dataset_hf_args:
            return []
        rows = sources.load_rows(self.few_shot_dataset_hf_args)
        questions = sources.read_column(rows, self.question_key, "few-shot rows")
        answers = sources.read_column(rows, self.answer_key, "few-shot rows")
        return list(zip(questions, answers, strict=True))

    def read_row(self, row_index: int, cells: Sequence[Any]) -> _Question | None:
        """Read a row's question, its answer and what stands before them."""
        instruction, answer, *others = cells
        question, context = self.around.read(
            instruction,
            others[-3:],
            row_index,
            self.row_errors,
        )
        read = _Question(context, question, answer)
        if not self._are_complete(row_index, read):
            return None
        if self.forget_key:
            place = locate_row(self.rows, row_index, self.where)
            is_forgotten = parse_flag(others[0], self.forget_key, place)
            return replace(read, weight=-1.0 if is_forgotten else 1.0)
        return read

    def _are_complete(self, row_index: int, read: _Question) -> bool:
        """Whether a row has all its texts, with each of its answers; note what it lacks."""
        columns = (self.question_key, self.answer_key)
        for answer in read.answer if isinstance(read.answer, list) else [read.answer]:
            if not self.row_errors.check_texts((read.question, answer), columns, row_index):
                return False
            if self.turns == "all" and read.context.has_empty_answer:
                self.row_errors.drop(f"nothing in an answer of {self.history_key}", row_index)
                return False
        return True

    def encode_row(self, row_index: int, read: _Question) -> list[Example]:
        """Build the examples of one row; none, and count it, where nothing is left to learn."""
        if isinstance(read.answer, list):
            return self._build_alternatives(row_index, read)
        try:
            ids, labels = self._encode(read)
        except UserError as error:
            self.row_errors.add(str(error), row_index)
            return []
        examples = self.fit(ids, labels, row_index, self.max_length, self.too_long)
        for example in examples:
            if read.weight is not None:
                example["weight"] = read.weight
        return examples

    def _build_alternatives(self, row_index: int, read: _Question) -> list[Example]:
        """Build one example of several answers, by their number; none if any cannot be used."""
        examples = []
        for answer in read.answer:
            examples += self.encode_row(row_index, replace(read, answer=answer))[:1]
        if not examples or len(examples) < len(read.answer):
            return []
        return [join_alternatives(examples)]

    def _encode(self, read: _Question) -> tuple[list[int], list[int]]:
        """Encode a row as input_ids and labels."""
        asked = (self.template, read.context, self.shots, read.question, read.answer)
        if self.turns == "all":
            return encode_all(*asked)
        encoded = encode_last(*asked)
        return encoded.input_ids, encoded.labels

    def text(self, row: int) -> tuple[str, str]:
        """Give the question and the answer of an example, as they stand in its row."""
        read = self.read_again(int(self.examples.rows[row]))
        return read.question, read.answer

    def build_with_answer(self, row: int, answer: str) -> Example:
        """Build an example of the same question, as it is asked, with another answer, which alone
        is learned."""
        row_index = int(self.examples.rows[row])
        read = self.read_again(row_index)
        encoded = encode_last(
            self.template,
            read.context,
            self.shots,
            read.question,
            answer,
            self.max_length,
        )
        return build_example(encoded, row_index)

    def context_place(self, row: int) -> str | None:
        """Say where an example stands whose question has a system prompt or earlier turns before
        it; else None."""
        row_index = int(self.examples.rows[row])
        if not self.read_again(row_index).context:
            return None
        return locate_row(self.rows, row_index, self.where)


@dataset
@dataclass
class QAwithIdkDataset(QADataset):
    """Each question also with a refusal, drawn from a file of lines as a function of (seed, epoch,
    row).

    Of both the last turn alone is learned: turns before it are the same.
    """

    turns: Literal["last"] = "last"
    idk_path: str | None = None
    return_original: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        self.refusals = read_lines(self.idk_path)
        super().__post_init__()

    def variant(self, row: int, epoch: int) -> Example:
        """Build the example of a row in an epoch: {original, alternate}, or the alternate alone."""
        original = super().__getitem__(row)
        row_index = original["index"]
        rng = random.Random(derive_seed(self.seed, "idk", epoch, row_index))
        refusal = rng.choice(self.refusals)
        alternate = self.build_with_answer(row, refusal)
        return {"original": original, "alternate": alternate} if self.return_original else alternate

    def __getitem__(self, row: int) -> Example:
        return self.variant(row, epoch=0)


@dataset
@dataclass
class QAwithAlternateDataset(QADataset):
    """Each question also with another answer, from a column of its own; of both the last turn alone
    is learned."""

    DEFERS: ClassVar[bool] = False
    turns: Literal["last"] = "last"
    alternate_key: str = "alternate"
    return_original: bool = True

    def _list_columns(self) -> list[str]:
        return [*super()._list_columns(), self.alternate_key]

    def read_row(self, row_index: int, cells: Sequence[Any]) -> _Question | None:
        """Read a row's question with both answers."""
        read = super().read_row(row_index, cells)
        alternate = cells[len(self.keys) - 1]
        return None if read is None else replace(read, alternate=alternate)

    def encode_row(self, row_index: int, read: _Question) -> list[Example]:
        """Build {original, alternate} of a row, or the alternate alone."""
        examples: list[Example] = []
        for original in super().encode_row(row_index, read):
            for alternate in self._build_alternate(row_index, read):
                if self.return_original:
                    examples.append({"original": original, "alternate": alternate})
                else:
                    examples.append(alternate)
        return examples

    def _build_alternate(self, row_index: int, read: _Question) -> list[Example]:
        """Build the examples of a row's question with its other answer."""
        other = replace(read, answer=read.alternate)
        if not self._are_complete(row_index, other):
            return []
        return super().encode_row(row_index, other)


def read_lines(path: str | None) -> list[str]:
    """Read the lines of a text file of refusals; without a path, those that ship with unteach."""
    file = Path(path) if path else Path(__file__).parent / "refusals.txt"
    if not file.exists():
        raise UserError(f"idk_path={path}: there is no such file of refusals, one a line")
    text = file.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"idk_path={path}: the file has no lines")
    return lines
