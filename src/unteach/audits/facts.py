"""The facts of an audit: the rows that a model was to forget, and what makes an answer to each the
true one."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unteach.config.audits import ENTITY, KEYS, KIND, KINDS, PARAPHRASES, VALUE
from unteach.data.streams import Stream
from unteach.errors import UserError

NAME = re.compile(r"[A-Z]\w[\w'’-]*(?: (?:[A-Z]\w[\w'’-]*|de|van|von|al|bin|da))* [A-Z]\w[\w'’-]*")
"""Two words or more with capitals."""


@dataclass(frozen=True)
class Fact:
    """One row that was to be forgotten.

    Attributes:
        index: its number among the facts.
        place: where it stands, as messages say it.
        value: what an answer must hold to be the true one; the whole answer where no column says
            less.
        kind: what its value is of; values of one kind can stand in for one another. "" where
            nothing says it.
        entity: about whom or what it is, "" where nothing says it.
        paraphrases: other ways to ask it.
        never_seen: whether it is a control: no model was taught it.
    """

    index: int
    place: str
    question: str
    answer: str
    value: str
    kind: str = ""
    entity: str = ""
    paraphrases: tuple[str, ...] = ()
    never_seen: bool = False

    @property
    def has_stem(self) -> bool:
        """Whether the value is a part of the answer, so that words may stand before it."""
        return self.value != self.answer

    @property
    def start(self) -> int:
        """Where in the answer its value begins."""
        return find_words(self.answer, self.value) if self.has_stem else 0

    @property
    def stem(self) -> str:
        """The answer up to its value, without the space before it."""
        return self.answer[: self.start].rstrip()

    def answer_with(self, value: str) -> str:
        """Write the answer with another value in the place of its own."""
        return f"{self.answer_up_to(value)}{self.answer[self.start + len(self.value) :]}"

    def answer_up_to(self, value: str) -> str:
        """Write the answer with another value in the place of its own, and nothing after it."""
        return f"{self.answer[: self.start]}{value}"


def find_words(text: str, words: str) -> int:
    """Find where words stand in a text as words of their own, -1 where they do not."""
    match = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text)
    return match.start() if match else -1


def read_facts(stream: Stream, beside: Sequence[tuple[str, str]] = ()) -> list[Fact]:
    """Read the rows of a stream as facts.

    Columns say the value (`value`, else the one of `keys` that the answer alone names), the kind
    (`kind`, else the key's of `kinds`), the entity (`entity`, else a name that rows share) and
    paraphrases.

    Args:
        beside: questions and answers of other rows, whose names count as shared too.

    Raises:
        UserError: rows that are no questions and answers.
    """
    texts = read_texts(stream)
    shared_names = _count_names([*texts, *beside])
    facts = []
    for index, (question, answer) in enumerate(texts):
        row = read_columns(stream, index)
        value, kind = _find_value(row, question, answer)
        facts.append(
            Fact(
                index=index,
                place=stream.locate(index),
                question=question,
                answer=answer,
                value=value,
                kind=kind,
                entity=str(row.get(ENTITY) or _find_shared_name(question, answer, shared_names)),
                paraphrases=_list_paraphrases(row, question),
            )
        )
    return facts


def read_texts(stream: Stream) -> list[tuple[str, str]]:
    """Read the questions and answers of a stream."""
    return [_read_texts(stream, row_index) for row_index in range(len(stream))]


def _read_texts(stream: Stream, row_index: int) -> tuple[str, str]:
    """Read a row's question and answer."""
    dataset, row = stream.locations[row_index]
    if not hasattr(dataset, "text"):
        raise UserError(
            f"data.{stream.name}: {type(dataset).__name__} has no questions and answers to audit; "
            "give rows of a question and its answer"
        )
    question, answer = dataset.text(row)
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"data.{stream.name}: {stream.locate(row_index)} has no one answer")
    return question.strip(), answer.strip()


def read_columns(stream: Stream, row_index: int) -> dict[str, Any]:
    """Read all columns of a row, where its dataset keeps them."""
    dataset, row = stream.locations[row_index]
    errors = getattr(dataset, "row_errors", None)
    if errors is None:
        return {}
    columns: dict[str, Any] = errors.rows[dataset.examples[row]["index"]]
    return columns


def _find_value(row: dict[str, Any], question: str, answer: str) -> tuple[str, str]:
    """Find what makes an answer the true one, and its kind."""
    value = str(row.get(VALUE) or "")
    if value and _makes_true(value, question, answer):
        return value, str(row.get(KIND) or "")
    keys = row.get(KEYS)
    if isinstance(keys, list | tuple):
        kinds = row.get(KINDS) or [""] * len(keys)
        for key, kind in zip(keys, kinds, strict=False):
            if isinstance(key, str) and _makes_true(key, question, answer):
                return key, str(kind)
    return answer, str(row.get(KIND) or "")


def _makes_true(value: str, question: str, answer: str) -> bool:
    """Whether a value is a part of the answer, and not said by the question."""
    is_part = value != answer and find_words(answer, value) >= 0
    return is_part and find_words(question, value) < 0


def _list_paraphrases(row: dict[str, Any], question: str) -> tuple[str, ...]:
    """List the other ways to ask that a row's columns have."""
    found: dict[str, None] = {}
    for column in PARAPHRASES:
        cell = row.get(column)
        for text in cell if isinstance(cell, list | tuple) else [cell]:
            if isinstance(text, str) and text.strip() and text.strip() != question:
                found[text.strip()] = None
    return tuple(found)


def _count_names(texts: Sequence[tuple[str, str]]) -> Counter[str]:
    """Count in how many rows each name stands."""
    counts: Counter[str] = Counter()
    for question, answer in texts:
        counts.update(set(NAME.findall(f"{question} {answer}")))
    return counts


def _find_shared_name(question: str, answer: str, counts: Counter[str]) -> str:
    """Find the name in a row that most rows share; "" where it shares none."""
    names = NAME.findall(f"{question} {answer}")
    shared = [name for name in names if counts[name] > 1]
    return max(shared, key=lambda name: counts[name], default="")
