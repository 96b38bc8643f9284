"""Read one file of rows: csv, tsv, jsonl, json or txt, perhaps compressed, parquet or arrow.

Rows come one after the other, never all at once, each with its place. A csv cell is always text;
other formats give the types they hold.
"""

import csv
import json
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from unteach.config.files import COMPRESSED, PACKED_TABLES, ZSTANDARD, get_format
from unteach.data.io.arrow_files import read_record_batches
from unteach.data.io.compressed import open_bytes, open_text
from unteach.data.io.json_values import parse_json
from unteach.data.rows import Place, PlacedRow
from unteach.errors import UserError, refuse_unreadable
from unteach.lazy import pyarrow

FORMAT_NAMES = {
    ".arrow": "Arrow",
    ".json": "JSON",
    ".jsonl": "JSON lines",
}
"""What formats are called where that is not their ending."""


def read_file(file: Path, by_line: bool) -> Generator[PlacedRow]:
    """Read the rows of one file by its name's ending.

    Args:
        file: the file.
        by_line: whether each line of a text file is a row; otherwise the file is one row.

    Raises:
        UserError: the file is empty, damaged, not UTF-8, or of no format that is read here.
    """
    suffix = get_format(file)
    if not suffix:
        endings = ", ".join(FORMATS)
        raise UserError(
            f"{file}: its name must end in one of {endings}; files of text may be compressed "
            f"({' or '.join(COMPRESSED)} after it)"
        )
    if not file.stat().st_size:
        raise UserError(f"{file}: the file is empty")

    read_rows = FORMATS[suffix]
    if suffix == ".txt" and by_line:
        read_rows = _read_text_lines
    # pyarrow is imported for its own formats alone, also where only its errors are named.
    errors: tuple[type[Exception], ...] = (csv.Error, EOFError, zlib.error)
    if suffix in PACKED_TABLES or file.suffix.lower() == ZSTANDARD:
        errors = (pyarrow.ArrowException,)
    format_name = FORMAT_NAMES.get(suffix, suffix[1:])
    with refuse_unreadable(str(file), f"no whole {format_name} file", *errors):
        try:
            yield from read_rows(file)
        except UnicodeDecodeError:
            raise UserError(_explain_not_utf8(file)) from None


def find_duplicates(names: Sequence[str]) -> list[str]:
    """List the names that occur more than once, sorted."""
    return sorted({name for name in names if names.count(name) > 1})


