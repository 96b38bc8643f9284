"""Dataset handlers: rows to tokenised examples.

A handler is built with its configured arguments and the model's `template`; its items are what can
be trained or scored. `dropped` and `cut` count, by reason, the rows that cannot and the answers
that were shortened.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from unteach.data import duplicates
from unteach.data.instructions import (
    NO_CONTEXT,
    Context,
    encode_all,
    encode_last,
    join_input,
    read_context,
)
from unteach.data.io import sources
from unteach.data.row_errors import RowErrors, no_row_left
from unteach.data.row_selection import flag
from unteach.data.template import Encoded, Template
from unteach.data.truncation import IGNORED, TooLong, truncate
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.seeds import subseed
from unteach.wording import counted

Example = dict[Any, Any]
"""{input_ids, labels, index}; several answers or several variants of a row are a dict of
Examples."""


DEFERRED = "deferred"
"""A key of an example without its tokens yet."""
NO_ROOM = "no room for an answer within max_length"


@dataclass
class RowDataset:
    """A handler of rows of which each gives one example with an answer in it; counts what became of
    the others."""

    template: Template
    hf_args: dict[str, Any]
    examples: list[Example] = field(init=False)
    dropped: Counter[str] = field(init=False, default_factory=Counter)
    cut: int = field(init=False, default=0)
    cut_rows: list[int] = field(init=False, default_factory=list)
    faults: RowErrors = field(init=False)
    row_hashes: Any = field(init=False, default=None)
    """an array with a number for each row read, equal where rows say the same; None for rows that
    came from memory"""

    def load(self, *keys: str, gaps: Sequence[str | None] = ()) -> list[tuple[Any, ...]]:
        """Columns of all rows, side by side; what is wrong with their cells is noted by `faults`.

        gaps: further columns, None in every row that has none; of no column (None) all cells are.
        """
        rows = sources.load_rows(self.hf_args)
        self.faults = RowErrors(self.where, rows)
        if "rows" not in self.hf_args:
            self.row_hashes = duplicates.hash_rows(
                duplicates.read_keys(type(self), vars(self)), rows
            )
        columns = [sources.column(rows, key, self.where) for key in keys]
        columns += [[row.get(key) if key is not None else None for row in rows] for key in gaps]
        cells = list(zip(*columns, strict=True))
        self.faults.special = [
            number for number, row in enumerate(cells) if self.template.hides(row)
        ]
        return cells

    @property
    def where(self) -> str:
        return sources.named(self.hf_args)

    def keep(self, built: list[Example | None]) -> None:
        """Refuses what is wrong, counts what is dropped, keeps the rest."""
        self.faults.refuse()
        self.dropped += self.faults.counted()
        self.examples = [example for example in built if example is not None]
        self._forget_hashes_of_dropped()
        if not self.examples and "rows" not in self.hf_args:
            raise UserError(no_row_left(self.where, self.dropped))

    def _forget_hashes_of_dropped(self) -> None:
        """Leave rows without an example out of those that are compared: a dropped row repeats
        nothing."""
        if self.row_hashes is not None:
            kept = {_row_of(example) for example in self.examples}
            dropped = [number for number in range(len(self.row_hashes)) if number not in kept]
            self.row_hashes[dropped] = 0

    def usable(self, encoded: Encoded, index: int) -> Example | None:
        """A row's example; None, and counted, where nothing of its answer is left to learn."""
        if not encoded.answer or len(encoded.input_ids) < 2:
            self.faults.drop(NO_ROOM, index)
            return None
        self.count_cut(bool(encoded.cut), index)
        return example_of(encoded, index)

    def fitted(
        self, ids: list[int], labels: list[int], index: int, max_length: int, too_long: TooLong
    ) -> list[Example]:
        """A row's examples within max_length; none, and counted, where nothing of its answer is
        left to learn."""
        pieces = truncate(ids, labels, max_length, too_long)
        longer = len(ids) > max_length
        if not pieces:
            self.faults.drop(
                f"more than {max_length} tokens" if longer and too_long == "drop" else NO_ROOM,
                index,
            )
        self.count_cut(longer and bool(pieces) and too_long != "split", index)
        return [{"input_ids": ids, "labels": labels, "index": index} for ids, labels in pieces]

    def count_cut(self, cut: bool, index: int) -> None:
        self.cut += cut
        self.cut_rows += [index] if cut else []

    @property
    def num_tokenized(self) -> int | None:
        """How many rows are tokenised at once; None where all are."""
        choice = self.hf_args.get("choice")
        return choice.tokenized if choice is not None else None

    def is_deferred(self, index: int) -> bool:
        """Whether a row is tokenised only when it is asked for."""
        return self.num_tokenized is not None and index >= self.num_tokenized

    def is_tokenized(self, row: int) -> bool:
        """Whether an example has its tokens already."""
        return DEFERRED not in self.examples[row]

    def encode_deferred(self, index: int) -> list[Example]:
        """The examples of a row that was not tokenised at once, by the handlers that defer any."""
        raise NotImplementedError

    def place(self, row: int) -> str:
        """Where an example's row stands, as `line 3`."""
        return self.faults.listed([_row_of(self.examples[row])])

    def notes(self) -> list[str]:
        """What there is to say about rows dropped, answers cut, and rows of the user's that stand
        twice."""
        said = [f"{counted(count, 'row')} dropped, {why}" for why, count in self.dropped.items()]
        if self.cut:
            said.append(
                f"{counted(self.cut, 'row')} cut at max_length "
                f"({self.faults.listed(self.cut_rows)})"
            )
        if self.faults.special:
            said.append(note_special(self.faults, self.faults.special))
        if "choice" in self.hf_args and self.row_hashes is not None:
            said += duplicates.note(self.row_hashes, self.faults)
        return said

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> Example:
        example = self.examples[row]
        if DEFERRED not in example:
            return example
        index = example["index"]
        pieces = self.encode_deferred(index)
        self.faults.refuse()
        # Of a row that a run would drop, nothing is learned.
        found = (
            pieces[0]
            if pieces
            else {"input_ids": [self.template.eos], "labels": [IGNORED], "index": index}
        )
        return {**found, **{key: value for key, value in example.items() if key != DEFERRED}}


