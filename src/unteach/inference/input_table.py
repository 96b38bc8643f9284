"""Read the rows of a table once: which columns, the id of each row, what is kept of it and what
tells it apart."""

import datetime
import decimal
import hashlib
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from unteach import fingerprints
from unteach.config.inference import ANSWERS, INPUTS, INSTRUCTION, InferConfig
from unteach.data.io import tables
from unteach.data.io.cells import is_missing
from unteach.data.packed_list import PackedList
from unteach.data.rows import PlacedRow, Row, Rows
from unteach.errors import UserError
from unteach.inference.answer_lines import ID, Line, RowID
from unteach.lazy import np

DIGEST_BYTES: Final = 8


@dataclass
class Columns:
    """Which columns are read.

    Attributes:
        input: the prompt's.
        answer: of the answer that is scored.
        image: of the images.
        following: what follows the prompt on a line of its own: the input of Alpaca's instruction.
    """

    input: str
    answer: str | None = None
    image: str | None = None
    following: str | None = None

    def list_names(self) -> list[str]:
        """List the columns that are read."""
        names = (self.input, self.following, self.answer, self.image)
        return [name for name in names if name]


def find_columns(table: tables.Table, config: InferConfig) -> Columns:
    """Find the columns of a table that this run reads; those that are named must be there."""
    if config.input_column:
        columns = Columns(table.require_column(config.input_column))
    elif INSTRUCTION in table.columns:
        columns = _find_instruction_columns(table)
    else:
        columns = Columns(_find_column(table, INPUTS, "input_column"))
    if config.kind == "score":
        if config.answer_column:
            columns.answer = table.require_column(config.answer_column)
        else:
            columns.answer = _find_column(table, ANSWERS, "answer_column")
    if config.modality == "vlm":
        columns.image = table.require_column(config.image_column)
    for name in (*(config.keep_columns or ()), config.id_column):
        if name and name not in table.columns:
            table.require_column(name)
    return columns


def _find_instruction_columns(table: tables.Table) -> Columns:
    """Find Alpaca's columns, which are asked as they are trained on."""
    left_out = [name for name in ("system", "history") if name in table.worded]
    if left_out:
        raise UserError(
            f"{table.where}: an instruction is asked with its input, and what stands in "
            f"{' and '.join(left_out)} would not be; write such rows as messages, or set "
            "input_column=instruction to leave it out"
        )
    return Columns(INSTRUCTION, following="input" if "input" in table.columns else None)


def _find_column(table: tables.Table, names: Sequence[str], key: str) -> str:
    """Find the one column with one of these names.

    Args:
        key: the key that names it, for messages.
    """
    present = [name for name in names if name in table.columns]
    if not present:
        raise UserError(
            f"{table.where}: has no column {' or '.join(names)}; set {key}= to one of "
            f"{', '.join(table.columns)}"
        )
    if len(present) > 1 and present[0] != names[0]:
        raise UserError(
            f"{table.where}: has the columns {' and '.join(present)}; set {key}= to one of them"
        )
    return present[0]


@dataclass(eq=False)
class InputTable(Sequence[Line]):
    """The rows of a table, each with what tells it from every other; a line is made when it is
    asked for.

    Attributes:
        rows: with None for every cell that JSON has not.
        ids: of the rows.
        not_kept: columns that hold no plain values.
        objects: such cells of the columns that are read, by the number of their row.
        digests: of the rows, end to end.
    """

    config: InferConfig
    rows: Rows
    ids: Sequence[RowID]
    not_kept: list[str] = field(default_factory=list)
    objects: dict[int, Row] = field(default_factory=dict)
    digests: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Line:  # type: ignore[override]
        kept = self.select_kept(self.rows[number])
        start = number * DIGEST_BYTES
        digest = self.digests[start : start + DIGEST_BYTES].hex()
        return Line(self.ids[number], kept, digest)

    def get_row(self, number: int) -> Row:
        """Get a row with all cells that are read."""
        return {**self.rows[number], **self.objects.get(number, {})}

    def select_kept(self, row: Row) -> dict[str, Any]:
        """Select what is kept of a row."""
        kept = {}
        for name in list_kept_names(row, self.config):
            if str(name) not in self.not_kept:
                kept[str(name)] = to_plain(row[name])
        return kept


