"""Rows of any file: csv, tsv, jsonl, json, parquet, arrow, txt; a folder of such files, or what
`datasets` loads.

One function, `open_table`. Rows come one after the other, never all at once, each with the place
where it stands, so that a message can name the file and the line. A csv cell is always text; other
formats give the types they hold.
"""

import contextlib
import csv
import json
import math
import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unteach.config.files import name_and_split
from unteach.data.io.arrow_files import record_batches
from unteach.data.io.hub_datasets import SEVERAL_SPLITS, is_saved_set, load_set
from unteach.data.io.json_values import parse_json
from unteach.errors import UserError, nearest, refuse_unreadable
from unteach.lazy import pyarrow
from unteach.wording import shown

Row = dict[str, Any]


class Place(NamedTuple):
    """Where a row stands: the file, `line` or `row`, and which one, counted from 1; number 0 is the
    whole file."""

    file: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}" if self.number else self.file


Placed = tuple[Place, Row]


@dataclass(frozen=True)
class Table:
    """Iterating gives (place, row).

    columns: those of the first rows (20; of JSON, whose rows may each have other keys, 1000), or of
    all. worded: the columns that hold words there. files: what it is read from, none for a hub set.
    """

    where: str
    columns: tuple[str, ...]
    worded: tuple[str, ...]
    files: tuple[Path, ...]
    read: Callable[[], Generator[Placed]]

    def __iter__(self) -> Generator[Placed]:
        return self.read()

    def named(self, column: str) -> str:
        """`column`, if there is one of that name; otherwise an error with the nearest one."""
        if column not in self.columns:
            raise UserError(no_column(self.where, column, self.columns))
        return column


def open_table(
    source: str | Path | dict[str, Any], by_line: bool = False, whole: bool = False
) -> Table:
    """The rows of a file, of a folder's files in the order of their names, or of a set that
    `datasets` loads.

    source: a path, a hub id (its split `train`) or a hub id or folder with a split
    (`owner/name:test`, `owner/name:train[:100]`), or load_dataset's own arguments (path, name,
    split, data_files…). What is here as a path is never taken for a hub id.
    by_line: a text file is one row a line, where otherwise it is one row; the column is `text`
    either way.
    whole: its columns are those of all rows, which are read for it, and not of the first ones.

    Raises UserError, which names the file and the line, for what is no such file, is empty or
    cannot be read.
    """
    if isinstance(source, dict):
        if not isinstance(source.get("path"), str):
            raise UserError(
                f"{source}: rows are named by `path`, a folder, a hub id or a format, and this "
                f"names none"
            )
        if set(source) != {"path"}:
            return _of_set(source)
        source = str(source["path"])
    if not str(source).strip():
        raise UserError("no file is named: an empty path would be the current folder")
    path = Path(source).expanduser()
    if is_saved_set(path) or (path / SEVERAL_SPLITS).exists():
        return _of_set({"path": str(path)})
    files = _files_of(path) if path.is_dir() else [path]
    if not path.exists():
        name, split = name_and_split(str(source))
        if Path(name).expanduser().is_dir() and split:
            return _of_set({"path": str(Path(name).expanduser()), "split": split})
        if _is_hub_id(name):
            return _of_set({"path": name, "split": split or "train"})
        raise UserError(_no_file(path))

    def read() -> Generator[Placed]:
        for file in files:
            yield from _read_file(file, by_line)

    return _opened(str(source), tuple(files), read, whole)


