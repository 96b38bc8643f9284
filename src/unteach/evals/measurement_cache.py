"""Measurements on disk, found again by what they are measurements of.

A store belongs to one set of weights in one precision; a record in it to one item: the token ids of
a prompt and an answer, or of a prompt and the generation arguments. So other weights, another
tokenizer, template, data or arguments never find an old number. Every store writes a file of its
own. A record carries a checksum of all that is in it; one that is torn or damaged is passed over
and measured again.
"""

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unteach import atomic
from unteach.engines.base import Plan, Score
from unteach.errors import name_file

FORMAT = 2
START = b"\x89unteach"
"""What every record starts with; the next one is looked for by it where one is damaged."""
LENGTHS = struct.Struct("<II")
CHECKSUM = 16


def store_key(weights: str, precision: str) -> str:
    return hashlib.sha256(json.dumps([FORMAT, weights, precision]).encode()).hexdigest()[:32]


def item_key(kind: str, item: object) -> str:
    return hashlib.sha256(json.dumps([kind, item], sort_keys=True).encode()).hexdigest()


class Store:
    """The measurements of one model. get() and put() take items of one kind: `score`, `generate …`,
    `grad_norms …`."""

    def __init__(self, folder: Path, weights: str, precision: str, rank: int = 0):
        self.folder = folder / store_key(weights, precision)
        self.damaged = 0
        self._records: dict[str, list[np.ndarray]] = {}
        for file in sorted(self.folder.glob("*.records")):
            self._records.update(self._read(file.read_bytes()))
        self._own = self.folder / f"{rank}-{secrets.token_hex(8)}.records"

    def _read(self, content: bytes) -> Iterator[tuple[str, list[np.ndarray]]]:
        place, whole = 0, True
        while place < len(content):
            try:
                key, arrays, place = _record(content, place)
                whole = True
                yield key, arrays
            except ValueError:
                self.damaged += whole  # one place, however many starts are found in it
                whole = False
                following = content.find(START, place + 1)
                place = following if following >= 0 else len(content)

    def get(self, kind: str, item: object) -> Any:
        """What was measured of an item, or None."""
        arrays = self._records.get(item_key(kind, item))
        if arrays is None:
            return None
        return Score(*arrays) if kind == "score" else arrays[0].tolist()

    def read_plan(self, of: str) -> Plan | None:
        """How a pass was batched that was cut off; None where none was, or what is told of it is
        damaged."""
        try:
            plan = json.loads(self._plan_file(of).read_text(encoding="utf-8"))
            return [[[int(i) for i in row] for row in batch] for batch in plan]
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def write_plan(self, of: str, plan: Plan) -> None:
        atomic.write_text(self._plan_file(of), json.dumps(plan) + "\n")

    def drop_plan(self, of: str) -> None:
        self._plan_file(of).unlink(missing_ok=True)

    def _plan_file(self, of: str) -> Path:
        return self.folder / f"{of}.plan.json"

    def put(self, kind: str, items: Sequence[Any], results: Sequence[Any]) -> None:
        """Appends a batch of measurements, on disk when it returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written = bytearray()
        for item, result in zip(items, results, strict=True):
            key, arrays = item_key(kind, item), _arrays(result)
            header = json.dumps([key, *((str(a.dtype), a.shape) for a in arrays)]).encode()
            body = b"".join(array.tobytes() for array in arrays)
            content = LENGTHS.pack(len(header), len(body)) + header + body
            written += START + _checksum(content) + content
            self._records[key] = arrays
        with name_file(self._own), self._own.open("ab") as file:
            file.write(written)
            file.flush()
            os.fsync(file.fileno())


def _arrays(result: Score | list[int] | list[float] | float) -> list[np.ndarray]:
    if isinstance(result, Score):
        return list(vars(result).values())
    numbers = result if isinstance(result, list) else [result]
    real = any(isinstance(number, float) for number in numbers)
    return [np.array(result, dtype=np.float64 if real else np.int64)]


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=CHECKSUM).digest()


def _record(content: bytes, place: int) -> tuple[str, list[np.ndarray], int]:
    """The record that starts at `place` and where it ends; ValueError if it is not exactly what was
    written."""
    lengths = place + len(START) + CHECKSUM
    header = lengths + LENGTHS.size
    if not content.startswith(START, place) or header > len(content):
        raise ValueError
    in_header, in_body = LENGTHS.unpack_from(content, lengths)
    end = header + in_header + in_body
    if (
        end > len(content)
        or _checksum(content[lengths:end]) != content[place + len(START) : lengths]
    ):
        raise ValueError
    key, *shapes = json.loads(content[header : header + in_header])
    arrays, at = [], header + in_header
    for dtype, shape in shapes:
        arrays.append(np.frombuffer(content, dtype, int(np.prod(shape)), at).reshape(shape))
        at += arrays[-1].nbytes
    return key, arrays, end
