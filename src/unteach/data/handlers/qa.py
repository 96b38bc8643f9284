"""Datasets of questions and answers, also with a refusal or another answer to each."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unteach.data.examples import (
    DEFERRED,
    Example,
    build_example,
    find_row_index,
    join_alternatives,
)
from unteach.data.handlers.base import RowDataset
from unteach.data.instructions import (
    NO_CONTEXT,
    Context,
    InstructionColumns,
    encode_all,
    encode_last,
)
from unteach.data.io import sources
from unteach.data.row_errors import RowErrors
from unteach.data.row_selection import parse_flag
from unteach.data.rows import locate_row
from unteach.data.truncation import TooLong
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.seeds import derive_seed


@dataset
@dataclass
class QADataset(RowDataset):
    """Questions and answers; the loss is on the answer. With shots: shown pairs stand before each
    question.

    input_key, system_key, history_key: columns of Alpaca's rows. What stands in input_key follows
    the question on a line of its own; a system prompt and earlier turns ([question, answer] each)
    stand before it, and the answers of earlier turns are learned too, but with turns=last.
    forget_key: a column of 0 and 1; rows with 1 weigh -1, so that SignedSFT unlearns them.
    too_long: what becomes of a row of more than max_length tokens (see data/truncation.py).
    """

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
        required = [self.question_key, self.answer_key]
        if self.forget_key:
            required.append(self.forget_key)
        around = InstructionColumns(self.input_key, self.system_key, self.history_key)
        rows = self.load(*required, optional=around.names)

        # The texts of each row, and what stands before its question.
        self.shots = self._load_shots()
        self.texts: list[tuple[Any, Any]] = []
        self.contexts: dict[int, Context] = {}
        for row_index, (instruction, answer, *cells) in enumerate(rows):
            question, context = around.read(
                instruction,
                cells[-3:],
                row_index,
                self.row_errors,
            )
            self.texts.append((question, answer))
            if context:
                self.contexts[row_index] = context

        examples: list[Example] = []
        for row_index, (question, answer) in enumerate(self.texts):
            examples += self.build(row_index, question, answer)
        self.keep(examples)
        if self.forget_key:
            self._weigh_by_flag(self.forget_key, [row[2] for row in rows])

    def _weigh_by_flag(self, column: str, cells: list[Any]) -> None:
        """Give each example -1 or 1 as its weight, by its row's cell of 1 or 0."""
        for example in self.examples:
            row_index = example["index"]
            place = locate_row(self.row_errors.rows, row_index, self.where)
            is_forgotten = parse_flag(cells[row_index], column, place)
            example["weight"] = -1.0 if is_forgotten else 1.0

    def _load_shots(self) -> list[tuple[str, str]]:
        """Load the pairs that stand before each question."""
        if not self.few_shot_dataset_hf_args:
            return []
        rows = sources.load_rows(self.few_shot_dataset_hf_args)
        questions = sources.read_column(rows, self.question_key, "few-shot rows")
        answers = sources.read_column(rows, self.answer_key, "few-shot rows")
        return list(zip(questions, answers, strict=True))

    def build(
        self,
        row_index: int,
        question: object,
        answer: object,
    ) -> list[Example]:
        """Build the examples of one row, without their tokens where it is looked at later."""
        if not self.is_deferred(row_index) or isinstance(answer, list):
            return self.build_pieces(row_index, question, answer)
        if not self.is_complete(row_index, question, answer):
            return []
        return [{"index": row_index, DEFERRED: True}]

    def is_complete(self, row_index: int, question: object, answer: object) -> bool:
        """Whether a row has all its texts; note what it lacks."""
        columns = (self.question_key, self.answer_key)
        if not self.row_errors.check_texts((question, answer), columns, row_index):
            return False
        context = self.contexts.get(row_index, NO_CONTEXT)
        if self.turns == "all" and context.has_empty_answer:
            self.row_errors.drop(f"nothing in an answer of {self.history_key}", row_index)
            return False
        return True

    def encode_deferred(self, row_index: int) -> list[Example]:
        """Build the examples of a row that was not tokenised at once."""
        question, answer = self.texts[row_index]
        return self.build_pieces(row_index, question, answer)

    def build_pieces(
        self,
        row_index: int,
        question: Any,
        answer: Any,
    ) -> list[Example]:
        """Build the examples of one row; none, and count it, where nothing is left to learn."""
        if isinstance(answer, list):
            return self._build_alternatives(row_index, question, answer)
        if not self.is_complete(row_index, question, answer):
            return []
        context = self.contexts.get(row_index, NO_CONTEXT)
        try:
            ids, labels = self.encode(context, question, answer)
        except UserError as error:
            self.row_errors.add(str(error), row_index)
            return []
        return self.fit(ids, labels, row_index, self.max_length, self.too_long)

    def _build_alternatives(
        self,
        row_index: int,
        question: object,
        answers: list[Any],
    ) -> list[Example]:
        """Build one example of several answers, by their number; none if any cannot be used."""
        examples = []
        for answer in answers:
            pieces = self.build_pieces(row_index, question, answer)
            examples += pieces[:1]
        if not examples or len(examples) < len(answers):
            return []
        return [join_alternatives(examples)]

    def encode(
        self,
        context: Context,
        question: str,
        answer: str,
    ) -> tuple[list[int], list[int]]:
        """Encode a row as input_ids and labels."""
        if self.turns == "all":
            return encode_all(self.template, context, self.shots, question, answer)
        encoded = encode_last(self.template, context, self.shots, question, answer)
        return encoded.input_ids, encoded.labels

    def text(self, row: int) -> tuple[str, str]:
        """Give the question and the answer of an example, as they stand in its row."""
        return self.texts[find_row_index(self.examples[row])]

    def build_with_answer(self, row: int, answer: str) -> Example:
        """Build an example of the same question, as it is asked, with another answer, which alone
        is learned."""
        row_index = find_row_index(self.examples[row])
        question, _ = self.texts[row_index]
        context = self.contexts.get(row_index, NO_CONTEXT)
        encoded = encode_last(
            self.template,
            context,
            self.shots,
            question,
            answer,
            self.max_length,
        )
        return build_example(encoded, row_index)

    def context_place(self, row: int) -> str | None:
        """Say where an example stands whose question has a system prompt or earlier turns before
        it; else None."""
        row_index = find_row_index(self.examples[row])
        if row_index not in self.contexts:
            return None
        return locate_row(self.row_errors.rows, row_index, self.where)


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

    turns: Literal["last"] = "last"
    alternate_key: str = "alternate"
    return_original: bool = True

    @property
    def num_tokenized(self) -> int | None:
        """None: which rows are kept, the tokens of both answers say."""
        return None

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.row_errors.rows
        alternates = sources.read_column(rows, self.alternate_key, self.where)
        # What was wrong with the originals is counted already.
        self.row_errors = RowErrors(self.where, rows)
        examples: list[Example] = []
        for original in self.examples:
            row_index = original["index"]
            question, _ = self.texts[row_index]
            for alternate in self.build_pieces(row_index, question, alternates[row_index]):
                if self.return_original:
                    examples.append({"original": original, "alternate": alternate})
                else:
                    examples.append(alternate)
        self.keep(examples)


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