def missing(value: object) -> bool:
    """Whether a cell holds nothing: null, NaN, or no more than white space."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def text(row: Row, column: str, place: Place | str) -> str:
    """A cell as text; "" where it holds nothing. Raises UserError for a number, a list or no such
    cell."""
    if column not in row:
        raise UserError(no_column(str(place), column, row))
    value = row[column]
    if missing(value):
        return ""
    if not isinstance(value, str):
        kind = {
            bool: "true or false",
            int: "a number",
            float: "a number",
            list: "a list",
            dict: "a mapping",
        }
        held = f"{kind.get(type(value), type(value).__name__)} ({shown(value)})"
        raise UserError(f"{place}: the column {column!r} holds {held} where text is expected")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: the column {column!r} holds half a character (a lone surrogate)"
        ) from None
    return value


def no_column(where: str, column: str, there: Iterable[str]) -> str:
    """What is said of a column that is not there."""
    there = [str(name) for name in there]
    guess = nearest(column, there)
    return (
        f"{where}: no column {column!r}; its columns: "
        f"{', '.join(there)}{f'; did you mean {guess}?' if guess else ''}"
    )


def _opened(
    where: str, files: tuple[Path, ...], read: Callable[[], Generator[Placed]], whole: bool = False
) -> Table:
    """A table whose first rows, or all, were seen; without any it is an error."""
    is_json = any(file.suffix.lower() in (".json", ".jsonl") for file in files)
    is_text = any(file.suffix.lower() == ".txt" for file in files)  # a row may be a whole document
    seen = 1000 if is_json else 20
    columns: dict[str, bool] = {}  # and whether it holds words
    number = 0
    with contextlib.closing(read()) as reading:
        for number, (_, row) in enumerate(reading, 1):
            for name, cell in row.items():
                columns[str(name)] = columns.get(str(name), False) or _holds_words(cell)
            # Only rows of JSON may have columns that earlier ones have not.
            is_known = not is_json and all(columns.values())
            if is_known or is_text or (number >= seen and not whole):
                break
    if not number:
        raise UserError(f"{where}: there are no rows in it")
    worded = tuple(name for name, is_worded in columns.items() if is_worded)
    return Table(where, tuple(columns), worded, files, read)


def _holds_words(cell: object) -> bool:
    """Whether a cell is text that is no number, or a list or mapping with such text in it."""
    if isinstance(cell, str):
        return bool(cell.strip()) and not NUMBER.fullmatch(cell.strip())
    if isinstance(cell, dict):
        return any(_holds_words(value) for value in cell.values())
    return isinstance(cell, list) and any(_holds_words(value) for value in cell)


NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?|nan|true|false", re.IGNORECASE)


def _is_hub_id(source: str) -> bool:
    """`name` or `owner/name`, and no file's name."""
    plain = not source.startswith((".", "/", "~")) and source.count("/") < 2
    return plain and Path(source).suffix.lower() not in FORMATS and "\\" not in source


def _no_file(path: Path) -> str:
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    guess = nearest(path.name, beside)
    if not path.parent.is_dir():
        return f"{path}: there is no such file, and no folder {path.parent}"
    return (
        f"{path}: there is no such "
        f"file{f'; did you mean {path.with_name(guess)}?' if guess else ''}"
    )


SPLITS = {"train", "validation", "valid", "val", "dev", "test"}


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder that can be read, in the order of their names; of one format, and not
    of several splits."""
    found = sorted(
        f for f in folder.iterdir() if f.suffix.lower() in FORMATS and not f.name.startswith(".")
    )
    suffixes = sorted({file.suffix.lower() for file in found})
    if not found:
        raise UserError(f"{folder}: no {', '.join(FORMATS)} file is in this folder")
    if len(suffixes) > 1:
        raise UserError(
            f"{folder}: holds {' and '.join(suffixes)} files; name one file, or a folder of one "
            f"format"
        )
    if len(found) > 1 and (splits := [file.name for file in found if file.stem.lower() in SPLITS]):
        raise UserError(
            f"{folder}: holds the files of several splits ({', '.join(splits)}); name one file"
        )
    return found


NAMES = {".arrow": "Arrow", ".json": "JSON", ".jsonl": "JSON lines"}
"""What formats are called where that is not their ending."""


def _read_file(file: Path, by_line: bool) -> Generator[Placed]:
    """The rows of one file by its name's ending."""
    suffix = file.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{file}: its name must end in one of {', '.join(FORMATS)}")
    if not file.stat().st_size:
        raise UserError(f"{file}: the file is empty")
    with refuse_unreadable(
        str(file), f"no whole {NAMES.get(suffix, suffix[1:])} file", *_errors_of_readers(suffix)
    ):
        try:
            yield from (
                _lines_of_text(file) if suffix == ".txt" and by_line else FORMATS[suffix](file)
            )
        except UnicodeDecodeError:
            raise UserError(_not_utf8(file)) from None


def _errors_of_readers(suffix: str) -> tuple[type[Exception], ...]:
    """What the reader of a format raises that is no exception of Python's own."""
    if suffix not in (".parquet", ".arrow"):
        return (csv.Error,)
    return (pyarrow.ArrowException,)


