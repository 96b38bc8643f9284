"""Measurements on disk, found again by what they are measurements of.

A store belongs to one set of weights in one precision; a record in it to one item: the token ids of a prompt and an
answer, or of a prompt and the generation arguments. So other weights, another tokenizer, template, data or arguments
never find an old number. Every process appends to a file of its own; a record carries a checksum, and a torn or damaged
one is measured again.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unteach.engines.base import Score

FORMAT = 1


def store_key(weights: str, precision: str) -> str:
    return hashlib.sha256(json.dumps([FORMAT, weights, precision]).encode()).hexdigest()[:32]


def item_key(kind: str, item: Any) -> str:
    return hashlib.sha256(json.dumps([kind, item], sort_keys=True).encode()).hexdigest()


class Store:
    """The measurements of one model. get() and put() work on items of one kind, `score` or `generate …`."""

    def __init__(self, folder: Path, weights: str, precision: str, rank: int = 0):
        self.folder = folder / store_key(weights, precision)
        self.damaged = 0
        self._records: dict[str, list[np.ndarray]] = {}
        for file in sorted(self.folder.glob("*.records")):
            self._records.update(self._read(file))
        self._own = self.folder / f"{rank}-{os.getpid()}.records"

    def _read(self, file: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
        content, place = file.read_bytes(), 0
        while place < len(content):
            end = content.find(b"\n", place)
            try:
                header = json.loads(content[place:end] if end >= 0 else b"")
                body = content[end + 1 : end + 1 + header["bytes"]]
                if len(body) != header["bytes"] or zlib.crc32(body) != header["crc"]:
                    raise ValueError
            except (ValueError, KeyError, TypeError):
                self.damaged += 1
                return  # what follows a damaged record cannot be told apart from it
            yield header["key"], list(_unpacked(header["arrays"], body))
            place = end + 1 + header["bytes"]

    def get(self, kind: str, item: Any) -> Any:
        """What was measured of an item, or None."""
        arrays = self._records.get(item_key(kind, item))
        if arrays is None:
            return None
        return Score(*arrays) if kind == "score" else arrays[0].tolist()

    def put(self, kind: str, items: Sequence[Any], results: Sequence[Any]) -> None:
        """Appends a batch of measurements, on disk when it returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written = bytearray()
        for item, result in zip(items, results, strict=True):
            arrays = list(vars(result).values()) if kind == "score" else [np.array(result, dtype=np.int64)]
            key, body = item_key(kind, item), b"".join(array.tobytes() for array in arrays)
            header = {
                "key": key,
                "arrays": [[str(a.dtype), len(a)] for a in arrays],
                "bytes": len(body),
                "crc": zlib.crc32(body),
            }
            written += json.dumps(header).encode() + b"\n" + body
            self._records[key] = arrays
        with self._own.open("ab") as file:
            file.write(written)
            file.flush()
            os.fsync(file.fileno())


def _unpacked(shapes: list[list[Any]], body: bytes) -> Iterator[np.ndarray]:
    place = 0
    for dtype, length in shapes:
        array = np.frombuffer(body, dtype, length, place)
        place += array.nbytes
        yield array
