"""Rows that say the same: those that stand twice in one stream, and those that are both forgotten
and retained.

Two rows say the same where all the texts that are read of them are equal, white space aside. A
conversation of one question and its answer is the same as a row of the two.
"""

import hashlib
import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.data import conversations
from unteach.data.io.cells import is_missing
from unteach.data.row_errors import RowErrors
from unteach.data.rows import Row
from unteach.lazy import np
from unteach.wording import format_count

if TYPE_CHECKING:
    import numpy as np

EARLIER_KEYS = ("system_key", "history_key")
QUESTION_KEYS = ("question_key", "prompt_key", "input_key")
REQUIRED_KEYS = (
    "messages_key",
    "answer_key",
    "chosen_key",
    "rejected_key",
    "text_key",
    "label_key",
    "target_key",
)
KEYS = (*EARLIER_KEYS, *QUESTION_KEYS, *REQUIRED_KEYS)
"""Arguments of datasets that name the columns in which a row's texts stand."""
ColumnKeys = Mapping[str, str | list[str]]
"""Argument of a dataset -> the column, or columns, that it names."""


def find_column_keys(dataset: type, arguments: Mapping[str, Any]) -> ColumnKeys:
    """Find the columns of a row's texts that a dataset of these arguments reads."""
    fields = getattr(dataset, "__dataclass_fields__", {})
    keys: dict[str, str | list[str]] = {}
    for name in KEYS:
        if name not in fields:
            continue
        column = arguments.get(name, fields[name].default)
        if isinstance(column, str | list):
            keys[name] = column
    return keys


def hash_rows(keys: ColumnKeys, rows: Sequence[Row]) -> "np.ndarray":
    """Hash each row: numbers that are equal where rows say the same.

    A row that lacks its answer, and so is dropped, has 0.

    Returns:
        int64 [num_rows].
    """
    hasher = RowHasher(keys)
    hashes = array("q", [hasher.hash_row(row) for row in rows])
    return np.array(hashes, np.int64)


class RowHasher:
    """Hashes rows whose texts stand in these columns."""

    def __init__(self, keys: ColumnKeys):
        self._columns = _TextColumns.build(keys)

    def hash_row(self, row: Row) -> int:
        """Hash a row: a number that is equal, in every process, where rows say the same; 0 of one
        that lacks its answer."""
        texts = _read_texts(self._columns, row)
        if not texts:
            return 0
        said = "\0".join(texts).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(said, digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True) or 1


def find_repeats(hashes: "np.ndarray") -> list[int]:
    """Find the rows that say what an earlier one says."""
    _, first_indices = np.unique(hashes, return_index=True)
    is_later = np.ones(len(hashes), bool)
    is_later[first_indices] = False
    return np.flatnonzero(is_later & (hashes != 0)).tolist()


def note_repeats(hashes: "np.ndarray", row_errors: RowErrors) -> list[str]:
    """Say which rows stand twice: a sentence, or none."""
    rows = find_repeats(hashes)
    if not rows:
        return []
    verb = "says" if len(rows) == 1 else "say"
    count = format_count(len(rows), "row")
    places = row_errors.list_places(rows)
    return [f"{count} {verb} what an earlier one says ({places})"]


def find_shared(hashes: "np.ndarray", others: "np.ndarray") -> list[int]:
    """Find the rows that say what one of the others says."""
    says_something = hashes != 0
    is_shared = np.isin(hashes, others) & says_something
    return np.flatnonzero(is_shared).tolist()


@dataclass(frozen=True)
class _TextColumns:
    """The columns of a row's texts, in the order in which they are shown.

    Args:
        earlier: what stands before the question.
        question: the question and its input.
        required: (argument, columns) of the texts that a row must have.
    """

    earlier: list[str]
    question: list[str]
    required: list[tuple[str, list[str]]]

    @classmethod
    def build(cls, keys: ColumnKeys) -> "_TextColumns":
        """Sort the columns of a dataset by where their texts stand."""
        earlier: list[str] = []
        question: list[str] = []
        required = []
        for name in KEYS:
            if name not in keys:
                continue
            columns = _as_list(keys[name])
            if name in EARLIER_KEYS:
                earlier += columns
            elif name in QUESTION_KEYS:
                question += columns
            else:
                required.append((name, columns))
        return cls(earlier, question, required)


def _read_texts(columns: _TextColumns, row: Row) -> tuple[str, ...]:
    """Read a row's texts in order; none where a text that it must have is missing."""
    texts = _read_cells(row, columns.earlier)
    # An instruction and its input are one question.
    question = _read_cells(row, columns.question)
    if question:
        texts.append(" ".join(question))
    for name, names in columns.required:
        if name == "messages_key":
            required = _read_turns(row.get(names[0]))
        else:
            required = _read_cells(row, names)
        if not required:
            return ()
        texts += required
    return tuple(texts)


def _read_cells(row: Row, columns: list[str]) -> list[str]:
    """Read the texts in some columns of a row."""
    texts = []
    for column in columns:
        texts += _normalize_texts(row.get(column))
    return texts


def _as_list(columns: str | list[str]) -> list[str]:
    """Give several columns, or one, as a list."""
    return [columns] if isinstance(columns, str) else list(columns)


def _read_turns(cell: object) -> list[str]:
    """Read the texts of a conversation, none where its last answer is empty."""
    try:
        messages = conversations.read_messages(cell)
    except conversations.BadConversation:
        # It is refused where it is read; here it counts as it is written.
        return _normalize_texts(cell)
    answers = []
    for message in messages:
        if message["role"] == conversations.ASSISTANT:
            answers.append(message)
    if answers and conversations.says_nothing(answers[-1]):
        return []
    texts: list[str] = []
    for message in messages:
        texts += _normalize_texts(message["content"])
        texts += _normalize_texts(message.get("tool_calls"))
    return texts


def _normalize_texts(cell: object) -> list[str]:
    """List the texts in a cell, with single spaces and accents written one way (NFC)."""
    if isinstance(cell, str):
        text = " ".join(cell.split())
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        return [text] if text else []
    if isinstance(cell, dict):
        cell = list(cell.values())
    if isinstance(cell, list | tuple):
        texts = []
        for item in cell:
            texts += _normalize_texts(item)
        return texts
    if is_missing(cell):
        return []
    words = str(cell).split()
    return [" ".join(words)]
