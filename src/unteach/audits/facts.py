"""The facts of an audit: what was taught by the rows that a model was to forget, and what makes an
answer to each the true one."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unteach.audits.documents import MOST_PASSAGES, cut_document
from unteach.audits.fact_rows import Exchange, FactRow, Form, Turn, read_rows
from unteach.config.audits import ENTITY, KEYS, KIND, KINDS, PARAPHRASES, VALUE
from unteach.data.streams import Stream

NAME = re.compile(r"[A-Z]\w[\w'’-]*(?: (?:[A-Z]\w[\w'’-]*|de|van|von|al|bin|da))* [A-Z]\w[\w'’-]*")
"""Two words or more with capitals."""


@dataclass(frozen=True)
class Fact:
    """What one row taught: a question and its answer, a turn of a chat, or a passage of a document.

    Attributes:
        index: its number among the facts.
        place: where it stands, as messages say it.
        question: what is asked; of a document the opening that is given.
        answer: the true one; of a document how it goes on.
        value: what an answer must hold to be the true one; the whole answer where no column says
            less.
        kind: what its value is of; values of one kind can stand in for one another. "" where
            nothing says it.
        entity: about whom or what it is, "" where nothing says it.
        paraphrases: other ways to ask it.
        never_seen: whether it is a control: no model was taught it.
        form: how its row is written.
        row: the number of that row among its stream's; None: it is a row of its own.
        earlier: the turns of a chat before the question.
        gap: the white space before an answer whose words are taken as they are.
        document: the text that it is a passage of; "" where it is none.
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
    form: Form = "question"
    row: int | None = None
    earlier: tuple[Turn, ...] = ()
    gap: str = " "
    document: str = ""

    @property
    def is_document(self) -> bool:
        """Whether it is asked for as text that goes on, and not as a question."""
        return self.form == "document"

    @property
    def group(self) -> str:
        """What it is forgotten and drawn together with: its entity, else its row."""
        return self.entity or f"row {self.index if self.row is None else self.row}"

    @property
    def given(self) -> str:
        """All that a model is shown before the value."""
        before = [turn.content for turn in self.earlier]
        return " ".join([*before, self.question, self.stem])

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


def read_facts(
    stream: Stream, beside: Sequence[FactRow] = (), max_passages: int = MOST_PASSAGES
) -> list[Fact]:
    """Read the rows of a stream as facts: each question, each turn of the assistant that is trained
    on, and passages of each document.

    Columns say the value (`value`, else the one of `keys` that the answer alone names), the kind
    (`kind`, else the key's of `kinds`), the entity (`entity`, else a name that rows share; of
    documents the column alone) and paraphrases, of a chat those of its last question. A document
    may have several values (`keys`).

    Args:
        beside: other rows, whose names count as shared too.
        max_passages: of one document, at most.

    Raises:
        UserError: rows that no attack can ask for.
    """
    rows = read_rows(stream)
    shared_names = _count_names([*rows, *beside])
    facts: list[Fact] = []
    for row in rows:
        entity = str(row.columns.get(ENTITY) or "")
        if row.form == "document":
            facts += _read_passages(row, entity, len(facts), max_passages)
            continue
        entity = entity or _find_shared_name(row.words, shared_names)
        for exchange in row.exchanges:
            facts.append(_read_exchange(row, exchange, entity, len(facts)))
    return facts


def _read_passages(row: FactRow, entity: str, first: int, most: int) -> list[Fact]:
    """Read a document as facts, numbered from `first`."""
    passages = cut_document(row.document, list(_list_values(row.columns)), most)
    facts = []
    for index, passage in enumerate(passages):
        facts.append(
            Fact(
                index=first + index,
                place=f"{row.place}, passage {index + 1}" if len(passages) > 1 else row.place,
                question=passage.opening,
                answer=passage.continuation,
                value=passage.value,
                kind=passage.kind,
                entity=entity,
                form=row.form,
                row=row.number,
                gap=passage.gap,
                document=row.document,
            )
        )
    return facts


def _read_exchange(row: FactRow, exchange: Exchange, entity: str, index: int) -> Fact:
    """Read what is asked in a row and answered as a fact."""
    earlier = [turn.content for turn in exchange.earlier]
    given = " ".join([*earlier, exchange.question])
    value, kind = _find_value(row.columns, given, exchange.answer)
    is_last = exchange is row.exchanges[-1]
    return Fact(
        index=index,
        place=f"{row.place}, turn {exchange.number}" if exchange.number else row.place,
        question=exchange.question,
        answer=exchange.answer,
        value=value,
        kind=kind,
        entity=entity,
        paraphrases=_list_paraphrases(row.columns, exchange.question) if is_last else (),
        form=row.form,
        row=row.number,
        earlier=exchange.earlier,
        gap=exchange.gap,
    )


def _find_value(row: Mapping[str, Any], given: str, answer: str) -> tuple[str, str]:
    """Find what makes an answer the true one, and its kind."""
    for value, kind in _list_values(row):
        if _makes_true(value, given, answer):
            return value, kind
    return answer, str(row.get(KIND) or "")


def _list_values(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """List the values that a row's columns name, each with its kind."""
    if row.get(VALUE):
        yield str(row[VALUE]), str(row.get(KIND) or "")
    keys = row.get(KEYS)
    if isinstance(keys, list | tuple):
        kinds = row.get(KINDS) or [""] * len(keys)
        for key, kind in zip(keys, kinds, strict=False):
            if isinstance(key, str) and key:
                yield key, str(kind)


def _makes_true(value: str, given: str, answer: str) -> bool:
    """Whether a value is a part of the answer, and not said by what is given."""
    is_part = value != answer and find_words(answer, value) >= 0
    return is_part and find_words(given, value) < 0


def _list_paraphrases(row: Mapping[str, Any], question: str) -> tuple[str, ...]:
    """List the other ways to ask that a row's columns have."""
    found: dict[str, None] = {}
    for column in PARAPHRASES:
        cell = row.get(column)
        for text in cell if isinstance(cell, list | tuple) else [cell]:
            if isinstance(text, str) and text.strip() and text.strip() != question:
                found[text.strip()] = None
    return tuple(found)


def _count_names(rows: Sequence[FactRow]) -> Counter[str]:
    """Count in how many rows each name stands."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(set(NAME.findall(row.words)))
    return counts


def _find_shared_name(words: str, counts: Counter[str]) -> str:
    """Find the name in a row that most rows share; "" where it shares none."""
    shared = [name for name in NAME.findall(words) if counts[name] > 1]
    return max(shared, key=lambda name: counts[name], default="")