def _explain_not_utf8(file: Path) -> str:
    """Name the first line and byte that is not UTF-8, and how to convert the file."""
    mend = "save it as UTF-8 (`iconv -f ENCODING -t UTF-8`)"
    with open_bytes(file) as raw:
        if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            mend = mend.replace("ENCODING", "UTF-16")
            return f"{file}: this is UTF-16, not UTF-8; {mend}"
    with open_bytes(file) as raw:
        for number, line in enumerate(raw, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                column = error.start + 1
                return (
                    f"{file}, line {number}: not UTF-8 (byte 0x{byte:02x} at character "
                    f"{column}); {mend}"
                )
    return f"{file}: not UTF-8; {mend}"


def _read_csv(file: Path) -> Generator[PlacedRow]:
    """Read comma-separated rows; semicolons where the header has these and no comma."""
    with open_text(file, newline="") as lines:
        header = lines.readline()
    has_semicolons = ";" in header and "," not in header
    return _read_separated(file, ";" if has_semicolons else ",")


def _read_tsv(file: Path) -> Generator[PlacedRow]:
    """Read tab-separated rows."""
    return _read_separated(file, "\t")


def _read_separated(file: Path, delimiter: str) -> Generator[PlacedRow]:
    """Read rows of cells between delimiters, with a header; every cell is text."""
    csv.field_size_limit(2**31 - 1)  # a cell may hold a document
    with open_text(file, newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise UserError(
                    _explain_broken_quotes(file, start, reader.line_num, str(error))
                ) from None
            if cells is None:
                return
            if not cells:  # an empty line is no row
                continue
            if header is None:
                header = cells
                _refuse_duplicates(f"{file}: the header names", header)
                continue
            if len(cells) != len(header):
                names = ", ".join(header)
                raise UserError(
                    f"{file}, line {start}: {len(cells)} cells where the header has "
                    f"{len(header)} ({names}); a cell with {delimiter!r}, a quote or "
                    "a line end in it needs quotes round it"
                )
            row = dict(zip(header, cells, strict=True))
            yield Place(str(file), "line", start), row


def _refuse_duplicates(subject: str, columns: Sequence[str]) -> None:
    """Refuse a table in which a column's name occurs twice: one of the two would be lost."""
    duplicates = find_duplicates(columns)
    if duplicates:
        names = ", ".join(map(repr, duplicates))
        raise UserError(f"{subject} {names} twice")


def _explain_broken_quotes(
    file: Path,
    start: int,
    stop: int,
    message: str,
) -> str:
    """Say between which lines a quote is broken, and how quotes are written."""
    lines = f"line {start}" if stop <= start else f"lines {start} to {stop}"
    reason = "a quote is opened and never closed" if "end of data" in message else message
    return (
        f"{file}, {lines}: broken quoting ({reason}); a quote within a quoted cell is written "
        f'twice: ""'
    )


def _read_json_lines(file: Path) -> Generator[PlacedRow]:
    """Read one object a line; empty lines are no rows."""
    # Not splitlines(), which also splits at U+2028 inside a text.
    with open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = Place(str(file), "line", number)
            try:
                row = parse_json(line, str(place))
            except json.JSONDecodeError as error:
                problem = f"{place}: not JSON ({error})"
                if not line.endswith("\n"):
                    problem += "; the last line is torn: was the file written to its end?"
                raise UserError(problem) from None
            if not isinstance(row, dict):
                raise UserError(f"{place}: a row must be a JSON object, got {line[:60]!r}")
            yield place, row


def _read_json(file: Path) -> Generator[PlacedRow]:
    """Read one array of objects, or JSON lines."""
    with open_text(file) as opened:
        first_line = next((line for line in opened if line.strip()), "")
    if first_line.lstrip().startswith("{"):
        yield from _read_json_lines(file)
        return
    with open_text(file) as opened:
        try:
            rows = parse_json(opened.read(), str(file))
        except json.JSONDecodeError as error:
            raise UserError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from None

    if not isinstance(rows, list):
        raise UserError(f"{file}: must be an array of objects, or one object a line")
    for number, row in enumerate(rows, 1):
        place = Place(str(file), "row", number)
        if not isinstance(row, dict):
            raise UserError(f"{place}: a row must be a JSON object, got {str(row)[:60]!r}")
        yield place, row


def _read_parquet(file: Path) -> Generator[PlacedRow]:
    """Read the rows of a Parquet file, a thousand at a time."""
    # A submodule that pyarrow does not import by itself.
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file, memory_map=True) as opened:
        yield from _read_batches(file, opened.iter_batches(batch_size=1024))


def _read_arrow(file: Path) -> Generator[PlacedRow]:
    """Read the rows of a mapped Arrow file."""
    with pyarrow.memory_map(str(file)) as mapped:
        yield from _read_batches(file, read_record_batches(mapped))


def _read_batches(file: Path, batches: "Iterable[pyarrow.RecordBatch]") -> Generator[PlacedRow]:
    """Read the rows of record batches, counted over all of them."""
    number = 0
    for batch in batches:
        names = batch.schema.names
        _refuse_duplicates(f"{file}: names the columns", names)
        columns = []
        for name, column in zip(names, batch.columns, strict=True):
            columns.append(_read_cells(file, name, column))
        for cells in zip(*columns, strict=True):
            number += 1
            row = dict(zip(names, cells, strict=True))
            yield Place(str(file), "row", number), row


def _read_cells(file: Path, name: str, column: "pyarrow.Array[Any]") -> list[Any]:
    """Convert a column of one batch to Python's values.

    Raises:
        UserError: it holds a value that Python does not have, as a date of year 99999.
    """
    with refuse_unreadable(str(file), f"the column {name!r} holds what cannot be read"):
        cells: list[Any] = column.to_pylist()
    return cells


def _read_document(file: Path) -> Generator[PlacedRow]:
    """Read a text file as one document."""
    with open_text(file) as opened:
        yield Place(str(file), "line", 0), {"text": opened.read()}


def _read_text_lines(file: Path) -> Generator[PlacedRow]:
    """Read a text file as one row a line."""
    with open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            row = {"text": line.rstrip("\n")}
            yield Place(str(file), "line", number), row


FORMATS: dict[str, Callable[[Path], Generator[PlacedRow]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".txt": _read_document,
}
"""A file's ending -> what reads its rows."""
