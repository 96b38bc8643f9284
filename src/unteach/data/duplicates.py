"""Rows that say the same: those that stand twice in one stream, and those that are both forgotten
and retained.

Two rows say the same where all the texts that are read of them are equal, white space aside. A
conversation of one question and its answer is the same as a row of the two.
"""

import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.data import conversations
from unteach.data.io import tables
from unteach.data.row_errors import RowErrors
from unteach.lazy import np
from unteach.wording import counted

if TYPE_CHECKING:
    import numpy as np

EARLIER = ("system_key", "history_key")
ASKED = ("question_key", "prompt_key", "input_key")
NEEDED = (
    "messages_key",
    "answer_key",
    "chosen_key",
    "rejected_key",
    "text_key",
    "label_key",
    "target_key",
)
KEYS = (*EARLIER, *ASKED, *NEEDED)
"""Arguments of datasets that name the columns in which a row's texts stand."""


def read_keys(dataset: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row's texts that a dataset of these arguments reads."""
    fields = getattr(dataset, "__dataclass_fields__", {})
    keys = {
        name: arguments.get(name, getattr(fields.get(name), "default", None))
        for name in KEYS
        if name in fields
    }
    return {name: column for name, column in keys.items() if isinstance(column, str | list)}


def hash_rows(keys: Mapping[str, Any], rows: Sequence[tables.Row]) -> "np.ndarray":
    """A number for each row, equal where rows say the same; 0 where a row lacks its answer and is
    dropped."""
    layout = _Layout.read(keys)
    numbers = array("q")
    for row in rows:
        texts = _texts(layout, row)
        numbers.append((hash(texts) or 1) if texts else 0)
    return np.array(numbers, np.int64)


def find_repeats(hashes: "np.ndarray") -> list[int]:
    """The rows that say what an earlier one says."""
    _, first = np.unique(hashes, return_index=True)
    later = np.ones(len(hashes), bool)
    later[first] = False
    return np.flatnonzero(later & (hashes != 0)).tolist()


def note(hashes: "np.ndarray", faults: RowErrors) -> list[str]:
    """What there is to say about rows that stand twice, if anything."""
    if not (rows := find_repeats(hashes)):
        return []
    verb = "says" if len(rows) == 1 else "say"
    return [f"{counted(len(rows), 'row')} {verb} what an earlier one says ({faults.listed(rows)})"]


def find_shared(hashes: "np.ndarray", others: "np.ndarray") -> list[int]:
    """The rows that say what one of the others says."""
    return np.flatnonzero(np.isin(hashes, others) & (hashes != 0)).tolist()


@dataclass(frozen=True)
class _Layout:
    """The columns of a row's texts in the order in which they are shown. needed: by argument, those
    it must have."""

    earlier: list[str]
    asked: list[str]
    needed: list[tuple[str, list[str]]]

    @classmethod
    def read(cls, keys: Mapping[str, Any]) -> "_Layout":
        columns = {name: as_list(given) for name, given in keys.items()}
        earlier = [column for name in EARLIER for column in columns.get(name, [])]
        asked = [column for name in ASKED for column in columns.get(name, [])]
        return cls(earlier, asked, [(name, columns[name]) for name in NEEDED if name in columns])


def _texts(layout: _Layout, row: tables.Row) -> tuple[str, ...]:
    """What is read of a row, in the order in which it is shown; nothing where a text that it needs
    is missing."""
    texts: list[str] = []
    for column in layout.earlier:
        texts += _words(row.get(column))
    # An instruction and its input are one question.
    asked: list[str] = []
    for column in layout.asked:
        asked += _words(row.get(column))
    texts += [" ".join(asked)] if asked else []
    for name, columns in layout.needed:
        told: list[str] = []
        if name == "messages_key":
            told = _turns(row.get(columns[0]))
        else:
            for column in columns:
                told += _words(row.get(column))
        if not told:
            return ()
        texts += told
    return tuple(texts)


def as_list(columns: Any) -> list[str]:
    """Several columns, or one."""
    return [columns] if isinstance(columns, str) else list(columns)


def _turns(cell: object) -> list[str]:
    """The texts of a conversation, none where its last answer is empty; of what is none, as it is
    written."""
    try:
        messages = conversations.read_messages(cell)
    except conversations.BadConversation:
        return _words(cell)  # which is refused where it is read
    answers = [message for message in messages if message["role"] == conversations.ASSISTANT]
    if answers and conversations.says_nothing(answers[-1]):
        return []
    texts: list[str] = []
    for message in messages:
        texts += [*_words(message["content"]), *_words(message.get("tool_calls"))]
    return texts


def _words(cell: object) -> list[str]:
    """The texts in a cell, each with its white space as single spaces and its accents written one
    way (NFC)."""
    if isinstance(cell, str):
        text = " ".join(cell.split())
        return [text if text.isascii() else unicodedata.normalize("NFC", text)] if text else []
    if isinstance(cell, list | tuple):
        return [text for item in cell for text in _words(item)]
    if isinstance(cell, dict):
        return [text for item in cell.values() for text in _words(item)]
    return [] if tables.missing(cell) else [" ".join(str(cell).split())]
