"""Open files of rows, which may be compressed: `rows.jsonl.gz`, `rows.csv.zst`."""

import gzip
import io
from pathlib import Path
from typing import BinaryIO, cast

from unteach.config.files import GZIP, ZSTANDARD
from unteach.lazy import pyarrow


def open_bytes(file: Path) -> BinaryIO:
    """Open a file to read its bytes, those of a compressed one unpacked."""
    suffix = file.suffix.lower()
    if suffix == GZIP:
        return cast(BinaryIO, gzip.open(file, "rb"))
    if suffix == ZSTANDARD:
        unpacked = pyarrow.input_stream(str(file), compression="zstd")
        return io.BufferedReader(cast(io.RawIOBase, unpacked))
    return file.open("rb")


def open_text(file: Path, newline: str | None = None) -> io.TextIOWrapper:
    """Open a file to read its text (UTF-8, with or without a byte order mark).

    Args:
        file: the file.
        newline: how line ends are read, as `open` takes it.
    """
    return io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig", newline=newline)
