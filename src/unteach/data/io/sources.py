"""Where rows come from: the built-in authors world, a local folder, or anything that `datasets`
loads."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach.config.reader import Reader, join_problems
from unteach.config.schema import ForgetSet
from unteach.data.entities import part_of
from unteach.data.io import hub_datasets, tables, tokenized_paths
from unteach.data.io.tables import Placed, Row
from unteach.data.synthetic import authors
from unteach.errors import AbsentData, UserError


class Rows(list[Row]):
    """Rows that remember where each of them stands."""

    def __init__(self, placed: Iterable[Placed]):
        super().__init__()
        self.places = []
        for place, row in placed:
            self.append(row)
            self.places.append(place)


def place(rows: list[Row], number: int, where: str) -> str:
    """Where a row of a list stands: its file and line, or its number from 1."""
    return str(rows.places[number]) if isinstance(rows, Rows) else f"{where}: row {number + 1}"


def load_rows(hf_args: dict[str, Any]) -> list[Row]:
    """The rows that `hf_args` (load_dataset's names: path, name, split, data_files, revision…)
    stand for.

    path: `authors` or `authors:SEED` is the built-in world, `authors-grown:SEED` one of more
    questions; in a folder, <name> or <name>/<split> is a file that `tables` reads (.jsonl, .csv,
    .parquet, .txt…), or path is such a file itself; everything else goes to
    `datasets.load_dataset`. part, forget_set: only the rows that this forget set takes (`forget`)
    or leaves (`retain`). choice: a Choice, which rows a stream takes. rows: these rows, which are
    at hand.

    Raises AbsentData if the place exists and the configuration or split does not, UserError if the
    place does not.
    """
    from_where = {key: value for key, value in hf_args.items() if key not in ("part", "forget_set")}
    if "part" not in hf_args:
        return _all_rows(from_where)
    if hf_args.get("forget_set") is None:
        raise UserError(
            f"{named(hf_args)}: set forget_set, which says what goes: forget_set.by=author "
            f"forget_set.fraction=0.1"
        )
    reader = Reader()
    chosen = reader.record(ForgetSet, hf_args["forget_set"], "forget_set")
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    rows = _all_rows(from_where)
    numbers = part_of(rows, hf_args["part"], chosen, named(hf_args))
    if isinstance(rows, Rows):
        return Rows((rows.places[number], rows[number]) for number in numbers)
    return [rows[number] for number in numbers]


def _all_rows(hf_args: dict[str, Any]) -> list[Row]:
    if "rows" in hf_args:
        return hf_args["rows"]  # type: ignore[no-any-return]
    if choice := hf_args.get("choice"):
        table = tables.open_table(
            {k: v for k, v in hf_args.items() if k != "choice"}, choice.by_line
        )
        return Rows(choice.of(table, table.where))
    path, name = str(hf_args.get("path", "")), hf_args.get("name")
    if world := authors.world_of(path):
        return authors.rows_of(world, str(name))
    if Path(path).is_file():
        return Rows(tables.open_table(path))
    if Path(path).is_dir() and "data_files" not in hf_args:
        return Rows(tables.open_table(_file_in(Path(path), name, hf_args.get("split", "train"))))
    if "/" in path and path.startswith((".", "/", "~")):
        raise UserError(
            f"{path}: there is no such folder; name one of <config name>.jsonl, .csv, .parquet… "
            f"files"
        )
    return list(
        hub_datasets.load_set({**hf_args, "path": "json"} if _json_as_text(hf_args) else hf_args)
    )


def named(hf_args: dict[str, Any]) -> str:
    """What messages call these rows."""
    place = "/".join(str(hf_args[key]) for key in ("path", "name", "split") if hf_args.get(key))
    if "part" not in hf_args:
        return place
    told = [
        f" {name} {value}"
        for name, value in (hf_args.get("forget_set") or {}).items()
        if value is not None
    ]
    return f"{place} ({hf_args['part']}{',' if told else ''}{','.join(told)})"


def note(hf_args: dict[str, Any]) -> str | None:
    """What must be said of a source before its rows are used, if anything."""
    if _json_as_text(hf_args):
        return (
            f"{hf_args['data_files']}: JSON lines, read as rows with columns, although "
            f"hf_args.path is text"
        )
    world = authors.world_of(str(hf_args.get("path", "")))
    return authors.note(str(hf_args.get("name")), world) if world else None


def files_of(hf_args: dict[str, Any]) -> list[Path]:
    """The local files that these rows are read from."""
    path = Path(str(hf_args.get("path", "")))
    if tokenized_paths.is_tokenized(path):
        return [path / tokenized_paths.MANIFEST] if path.is_dir() else [path]
    if path.is_file():
        return [path]
    if "choice" in hf_args and path.is_dir():
        return list(tables.open_table(str(path), hf_args["choice"].by_line).files)
    if path.is_dir() and "data_files" not in hf_args:
        return [_file_in(path, hf_args.get("name"), hf_args.get("split", "train"))]
    return []


def _file_in(folder: Path, name: str | None, split: str) -> Path:
    stem = name or split
    for place in (folder / stem, folder / stem / split):
        for suffix in tables.FORMATS:
            if (file := place.parent / f"{place.name}{suffix}").exists():
                return file
    there = sorted({f.stem for f in folder.iterdir() if f.suffix in tables.FORMATS or f.is_dir()})
    looked = f"{stem}.jsonl or {stem}/{split}.jsonl (nor {', '.join(tables.FORMATS)})"
    raise AbsentData(f"{folder} has no {looked}; it has {', '.join(there)}")


def _json_as_text(hf_args: dict[str, Any]) -> bool:
    """Whether these are JSON lines that the `text` builder would give with their braces and
    quotes."""
    files = hf_args.get("data_files") or []
    files = [files] if isinstance(files, str) else files
    return (
        hf_args.get("path") == "text"
        and bool(files)
        and all(str(file).endswith(".jsonl") for file in files)
    )


def column(rows: list[Row], key: str, where: str) -> list[Any]:
    """One column of the rows, or an error that names the columns that there are."""
    if not rows:
        raise UserError(f"{where}: there are no rows")
    for number, row in enumerate(rows):
        if key not in row:
            raise UserError(tables.no_column(place(rows, number, where), key, row))
    return [row[key] for row in rows]