def note_special(faults: RowErrors, numbers: list[int]) -> str:
    """What is said of rows in which special tokens are written."""
    return (
        f"{counted(len(numbers), 'row')} with the text of special tokens, which is read as text "
        f"({faults.listed(numbers)}); model.template_args.special_tokens=tokens reads them as the "
        "tokens"
    )


@dataset
@dataclass
class QADataset(RowDataset):
    """Questions and answers; the loss is on the answer. With shots: shown pairs stand before each
    question.

    input_key, system_key, history_key: columns of Alpaca's rows. What stands in input_key follows
    the question on a line of its own; a system prompt and earlier turns ([question, answer] each)
    stand before it, and the answers of earlier turns are learned too, but with turns=last.
    forget_key: a column of 0 and 1; rows with 1 weigh -1, so that SignedSFT unlearns them.
    too_long: what becomes of a row of more than max_length tokens (see data/fitting.py).
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
        needed = [
            self.question_key,
            self.answer_key,
            *([self.forget_key] if self.forget_key else []),
        ]
        told = self.load(*needed, gaps=(self.input_key, self.system_key, self.history_key))
        self.shots = self._shots()
        self.texts: list[tuple[Any, Any]] = []
        self.contexts: dict[int, Context] = {}
        for number, (question, answer, *_, given, system, history) in enumerate(told):
            self.texts.append(
                (join_input(question, given, str(self.input_key), number, self.faults), answer)
            )
            columns = str(self.system_key), str(self.history_key)
            if context := read_context(system, history, columns, number, self.faults):
                self.contexts[number] = context
        self.keep(
            [example for i, text in enumerate(self.texts) for example in self.build(i, *text)]
        )
        for example in self.examples if self.forget_key else ():
            number = example["index"]
            place = sources.place(self.faults.rows, number, self.where)
            example["weight"] = -1.0 if flag(told[number][2], str(self.forget_key), place) else 1.0

    def _shots(self) -> list[tuple[str, str]]:
        if not self.few_shot_dataset_hf_args:
            return []
        shown = sources.load_rows(self.few_shot_dataset_hf_args)
        keys = (self.question_key, self.answer_key)
        return list(
            zip(*(sources.column(shown, key, "few-shot rows") for key in keys), strict=True)
        )

    def build(self, index: int, question: object, answer: object) -> list[Example]:
        """The examples of one row, without their tokens where it is looked at later."""
        if not self.is_deferred(index) or isinstance(answer, list):
            return self.pieces(index, question, answer)
        return (
            [{"index": index, DEFERRED: True}] if self.is_complete(index, question, answer) else []
        )

    def is_complete(self, index: int, question: object, answer: object) -> bool:
        """Whether a row has all its texts; what it lacks is noted."""
        told = [
            self.faults.text(question, self.question_key, index),
            self.faults.text(answer, self.answer_key, index),
        ]
        if not all(told):
            return False
        if self.turns == "all" and self.contexts.get(index, NO_CONTEXT).has_empty_answer:
            self.faults.drop(f"nothing in an answer of {self.history_key}", index)
            return False
        return True

    def encode_deferred(self, index: int) -> list[Example]:
        return self.pieces(index, *self.texts[index])

    def pieces(self, index: int, question: Any, answer: Any) -> list[Example]:
        """The examples of one row; none, and counted, where nothing of its answer is left to
        learn."""
        if isinstance(answer, list):
            variants = [self.pieces(index, question, one) for one in answer]
            return (
                [{k: one[0] for k, one in enumerate(variants)}]
                if variants and all(variants)
                else []
            )
        if not self.is_complete(index, question, answer):
            return []
        context = self.contexts.get(index, NO_CONTEXT)
        try:
            ids, labels = self.encode(context, question, answer)
        except UserError as error:
            self.faults.add(str(error), index)
            return []
        return self.fitted(ids, labels, index, self.max_length, self.too_long)

    def encode(self, context: Context, question: str, answer: str) -> tuple[list[int], list[int]]:
        """input_ids and labels of a row."""
        if self.turns == "all":
            return encode_all(self.template, context, self.shots, question, answer)
        encoded = encode_last(self.template, context, self.shots, question, answer)
        return encoded.input_ids, encoded.labels

    def text(self, row: int) -> tuple[str, str]:
        """The question and the answer of an example, as they were given."""
        return self.texts[_row_of(self.examples[row])]

    def with_answer(self, row: int, answer: str) -> Example:
        """The question of an example, as it is asked, with another answer, which alone is
        learned."""
        index = _row_of(self.examples[row])
        question, _ = self.texts[index]
        context = self.contexts.get(index, NO_CONTEXT)
        encoded = encode_last(self.template, context, self.shots, question, answer, self.max_length)
        return example_of(encoded, index)

    def context_place(self, row: int) -> str | None:
        """Where an example stands whose question has a system prompt or earlier turns before it;
        else None."""
        index = _row_of(self.examples[row])
        return (
            sources.place(self.faults.rows, index, self.where) if index in self.contexts else None
        )


def _row_of(example: Example) -> int:
    """The number of an example's row; of several answers or variants all have the same."""
    while "index" not in example:
        example = next(iter(example.values()))
    return int(example["index"])


