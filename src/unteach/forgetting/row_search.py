"""Where the rows of a request stand among the rows that a run was taught.

A row holds a question and its answer where it has both, exactly once Unicode's forms (NFKC), case
and white space are put aside: in columns of its own, as two turns of a conversation, as a prompt
with a chosen or a rejected answer, or one after the other in a text.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unteach.audits.facts import Fact
from unteach.data import conversations
from unteach.data.conversations import ASSISTANT, Message
from unteach.data.duplicates import QUESTION_KEYS, ColumnKeys
from unteach.data.instructions import read_history
from unteach.data.rows import Row

ANSWER_KEYS = ("answer_key", "chosen_key", "rejected_key")
Exchange = tuple[str, str]
"""A question and its answer, normalized."""


def normalize(text: str) -> str:
    """Put Unicode's forms, case and white space aside."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class TaughtFacts:
    """What some rows hold of a request.

    Attributes:
        row_indices: the rows that hold a fact of it.
        fact_indices: the facts that they hold.
        num_alike: other rows that hold the entity and the value of a fact.
    """

    row_indices: frozenset[int]
    fact_indices: frozenset[int]
    num_alike: int


class RequestedFacts:
    """The facts of a request, as they are looked for in rows: each by its question or a paraphrase
    of it, with its answer."""

    def __init__(self, facts: Sequence[Fact]):
        self._facts: dict[Exchange, set[int]] = {}
        self._marks: set[tuple[str, str]] = set()
        for fact in facts:
            for question in (fact.question, *fact.paraphrases):
                exchange = (normalize(question), normalize(fact.answer))
                self._facts.setdefault(exchange, set()).add(fact.index)
            if fact.entity:
                self._marks.add((normalize(fact.entity), normalize(fact.value)))

    def find(self, rows: Sequence[Row], keys: ColumnKeys) -> TaughtFacts:
        """Find the facts in rows.

        Args:
            rows: of one dataset.
            keys: the columns of their texts (`duplicates.find_column_keys`).
        """
        row_indices, fact_indices = set(), set()
        num_alike = 0
        for row_index, row in enumerate(rows):
            exchanges = list(list_exchanges(row, keys))
            text = read_text(row, keys)
            held = self._find_in_row(exchanges, text)
            if held:
                row_indices.add(row_index)
                fact_indices |= held
            else:
                num_alike += self._is_alike(exchanges, text)
        return TaughtFacts(frozenset(row_indices), frozenset(fact_indices), num_alike)

    def _find_in_row(self, exchanges: Sequence[Exchange], text: str) -> set[int]:
        held: set[int] = set()
        for exchange in exchanges:
            held |= self._facts.get(exchange, set())
        if text:
            for (question, answer), indices in self._facts.items():
                start = text.find(question)
                if start >= 0 and text.find(answer, start + len(question)) >= 0:
                    held |= indices
        return held

    def _is_alike(self, exchanges: Sequence[Exchange], text: str) -> bool:
        words = " ".join([text, *(f"{question} {answer}" for question, answer in exchanges)])
        return any(entity in words and value in words for entity, value in self._marks)


def list_exchanges(row: Row, keys: ColumnKeys) -> Iterator[Exchange]:
    """List the questions of a row with their answers, normalized."""
    if "messages_key" in keys:
        yield from _list_turns(_read_messages(row.get(str(keys["messages_key"]))) or [])
    if "history_key" in keys:
        yield from _list_history(row.get(str(keys["history_key"])))
    questions = [_read_question(row.get(str(keys[key]))) for key in QUESTION_KEYS if key in keys]
    question = normalize(" ".join(questions))
    for key in ANSWER_KEYS:
        if key not in keys:
            continue
        cell = row.get(str(keys[key]))
        messages = _read_messages(cell)
        if messages and not question:
            # Without a prompt the answer is a whole conversation.
            yield from _list_turns(messages)
        elif messages:
            yield question, normalize(messages[-1]["content"])
        else:
            for answer in cell if isinstance(cell, list) else [cell]:
                yield question, normalize(str(answer or ""))


def read_text(row: Row, keys: ColumnKeys) -> str:
    """Read the text that a row is taught as, normalized; "" where it is no text."""
    columns = keys.get("text_key", [])
    names = [columns] if isinstance(columns, str) else columns
    return normalize(" ".join(str(row.get(name) or "") for name in names))


def _read_messages(cell: object) -> list[Message] | None:
    """Read a cell as turns; None where it is no conversation."""
    if isinstance(cell, str) and not cell.lstrip().startswith(("[", "{")):
        return None
    try:
        return conversations.read_messages(cell)
    except conversations.BadConversation:
        return None


def _list_turns(messages: Sequence[Message]) -> Iterator[Exchange]:
    """List what the assistant says, each turn with the one before it; after a tool's with what the
    user asked too."""
    before = asked = ""
    for message in messages:
        text = normalize(message["content"])
        if message["role"] == ASSISTANT:
            yield before, text
            if asked != before:
                yield asked, text
        if message["role"] == "user":
            asked = text
        before = text


def _list_history(cell: object) -> Iterator[Exchange]:
    """List the earlier turns that a row has in a column of its own: [question, answer] each."""
    for question, answer in read_history(cell) or ():
        yield normalize(question), normalize(answer)


def _read_question(cell: object) -> str:
    """Read what is asked: a text, or the last turn of a conversation."""
    messages = _read_messages(cell)
    if messages:
        return str(messages[-1]["content"])
    return str(cell or "")
