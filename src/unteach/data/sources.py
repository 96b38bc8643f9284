"""Where rows come from: the built-in authors world, a local folder, or anything that `datasets` loads."""

import json
import re
from pathlib import Path
from typing import Any

from unteach.data import authors
from unteach.errors import AbsentData, UserError

Row = dict[str, Any]


def load_rows(hf_args: dict[str, Any]) -> list[Row]:
    """The rows that `hf_args` (load_dataset's names: path, name, split, data_files, revision…) stand for.

    path: `authors` or `authors:SEED` is the built-in world; in a folder, <name> or <name>/<split> is a .jsonl, .parquet
    or .txt file; everything else goes to `datasets.load_dataset`.

    Raises AbsentData if the place exists and the configuration or split does not, UserError if the place does not.
    """
    path, name = str(hf_args.get("path", "")), hf_args.get("name")
    if world := re.fullmatch(r"authors(?::(\d+))?", path):
        if name not in authors.NAMES:
            raise AbsentData(f"the authors world has no {name!r}; it has {', '.join(authors.NAMES)}")
        return [dict(row) for row in authors.rows(name, seed=int(world[1] or 0))]
    if Path(path).is_dir() and "data_files" not in hf_args:
        return _from_folder(Path(path), name, hf_args.get("split", "train"))
    if "/" in path and path.startswith((".", "/", "~")):
        raise UserError(f"{path}: there is no such folder; name one of <config name>.jsonl, .parquet or .txt files")
    return _from_library(hf_args)


def named(hf_args: dict[str, Any]) -> str:
    """What messages call these rows."""
    return "/".join(str(hf_args[key]) for key in ("path", "name", "split") if hf_args.get(key))


def note(hf_args: dict[str, Any]) -> str | None:
    """What must be said of a source before its rows are used, if anything."""
    if _json_as_text(hf_args):
        return f"{hf_args['data_files']}: JSON lines, read as rows with columns, although hf_args.path is text"
    world = re.fullmatch(r"authors(?::(\d+))?", str(hf_args.get("path", "")))
    return authors.note(str(hf_args.get("name")), seed=int(world[1] or 0)) if world else None


def _from_folder(folder: Path, name: str | None, split: str) -> list[Row]:
    stem = name or split
    for place in (folder / stem, folder / stem / split):
        for suffix, read in READERS.items():
            if (file := place.parent / f"{place.name}{suffix}").exists():
                return read(file)
    there = sorted({f.stem for f in folder.iterdir() if f.suffix in READERS or f.is_dir()})
    looked = f"{stem}.jsonl or {stem}/{split}.jsonl (nor .parquet, .txt)"
    raise AbsentData(f"{folder} has no {looked}; it has {', '.join(there)}")


def read_jsonl(file: Path) -> list[Row]:
    """The rows of a JSON-lines file; a line that is no JSON object is named."""
    rows = []
    with file.open(encoding="utf-8") as lines:  # not splitlines(), which also splits at U+2028 inside a text
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{file}, line {number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{file}, line {number}: a row must be a JSON object, got {line[:60]!r}")
            rows.append(row)
    return rows


def read_parquet(file: Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file).to_pylist()


def read_document(file: Path) -> list[Row]:
    """A text file is one document."""
    return [{"text": file.read_text(encoding="utf-8")}]


READERS = {".jsonl": read_jsonl, ".parquet": read_parquet, ".txt": read_document}


def _json_as_text(hf_args: dict[str, Any]) -> bool:
    """Whether these are JSON lines that the `text` builder would give with their braces and quotes."""
    files = hf_args.get("data_files") or []
    files = [files] if isinstance(files, str) else files
    return hf_args.get("path") == "text" and bool(files) and all(str(file).endswith(".jsonl") for file in files)


def _from_library(hf_args: dict[str, Any]) -> list[Row]:
    import datasets

    if _json_as_text(hf_args):
        hf_args = {**hf_args, "path": "json"}
    try:
        loaded = datasets.load_dataset(**hf_args)
    except ValueError as error:
        if "BuilderConfig" in str(error) or "Unknown split" in str(error):
            raise AbsentData(f"{hf_args['path']}: {str(error).splitlines()[0]}") from None
        raise UserError(f"{hf_args['path']}: {error}") from None
    except (FileNotFoundError, ConnectionError, OSError, TypeError) as error:
        raise UserError(
            f"cannot load the rows {hf_args}: {str(error).splitlines()[0]}\n"
            "  Without the network, point to local files: tofu_path, muse_path or wmdp_path=FOLDER of <config "
            "name>.jsonl or <config name>/<split>.jsonl, or tofu_path=authors"
        ) from None
    if isinstance(loaded, dict):
        raise UserError(f"{hf_args['path']} has several splits ({', '.join(loaded)}): set hf_args.split")
    return list(loaded)


def column(rows: list[Row], key: str, where: str) -> list[Any]:
    """One column of the rows, or an error that names the columns that there are."""
    if not rows:
        raise UserError(f"{where}: there are no rows")
    for number, row in enumerate(rows):
        if key not in row:
            raise UserError(f"{where}: row {number} has no column {key!r}; its columns: {', '.join(row)}")
    return [row[key] for row in rows]
