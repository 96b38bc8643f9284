"""Measurements on disk, found again by what they are measurements of.

A store belongs to one set of weights in one precision; a record in it to one item: the token ids of
a prompt and an answer, or of a prompt and the generation arguments. So other weights, another
tokenizer, template, data or arguments never find an old number. Every store appends to a file of
its own, so that no two processes write one. A record carries a checksum of all that is in it; one
that is torn or damaged is passed over and measured again. docs/decisions/files-not-sqlite.md says
why this is no database.
"""

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unteach import atomic
from unteach.engines.base import SAMPLE, Plan, Score
from unteach.errors import name_file

FORMAT = 2
START = b"\x89unteach"
"""What every record starts with; the next one is looked for by it where one is damaged."""
CHECKSUM_SIZE = 16
LENGTHS = struct.Struct("<II")
"""Bytes of a record's header and of its body."""
PREFIX_SIZE = len(START) + CHECKSUM_SIZE + LENGTHS.size

Result = Score | list[int] | list[float] | float | list[list[int]]


def hash_store(weights: str, precision: str) -> str:
    """Hash what a store belongs to; its folder has this name."""
    content = json.dumps([FORMAT, weights, precision])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def hash_item(kind: str, item: object) -> str:
    """Hash what a record is of; it is found by this key."""
    content = json.dumps([kind, item], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass
class Record:
    """The arrays that were measured of one item, and its key.

    On disk: START, a checksum of all that follows, the lengths of header and body, the header
    (JSON: the key, and each array's dtype and shape), the body (the arrays' bytes, one after the
    other).
    """

    key: str
    arrays: list[np.ndarray]

    def to_bytes(self) -> bytes:
        """Write the record as it stands on disk."""
        shapes = []
        body = b""
        for array in self.arrays:
            shapes.append((str(array.dtype), array.shape))
            body += array.tobytes()
        header = json.dumps([self.key, *shapes]).encode()
        lengths = LENGTHS.pack(len(header), len(body))
        content = lengths + header + body
        return START + compute_checksum(content) + content

    @classmethod
    def from_bytes(cls, file: bytes, start: int) -> "tuple[Record, int]":
        """Read the record that starts at `start`.

        Returns:
            The record, and where it ends.

        Raises:
            ValueError: if it is not exactly what was written.
        """
        header_start = start + PREFIX_SIZE
        if not file.startswith(START, start) or header_start > len(file):
            raise ValueError("no record starts here")
        content_start = header_start - LENGTHS.size
        header_length, body_length = LENGTHS.unpack_from(file, content_start)
        body_start = header_start + header_length
        end = body_start + body_length
        if end > len(file):
            raise ValueError("torn")
        checksum = file[start + len(START) : content_start]
        content = file[content_start:end]
        if compute_checksum(content) != checksum:
            raise ValueError("damaged")

        key, *shapes = json.loads(file[header_start:body_start])
        arrays = []
        position = body_start
        for dtype, shape in shapes:
            size = int(np.prod(shape))
            array = np.frombuffer(file, dtype, size, position).reshape(shape)
            arrays.append(array)
            position += array.nbytes
        return cls(key, arrays), end


def compute_checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=CHECKSUM_SIZE).digest()


class Store:
    """The measurements of one model, of items of several kinds: `score`, `generate …`,
    `grad_norms …`.

    damaged: places in its files that could not be read.
    """

    def __init__(
        self,
        folder: Path,
        weights: str,
        precision: str,
        rank: int = 0,
    ):
        self.folder = folder / hash_store(weights, precision)
        self.damaged = 0
        self._measured: dict[str, list[np.ndarray]] = {}
        for file in sorted(self.folder.glob("*.records")):
            for record in self._read(file.read_bytes()):
                self._measured[record.key] = record.arrays
        self._own_file = self.folder / f"{rank}-{secrets.token_hex(8)}.records"

    def _read(self, file: bytes) -> Iterator[Record]:
        """Yield the whole records of a file, and count the places where there is none."""
        position = 0
        is_damaged = False
        while position < len(file):
            try:
                record, position = Record.from_bytes(file, position)
            except ValueError:
                # One damaged place, however many starts of records are found in it.
                if not is_damaged:
                    self.damaged += 1
                is_damaged = True
                next_start = file.find(START, position + 1)
                position = next_start if next_start >= 0 else len(file)
            else:
                is_damaged = False
                yield record

    def get(self, kind: str, item: object) -> Any:
        """Return what was measured of an item, or None."""
        key = hash_item(kind, item)
        arrays = self._measured.get(key)
        if arrays is None:
            return None
        if kind == "score":
            return Score(*arrays)
        if kind.startswith(f"{SAMPLE} "):
            return [array.tolist() for array in arrays]
        return arrays[0].tolist()

    def put(
        self,
        kind: str,
        items: Sequence[object],
        results: Sequence[Result],
    ) -> None:
        """Append a batch of measurements; they are on disk when it returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written = bytearray()
        for item, result in zip(items, results, strict=True):
            key = hash_item(kind, item)
            record = Record(key, _make_arrays(result))
            written += record.to_bytes()
            self._measured[record.key] = record.arrays
        with name_file(self._own_file), self._own_file.open("ab") as file:
            file.write(written)
            file.flush()
            os.fsync(file.fileno())

    def read_plan(self, of: str) -> Plan | None:
        """Read how a pass was batched that was cut off.

        Returns:
            None where none was, or where the file is damaged.
        """
        file = self._find_plan_file(of)
        try:
            batches = json.loads(file.read_text(encoding="utf-8"))
            return [_read_batch(batch) for batch in batches]
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def write_plan(self, of: str, plan: Plan) -> None:
        """Keep how a pass is batched, until it ends."""
        content = json.dumps(plan) + "\n"
        atomic.write_text(self._find_plan_file(of), content)

    def drop_plan(self, of: str) -> None:
        """Forget how a pass was batched that has ended."""
        self._find_plan_file(of).unlink(missing_ok=True)

    def _find_plan_file(self, of: str) -> Path:
        return self.folder / f"{of}.plan.json"


def _make_arrays(result: Result) -> list[np.ndarray]:
    if isinstance(result, Score):
        return list(vars(result).values())
    if isinstance(result, list) and result and isinstance(result[0], list):
        return [np.array(ids, dtype=np.int64) for ids in result]
    numbers = result if isinstance(result, list) else [result]
    is_real = any(isinstance(number, float) for number in numbers)
    dtype = np.float64 if is_real else np.int64
    return [np.array(result, dtype=dtype)]


def _read_batch(batch: list[list[Any]]) -> list[list[int]]:
    """Read the rows of one batch: the numbers of the items that share each row."""
    rows = []
    for row in batch:
        rows.append([int(index) for index in row])
    return rows
