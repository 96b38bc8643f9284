"""The rows of a table, read once: which columns, the id of each row, what is kept of it and what
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
    """Which columns are read: the prompt's, what follows it on a line of its own (the input of
    Alpaca's instruction), and where they are asked for the answer's and the images'."""

    input: str
    answer: str | None = None
    image: str | None = None
    following: str | None = None

    def all(self) -> list[str]:
        return [name for name in (self.input, self.following, self.answer, self.image) if name]


def find_columns(table: tables.Table, config: InferConfig) -> Columns:
    """The columns of a table that this run reads; those that are named must be there, others are
    found."""
    there = table.columns
    if config.input_column is None and INSTRUCTION in there:
        columns = _instruction_columns(table)
    else:
        asked = (
            table.require_column(config.input_column)
            if config.input_column
            else _found(table, INPUTS, "input_column")
        )
        columns = Columns(asked)
    if config.kind == "score":
        named = config.answer_column
        columns.answer = (
            table.require_column(named) if named else _found(table, ANSWERS, "answer_column")
        )
    if config.modality == "vlm":
        columns.image = table.require_column(config.image_column)
    for name in (*(config.keep_columns or ()), *([config.id_column] if config.id_column else ())):
        if name not in there:
            table.require_column(name)
    return columns


def _instruction_columns(table: tables.Table) -> Columns:
    """Alpaca's columns, asked as they are trained on."""
    if left := [name for name in ("system", "history") if name in table.worded]:
        raise UserError(
            f"{table.where}: an instruction is asked with its input, and what stands in "
            f"{' and '.join(left)} would not be; write such rows as messages, or set "
            "input_column=instruction to leave it out"
        )
    return Columns(INSTRUCTION, following="input" if "input" in table.columns else None)


def _found(table: tables.Table, names: Sequence[str], key: str) -> str:
    there = [name for name in names if name in table.columns]
    if not there:
        raise UserError(
            f"{table.where}: has no column {' or '.join(names)}; set {key}= to one of "
            f"{', '.join(table.columns)}"
        )
    if len(there) > 1 and there[0] != names[0]:
        raise UserError(
            f"{table.where}: has the columns {' and '.join(there)}; set {key}= to one of them"
        )
    return there[0]


@dataclass
class InputTable:
    """The rows of a table, each with what tells it from every other. not_kept: columns that hold no
    plain values."""

    rows: list[Placed]
    lines: list[Line]
    not_kept: list[str]


def read_input_table(
    table: tables.Table, columns: Columns, config: InferConfig, added: Sequence[str]
) -> InputTable:
    """Reads a table once. added: the columns that the answers will have; a kept column of such a
    name is refused."""
    rows = list(table)
    kept_rows, not_kept = _kept(rows, config)
    clash = sorted({ID, *added} & {name for row in kept_rows for name in row})
    if clash:
        raise UserError(
            f"{table.where}: has the columns {', '.join(clash)}, which the output has too. Keep "
            f"others (keep_columns=[{columns.input}])"
            + (", or name the output's (output_column=…)" if config.output_column in clash else "")
        )
    ids = _ids(rows, config)
    lines = []
    for id_, kept, (_, row) in zip(ids, kept_rows, rows, strict=True):
        lines.append(
            Line(
                id_,
                kept,
                fingerprints.hash_value(
                    [id_, kept, [told(row.get(name)) for name in columns.all()]]
                ),
            )
        )
    return InputTable(rows, lines, not_kept)


def _ids(rows: list[Placed], config: InferConfig) -> list[Any]:
    if config.id_column is None:
        return list(range(len(rows)))
    seen: dict[Any, Place] = {}
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


def _kept(rows: list[Placed], config: InferConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """What is kept of each row; and the columns that were meant to be and hold what JSON has
    not."""
    wanted, odd = config.keep_columns, dict[str, None]()
    found = []
    for _, row in rows:
        kept = {}
        for name in row if wanted is None else [name for name in wanted if name in row]:
            if name == ID == config.id_column:
                continue
            try:
                kept[str(name)] = plain(row[name])
            except TypeError:
                odd[str(name)] = None
        found.append(kept)
    return [{name: value for name, value in row.items() if name not in odd} for row in found], list(
        odd
    )


def plain(value: object) -> Any:
    """A cell as JSON has it. Raises TypeError for what is no text, number, list or mapping of
    such."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    raise TypeError


def told(value: object) -> Any:
    """What tells a cell from another: itself, or a hash of what JSON has not."""
    try:
        return plain(value)
    except TypeError:
        content = value if isinstance(value, bytes) else repr(value).encode()
        if isinstance(value, dict | list):
            return [told(item) for item in (value.values() if isinstance(value, dict) else value)]
        if hasattr(value, "tobytes") and not isinstance(value, bytes):
            content = value.tobytes()
        return hashlib.sha256(content).hexdigest()
