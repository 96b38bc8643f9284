"""Rows by the arguments of `load_dataset`: a built-in world, local files, or what `datasets`
loads; whole, or the part of them that a forget set takes or leaves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unteach.config.files import COMPRESSED, get_format, get_stem
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import ForgetSet
from unteach.data.entities import select_part
from unteach.data.io import tokenized_paths
from unteach.data.io.cells import explain_no_column
from unteach.data.io.file_formats import FORMATS
from unteach.data.io.hub_datasets import load_hub_dataset
from unteach.data.io.tables import open_table
from unteach.data.row_selection import RowSelection
from unteach.data.rows import Row, Rows, locate_row
from unteach.data.synthetic import worlds
from unteach.errors import AbsentData, UserError


def load_rows(hf_args: dict[str, Any]) -> Sequence[Row]:
    """Load the rows that `hf_args` stand for.

    Args:
        hf_args: the names of `datasets.load_dataset` (path, name, split, data_files, revision…).
            path: `authors` or `authors:SEED` is the built-in world, `authors-grown:SEED` one of
            more questions, `people:SEED` the one to be audited on; in a folder, <name> or
            <name>/<split> is a file of rows (.jsonl, .csv, .parquet, .txt…), or path is such a file
            itself; everything else goes to `datasets.load_dataset`. Beside these: `part` and
            `forget_set`, only the rows that this forget set takes (`forget`) or leaves (`retain`);
            `choice`, a RowSelection; `rows`, rows that are in memory already.

    Raises:
        AbsentData: the set exists, and its configuration or split does not.
        UserError: there is no such set, or its rows cannot be read.
    """
    if "part" not in hf_args:
        return _load_all_rows(hf_args)
    where = describe_source(hf_args)
    if hf_args.get("forget_set") is None:
        raise UserError(
            f"{where}: set forget_set, which says what goes: forget_set.by=author "
            f"forget_set.fraction=0.1"
        )
    reader = Reader()
    forget_set = reader.record(ForgetSet, hf_args["forget_set"], "forget_set")
    if reader.problems:
        raise UserError(join_problems(reader.problems))

    rows = _load_all_rows(hf_args)
    part = hf_args["part"]
    selected = select_part(rows, part, forget_set, where)
    if isinstance(rows, Rows):
        return rows.take(selected)
    return [rows[index] for index in selected]


def _load_all_rows(hf_args: dict[str, Any]) -> Sequence[Row]:
    """Load the rows of a source, whatever part of them is taken."""
    hf_args = _drop_keys(hf_args, "part", "forget_set")
    if "rows" in hf_args:
        in_memory: Sequence[Row] = hf_args["rows"]
        return in_memory
    selection: RowSelection | None = hf_args.get("choice")
    if selection is not None:
        source = _drop_keys(hf_args, "choice")
        table = open_table(source, selection.by_line)
        return selection.select(table, table.where)

    path = str(hf_args.get("path", ""))
    if world := worlds.parse_world(path):
        name = str(hf_args.get("name"))
        return worlds.build_world_rows(world, name)
    if Path(path).is_file():
        return Rows(open_table(path))
    if Path(path).is_dir() and "data_files" not in hf_args:
        file = _find_file(Path(path), hf_args)
        return Rows(open_table(file))
    if "/" in path and path.startswith((".", "/", "~")):
        raise UserError(
            f"{path}: there is no such folder; name one of <config name>.jsonl, .csv, .parquet… "
            f"files"
        )
    if _reads_json_as_text(hf_args):
        hf_args = {**hf_args, "path": "json"}
    return list(load_hub_dataset(hf_args))


def _drop_keys(hf_args: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Copy the arguments without some of them."""
    kept = dict(hf_args)
    for key in keys:
        kept.pop(key, None)
    return kept


def describe_source(hf_args: dict[str, Any]) -> str:
    """Name a source of rows in a message."""
    names = [hf_args.get(key) for key in ("path", "name", "split")]
    where = "/".join(str(name) for name in names if name)
    if "part" not in hf_args:
        return where
    settings = [str(hf_args["part"])]
    for name, value in (hf_args.get("forget_set") or {}).items():
        if value is not None:
            settings.append(f"{name} {value}")
    described = ", ".join(settings)
    return f"{where} ({described})"


def note_source(hf_args: dict[str, Any]) -> str | None:
    """Say what must be known of a source before its rows are used, if anything."""
    if _reads_json_as_text(hf_args):
        return (
            f"{hf_args['data_files']}: JSON lines, read as rows with columns, although "
            f"hf_args.path is text"
        )
    world = worlds.parse_world(str(hf_args.get("path", "")))
    if world is None:
        return None
    return worlds.note_uneven_share(str(hf_args.get("name")), world)


def list_files(hf_args: dict[str, Any]) -> list[Path]:
    """List the local files that these rows are read from."""
    path = Path(str(hf_args.get("path", "")))
    if tokenized_paths.is_tokenized(path) and path.is_dir():
        return [path / tokenized_paths.MANIFEST]
    if tokenized_paths.is_tokenized(path) or path.is_file():
        return [path]
    if "choice" in hf_args and path.is_dir():
        table = open_table(path, hf_args["choice"].by_line)
        return list(table.files)
    if path.is_dir() and "data_files" not in hf_args:
        return [_find_file(path, hf_args)]
    return []


def _find_file(folder: Path, hf_args: dict[str, Any]) -> Path:
    """Find the file of a configuration and a split: <name>.jsonl or <name>/<split>.jsonl."""
    split = hf_args.get("split", "train")
    stem = hf_args.get("name") or split
    for base in (folder / stem, folder / stem / split):
        for suffix in FORMATS:
            for packed in ("", *COMPRESSED):
                file = base.parent / f"{base.name}{suffix}{packed}"
                if file.exists() and get_format(file):
                    return file
    names = set()
    for file in folder.iterdir():
        if get_format(file) or file.is_dir():
            names.add(get_stem(file))
    endings = ", ".join(FORMATS)
    there_are = ", ".join(sorted(names))
    raise AbsentData(
        f"{folder} has no {stem}.jsonl or {stem}/{split}.jsonl (nor {endings}); it has {there_are}"
    )


def _reads_json_as_text(hf_args: dict[str, Any]) -> bool:
    """Whether the `text` builder would read JSON lines, with their braces and quotes."""
    files = hf_args.get("data_files")
    if not files or hf_args.get("path") != "text":
        return False
    if isinstance(files, str):
        files = [files]
    return all(str(file).endswith(".jsonl") for file in files)


def read_column(rows: Sequence[Row], column: str, where: str) -> list[Any]:
    """Read one column of the rows; refuse rows without it, naming the columns that they have."""
    if not rows:
        raise UserError(f"{where}: there are no rows")
    return [get_cell(rows, index, row, column, where) for index, row in enumerate(rows)]


def get_cell(rows: Sequence[Row], row_index: int, row: Row, column: str, where: str) -> Any:
    """Get a cell of one of the rows; refuse a row without it, naming the columns that it has."""
    if column not in row:
        raise UserError(explain_no_column(locate_row(rows, row_index, where), column, row))
    return row[column]
