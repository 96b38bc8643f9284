"""Read the rows of a table once: which columns, the id of each row, what is kept of it and what
tells it apart."""

import datetime
import decimal
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unteach import fingerprints
from unteach.config.inference import ANSWERS, INPUTS, INSTRUCTION, InferConfig
from unteach.data.io import tables
from unteach.data.io.cells import is_missing
from unteach.data.rows import Place, Row
from unteach.errors import UserError
from unteach.inference.result_store import ID, Line

Placed = tuple[Place, Row]


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


@dataclass
class InputTable:
    """The rows of a table, each with what tells it from every other.

    Attributes:
        not_kept: columns that hold no plain values.
    """

    rows: list[Placed]
    lines: list[Line]
    not_kept: list[str]


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
    rows = list(table)
    kept_rows, not_kept = _select_kept(rows, config)
    kept_names: set[str] = set()
    for kept in kept_rows:
        kept_names.update(kept)
    clash = sorted(kept_names.intersection([ID, *added]))
    if clash:
        rename = ""
        if config.output_column in clash:
            rename = ", or name the output's (output_column=…)"
        raise UserError(
            f"{table.where}: has the columns {', '.join(clash)}, which the output has too. Keep "
            f"others (keep_columns=[{columns.input}]){rename}"
        )
    lines = []
    for id_, kept, (_, row) in zip(
        _read_ids(rows, config),
        kept_rows,
        rows,
        strict=True,
    ):
        cells = [to_comparable(row.get(name)) for name in columns.list_names()]
        lines.append(Line(id_, kept, fingerprints.hash_value([id_, kept, cells])))
    return InputTable(rows, lines, not_kept)


def _read_ids(rows: list[Placed], config: InferConfig) -> list[int | str]:
    """Read the ids of rows, which must differ; without an id_column they are numbered."""
    if config.id_column is None:
        return list(range(len(rows)))
    seen: dict[int | str, Place] = {}
    for place, row in rows:
        id_ = row.get(config.id_column)
        if is_missing(id_) or isinstance(id_, bool) or not isinstance(id_, int | str):
            raise UserError(
                f"{place}: id_column={config.id_column} must hold text or a whole number, got "
                f"{id_!r}"
            )
        if id_ in seen:
            raise UserError(
                f"{place}: has the {config.id_column} {id_!r}, and so has {seen[id_]}; ids must "
                f"differ"
            )
        seen[id_] = place
    return list(seen)


def _select_kept(rows: list[Placed], config: InferConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """Select what is kept of each row.

    Returns:
        The kept cells of each row, and the columns that hold what JSON has not, which are left out.
    """
    not_kept: dict[str, None] = {}
    kept_rows: list[dict[str, Any]] = []
    for _, row in rows:
        kept = {}
        for name in row if config.keep_columns is None else config.keep_columns:
            if name not in row or name == ID == config.id_column:
                continue
            try:
                kept[str(name)] = to_plain(row[name])
            except TypeError:
                not_kept[str(name)] = None
        kept_rows.append(kept)
    for kept in kept_rows:
        for name in not_kept:
            kept.pop(name, None)
    return kept_rows, list(not_kept)


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