def list_kept_names(row: Row, config: InferConfig) -> list[str]:
    """List the columns of a row that are kept where they hold plain values."""
    names = []
    for name in row if config.keep_columns is None else config.keep_columns:
        if name in row and not name == ID == config.id_column:
            names.append(name)
    return names


def read_input_table(
    table: tables.Table,
    columns: Columns,
    config: InferConfig,
    added: Sequence[str],
) -> InputTable:
    """Read a table once.

    Args:
        added: the columns that the answers will have; a kept column of such a name is refused.
    """
    read_names = {*columns.list_names(), config.id_column}
    kept_names: dict[str, bool] = {}
    """Names of columns, and whether all cells in them are plain."""
    objects: dict[int, Row] = {}

    def read_plain_rows() -> Iterator[PlacedRow]:
        for number, (place, row) in enumerate(table):
            not_plain = {name: cell for name, cell in row.items() if not is_plain(cell)}
            for name in list_kept_names(row, config):
                is_kept = kept_names.get(str(name), True)
                kept_names[str(name)] = is_kept and name not in not_plain
            is_read = {name: cell for name, cell in not_plain.items() if name in read_names}
            if is_read:
                objects[number] = is_read
            yield place, {**row, **dict.fromkeys(not_plain)}

    rows = Rows(read_plain_rows())
    not_kept = [name for name, is_kept in kept_names.items() if not is_kept]
    clash = sorted(set(kept_names).difference(not_kept).intersection([ID, *added]))
    if clash:
        rename = ""
        if config.output_column in clash:
            rename = ", or name the output's (output_column=…)"
        raise UserError(
            f"{table.where}: has the columns {', '.join(clash)}, which the output has too. Keep "
            f"others (keep_columns=[{columns.input}]){rename}"
        )
    input_table = InputTable(config, rows, range(len(rows)), not_kept, objects)
    if config.id_column is not None:
        input_table.ids = _read_ids(input_table, config.id_column)
    for number, id_ in enumerate(input_table.ids):
        row = input_table.get_row(number)
        cells = [to_comparable(row.get(name)) for name in columns.list_names()]
        digest = fingerprints.hash_value([id_, input_table.select_kept(row), cells])
        input_table.digests += bytes.fromhex(digest)
    return input_table


def _read_ids(table: InputTable, column: str) -> PackedList[RowID]:
    """Read the ids of rows, which must differ."""
    ids: PackedList[RowID] = PackedList()
    hashes = array("q")
    for number in range(len(table.rows)):
        id_ = table.get_row(number).get(column)
        if is_missing(id_) or isinstance(id_, bool) or not isinstance(id_, int | str):
            raise UserError(
                f"{table.rows.locate(number)}: id_column={column} must hold text or a whole "
                f"number, got {id_!r}"
            )
        ids.append(id_)
        hashes.append(hash(id_))
    # Only ids of one hash can be equal.
    if len(np.unique(hashes)) < len(ids):
        _refuse_equal_ids(table, ids, column)
    return ids


def _refuse_equal_ids(table: InputTable, ids: Sequence[RowID], column: str) -> None:
    """Raise where two rows have one id."""
    seen: dict[RowID, int] = {}
    for number, id_ in enumerate(ids):
        if id_ in seen:
            place, before = table.rows.locate(number), table.rows.locate(seen[id_])
            raise UserError(
                f"{place}: has the {column} {id_!r}, and so has {before}; ids must differ"
            )
        seen[id_] = number


def is_plain(value: object) -> bool:
    """Say whether JSON can hold a cell."""
    try:
        to_plain(value)
    except TypeError:
        return False
    return True


def to_plain(value: object) -> Any:
    """Write a cell as JSON has it.

    Raises:
        TypeError: it is no text, number, list or mapping of such.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): to_plain(item) for name, item in value.items()}
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    raise TypeError


def to_comparable(value: object) -> Any:
    """Return what tells a cell from another: itself, or a hash of what JSON has not."""
    try:
        return to_plain(value)
    except TypeError:
        pass
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [to_comparable(item) for item in value]
    if isinstance(value, bytes):
        content = value
    elif hasattr(value, "tobytes"):
        content = value.tobytes()
    else:
        content = repr(value).encode()
    return hashlib.sha256(content).hexdigest()
