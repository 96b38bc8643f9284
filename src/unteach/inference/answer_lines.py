"""What the files of a run of inference hold: lines of JSON, one an answer."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ID, ERROR = "row_id", "error"
SKIPPED = "skipped"
"""The finish_reason of a row that is left out on purpose."""

RowID = int | str
Answer = dict[str, Any]
"""The fields of one row's answer, as they stand in the output."""


@dataclass
class Line:
    """One row: its id, what is kept of its columns, and what tells it from every other."""

    id: RowID
    kept: dict[str, Any]
    digest: str


def encode_answer(id_: RowID, digest: str, answer: Answer) -> bytes:
    """Encode a line of a part."""
    return encode(
        {
            ID: id_,
            "of": digest,
            "answer": answer,
        }
    )


def encode(value: object) -> bytes:
    """Encode a value as one line of JSON in UTF-8.

    Half characters, which UTF-8 does not have, are written as escapes.
    """
    try:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        return line.encode()
    except UnicodeEncodeError:
        line = json.dumps(value, allow_nan=False) + "\n"
        return line.encode()


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Parse a line of an output or a part; None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(content, dict) and isinstance(content.get(ID), int | str)
    return content if is_row else None


def read_lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the offset of each line of a file and what it holds; None where it is not whole."""
    offset = 0
    with file.open("rb") as lines:
        for line in lines:
            yield offset, parse_line(line)
            offset += len(line)
