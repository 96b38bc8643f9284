"""Reads large files of results piece by piece: what is small of each metric at once, its examples
when they are asked for.

It goes by the indentation that unteach and OpenUnlearning write: a line that begins with so many
spaces and a quote is a key so deep, for no text of JSON goes over a line's end. A file that is laid
out otherwise is read as a whole.
"""

import contextlib
import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach.errors import UserError
from unteach.json_files import read_json

EXAMPLES = "value_by_index"
TEXT = "generation"
"""What an example calls the text that a model generated."""
FIRST_PIECE, MOST_PIECE = 2**14, 2**20
"""Bytes of a list of examples that are parsed at a time: few first, as often a few are all."""

Entry = dict[str, Any]
"""What a log says of one metric."""
Span = tuple[int, int]


class ResultFile(Mapping[str, Any]):
    """The entries of a `<SUITE>_EVAL.json`, by metric, each read anew when it is asked for.

    Attributes:
        heads: of each metric, its entry without the examples; `n` counts them where the file does
            not.
        texts: the metrics whose examples hold a generated text.
        digest: of the file.
    """

    def __init__(self, path: Path, label: str) -> None:
        """Read the heads.

        Args:
            path: the file.
            label: by which messages call it.

        Raises:
            UserError: the file is not whole, or holds no mapping.
        """
        self.path = path
        self.label = label
        self.heads: dict[str, Entry] = {}
        self.texts: set[str] = set()
        self._spans: dict[str, Span] = {}
        self._rows: dict[str, Span] = {}
        self._whole: dict[str, Any] | None = None
        data = read_bytes(path)
        self.digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        self._unit = find_indentation(data)
        try:
            is_laid_out = bool(self._unit) and self._read_heads(data)
        except (ValueError, RecursionError):  # which the other way of reading puts in a sentence
            is_laid_out = False
        if not is_laid_out:
            self._whole = read_results(path, label)
            self.heads = {metric: strip_examples(item) for metric, item in self._whole.items()}
            self.texts = {metric for metric in self._whole if has_texts(self._whole, metric)}

    def _read_heads(self, data: bytes | mmap.mmap) -> bool:
        """Find where each entry lies, and read what is small of it; tell whether all is found."""
        key_start = b"\n" + self._unit + b'"'
        end = data.rfind(b"\n}")
        start = data.find(key_start, 0, end)
        while start != -1:
            following = data.find(key_start, start + 1, end)
            stop = end if following == -1 else following
            name, head = self._read_head(data, start, stop)
            if name in self.heads:  # said twice
                return False
            self.heads[name] = head
            start = following
        return bool(self.heads)

    def _read_head(self, data: bytes | mmap.mmap, start: int, stop: int) -> tuple[str, Entry]:
        """Read an entry but its examples."""
        opening = b"\n" + 2 * self._unit + b'"' + EXAMPLES.encode() + b'": {\n'
        closing = b"\n" + 2 * self._unit + b"}"
        rows_start = data.find(opening, start, stop)
        if rows_start == -1:
            [(name, entry)] = parse_members(data[start:stop]).items()
            self._spans[name] = (start, stop)
            return name, strip_examples(entry)

        first = rows_start + len(opening) - 1
        last = data.find(closing, first, stop)
        span = (first, last)
        around = data[start : first + 1] + data[last:stop]
        [(name, entry)] = parse_members(around).items()
        self._spans[name] = (start, stop)
        head = {key: value for key, value in entry.items() if not isinstance(value, dict)}
        self._rows[name] = span
        if data.find(f'"{TEXT}": '.encode(), *span) != -1:
            self.texts.add(name)
        if not isinstance(head.get("n"), int):
            row_start = b"\n" + 3 * self._unit + b'"'
            head["n"] = data[first:last].count(row_start)
        return name, head

    def __getitem__(self, metric: str) -> Any:
        if self._whole is not None:
            return self._whole[metric]
        start, stop = self._spans[metric]
        return self._parse(read_bytes(self.path)[start:stop])[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    def iterate_examples(self, metric: str) -> Iterator[dict[str, Any]]:
        """Read a metric's examples one after the other, as far as they are asked for."""
        if self._whole is not None or metric not in self._rows:
            yield from list_examples(self.get(metric))
            return
        start, stop = self._rows[metric]
        boundary = b"\n" + 3 * self._unit + b'"'
        data = read_bytes(self.path)
        for piece in cut_pieces(data, start, stop, boundary):
            for row in self._parse(piece).values():
                if isinstance(row, dict):
                    yield row

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            return parse_members(text)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{self.label}: {self.path} is not whole JSON ({error}); evaluate the run again"
            ) from None