def example_of(encoded: Encoded, index: int) -> Example:
    return {"input_ids": encoded.input_ids, "labels": encoded.labels, "index": index}


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
        """The example of a row in an epoch: {original, alternate}, or the alternate alone."""
        original = super().__getitem__(row)
        index = original["index"]
        refusal = random.Random(subseed(self.seed, "idk", epoch, index)).choice(self.refusals)
        alternate = self.with_answer(row, refusal)
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
        alternates = sources.column(self.faults.rows, self.alternate_key, self.where)
        self.faults = RowErrors(self.where, self.faults.rows)
        paired: list[Example | None] = []
        for original in self.examples:
            index = original["index"]
            for alternate in self.pieces(index, self.texts[index][0], alternates[index]):
                paired.append(
                    {"original": original, "alternate": alternate}
                    if self.return_original
                    else alternate
                )
        self.keep(paired)


@dataset
@dataclass
class CompletionDataset(RowDataset):
    """A prefix and how it goes on, as plain text; the loss is on the completion and the EOS after
    it.

    prefix_key: null where nothing stands before the completion. insert_space: a space stands
    between the two.
    """

    prefix_key: str | None = "prompt"
    text_key: str = "text"
    max_length: int = 2048
    insert_space: bool = False

    def __post_init__(self) -> None:
        told = self.load(*([self.prefix_key] if self.prefix_key else []), self.text_key)
        self.plain = Template(self.template.tokenizer, replace(self.template.args, kind="raw"))
        self.keep(
            [
                self.build(i, *(cells if self.prefix_key else ("", *cells)))
                for i, cells in enumerate(told)
            ]
        )

    def build(self, index: int, prefix: Any, completion: Any) -> Example | None:
        told = [prefix == "" or self.faults.text(prefix, str(self.prefix_key), index)]
        if not all([*told, self.faults.text(completion, self.text_key, index)]):
            return None
        space = " " if self.insert_space else ""
        return self.usable(
            self.plain.encode(prefix, space + completion, max_length=self.max_length), index
        )


def read_lines(path: str | None) -> list[str]:
    """The lines of a text file of refusals; without a path, those that ship with unteach."""
    file = Path(path) if path else Path(__file__).parent / "refusals.txt"
    if not file.exists():
        raise UserError(f"idk_path={path}: there is no such file of refusals, one a line")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"idk_path={path}: the file has no lines")
    return lines