def _not_utf8(file: Path) -> str:
    mend = "save it as UTF-8 (`iconv -f ENCODING -t UTF-8`)"
    with file.open("rb") as raw:
        if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return f"{file}: this is UTF-16, not UTF-8; {mend.replace('ENCODING', 'UTF-16')}"
        raw.seek(0)
        for number, line in enumerate(raw, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return (
                    f"{file}, line {number}: not UTF-8 (byte 0x{byte:02x} at character "
                    f"{error.start + 1}); {mend}"
                )
    return f"{file}: not UTF-8; {mend}"


def _csv(file: Path) -> Generator[Placed]:
    """Comma-separated, or with semicolons where the header has these and no comma; every cell is
    text."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
    return _separated(file, ";" if ";" in header and "," not in header else ",")


def _tsv(file: Path) -> Generator[Placed]:
    return _separated(file, "\t")


def _separated(file: Path, delimiter: str) -> Generator[Placed]:
    csv.field_size_limit(2**31 - 1)  # a cell may hold a document
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise UserError(_broken_quotes(file, start, reader.line_num, str(error))) from None
            if cells is None:
                return
            if not cells:  # an empty line is no row
                continue
            if header is None:
                header = cells
                if twice := sorted({name for name in header if header.count(name) > 1}):
                    raise UserError(f"{file}: the header names {', '.join(map(repr, twice))} twice")
                continue
            if len(cells) != len(header):
                said = (
                    f"{file}, line {start}: {len(cells)} cells where the header has "
                    f"{len(header)} ({', '.join(header)})"
                )
                raise UserError(
                    f"{said}; a cell with {delimiter!r}, a quote or a line end in it needs quotes "
                    f"round it"
                )
            yield Place(str(file), "line", start), dict(zip(header, cells, strict=True))


def _broken_quotes(file: Path, start: int, stop: int, said: str) -> str:
    lines = f"line {start}" if stop <= start else f"lines {start} to {stop}"
    what = "a quote is opened and never closed" if "end of data" in said else said
    return (
        f"{file}, {lines}: broken quoting ({what}); a quote within a quoted cell is written "
        f'twice: ""'
    )


def _json_lines(file: Path) -> Generator[Placed]:
    # not splitlines(), which also splits at U+2028 inside a text
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = Place(str(file), "line", number)
            try:
                row = parse_json(line, str(place))
            except json.JSONDecodeError as error:
                torn = (
                    ""
                    if line.endswith("\n")
                    else "; the last line is torn: was the file written to its end?"
                )
                raise UserError(f"{place}: not JSON ({error}){torn}") from None
            if not isinstance(row, dict):
                raise UserError(f"{place}: a row must be a JSON object, got {line[:60]!r}")
            yield place, row


def _json(file: Path) -> Generator[Placed]:
    """One array of objects, or JSON lines."""
    with file.open(encoding="utf-8-sig") as opened:
        start = next((line.lstrip() for line in opened if line.strip()), "")
        if start.startswith("{"):
            yield from _json_lines(file)
            return
        opened.seek(0)
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


def _parquet(file: Path) -> Generator[Placed]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file, memory_map=True) as opened:
        yield from _batches(file, opened.iter_batches(batch_size=1024))


def _arrow(file: Path) -> Generator[Placed]:
    with pyarrow.memory_map(str(file)) as mapped:
        yield from _batches(file, record_batches(mapped))


def _batches(file: Path, batches: Iterable[Any]) -> Generator[Placed]:
    number = 0
    for batch in batches:
        names = batch.schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{file}: names the columns {', '.join(map(repr, twice))} twice")
        columns = [
            _cells(file, name, column) for name, column in zip(names, batch.columns, strict=True)
        ]
        for cells in zip(*columns, strict=True):
            number += 1
            yield Place(str(file), "row", number), dict(zip(names, cells, strict=True))


def _cells(file: Path, name: str, column: Any) -> list[Any]:
    """The values of a column of one batch; UserError for those that Python does not have, as a date
    of year 99999."""
    with refuse_unreadable(str(file), f"the column {name!r} holds what cannot be read"):
        cells: list[Any] = column.to_pylist()
    return cells


def _document(file: Path) -> Generator[Placed]:
    """A text file is one document."""
    yield Place(str(file), "line", 0), {"text": file.read_text(encoding="utf-8-sig")}


def _lines_of_text(file: Path) -> Generator[Placed]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            yield Place(str(file), "line", number), {"text": line.rstrip("\n")}


FORMATS: dict[str, Callable[[Path], Generator[Placed]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _document,
}


def _of_set(hf_args: dict[str, Any]) -> Table:
    loaded = load_set(hf_args)
    where = "/".join(str(hf_args[key]) for key in ("path", "name", "split") if hf_args.get(key))
    files = (
        tuple(Path(file["filename"]) for file in loaded.cache_files)
        if Path(hf_args["path"]).is_dir()
        else ()
    )

    def read() -> Generator[Placed]:
        return ((Place(where, "row", number), row) for number, row in enumerate(loaded, 1))

    return _opened(where, files, read)