def read_results(path: Path, label: str) -> dict[str, Any]:
    """Read a file of results as a whole.

    Raises:
        UserError: it is not whole, or holds no mapping.
    """
    content = read_json(path, label)
    if not isinstance(content, dict):
        raise UserError(
            f"{label}: {path} holds {type(content).__name__} where a mapping of metrics is needed; "
            "it is not a results file: evaluate the run again or name another folder"
        )
    return content


def iterate_examples(results: Mapping[str, Any], metric: str) -> Iterator[dict[str, Any]]:
    """Read a metric's examples one after the other, of a file or of what is in memory."""
    if isinstance(results, ResultFile):
        return results.iterate_examples(metric)
    return iter(list_examples(results.get(metric)))


def has_texts(results: Mapping[str, Any], metric: str) -> bool:
    """Whether some example of a metric holds a generated text."""
    if isinstance(results, ResultFile):
        return metric in results.texts
    return any(TEXT in row for row in list_examples(results.get(metric)))


def list_examples(entry: object) -> list[dict[str, Any]]:
    """List the examples of an entry that are mappings."""
    rows = entry.get(EXAMPLES) if isinstance(entry, dict) else None
    if not isinstance(rows, dict):
        return []
    return [row for row in rows.values() if isinstance(row, dict)]


def strip_examples(entry: Any) -> Entry:
    """Leave the examples out of an entry, and what else is a mapping in it; count them where it
    does not."""
    if not isinstance(entry, dict):
        return {}
    head = {key: value for key, value in entry.items() if not isinstance(value, dict)}
    rows = entry.get(EXAMPLES)
    if isinstance(rows, dict) and not isinstance(head.get("n"), int):
        head["n"] = len(rows)
    return head


def read_bytes(path: Path) -> bytes | mmap.mmap:
    """Open a file as bytes; a large one is not read but mapped."""
    with path.open("rb") as file:
        if path.stat().st_size <= MOST_PIECE:
            return file.read()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def find_indentation(data: bytes | mmap.mmap) -> bytes:
    """Find the spaces before the keys of a file; empty where it is not laid out line by line."""
    head = data[:64]
    tail = data[-64:].rstrip()
    spaces = head[2:].lstrip(b" ")
    if head[:2] != b"{\n" or not tail.endswith(b"\n}") or spaces[:1] != b'"':
        return b""
    return head[2 : len(head) - len(spaces)]


def cut_pieces(data: bytes | mmap.mmap, start: int, stop: int, boundary: bytes) -> Iterator[bytes]:
    """Cut what lies between two places before members of a list or mapping, each of which begins
    with `boundary`; pieces grow."""
    size = FIRST_PIECE
    while start < stop:
        end = data.find(boundary, min(start + size, stop), stop)
        if end == -1:
            end = stop
        yield data[start:end]
        start = end
        size = min(2 * size, MOST_PIECE)


def parse_members(text: bytes) -> dict[str, Any]:
    """Parse some members of a mapping."""
    value = json.loads(b"{" + text.rstrip().removesuffix(b",") + b"}")
    return dict(value)


@dataclass(frozen=True)
class TokenFile:
    """The answers of a `<SUITE>_TOKENS.json`, token by token, read whenever they are asked for."""

    run_name: str
    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        label = f"run {self.run_name!r}"
        with explain_closed_file(label, self.path):
            rows = read_results(self.path, label).get("rows")
        if not isinstance(rows, list) or not all(map(_is_token_row, rows)):
            raise UserError(
                f"{label}: {self.path} does not list answers token by token; evaluate the run again"
            )
        yield from rows


def _is_token_row(row: object) -> bool:
    """Whether a row of a token file has what is read of it."""
    if not isinstance(row, dict):
        return False
    for key in ("tokens", "logprob"):
        if not isinstance(row.get(key), list):
            return False
    return isinstance(row.get("length"), int)


@contextlib.contextmanager
def explain_closed_file(what: str, file: Path) -> Iterator[None]:
    """Say of whose file it is that the system does not open it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what}: {file} cannot be read ({error.strerror}); check its permissions or evaluate "
            f"the run again"
        ) from None
