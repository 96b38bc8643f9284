"""Open rows of any kind: a file, a folder of files, or a set that `datasets` loads.

One function, `open_table`. Rows come one after the other, never all at once, each with the place
where it stands, so that a message can name the file and the line.
"""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach.config.files import get_format, get_stem, name_and_split
from unteach.data.io.cells import explain_no_column, holds_words
from unteach.data.io.file_formats import FORMATS, read_file
from unteach.data.io.hub_datasets import is_saved_by_datasets, load_hub_dataset
from unteach.data.rows import Place, PlacedRow
from unteach.errors import UserError, find_nearest

SPLITS = {"train", "validation", "valid", "val", "dev", "test"}
"""What files are called that hold one split of several."""


@dataclass(frozen=True)
class Table:
    """Rows that can be read again and again; iterating gives (place, row).

    Args:
        where: what messages call it.
        columns: those of the first rows (20; of JSON, whose rows may each have other keys, 1000),
            or of all.
        worded: the columns that hold words in those rows.
        files: the files it is read from; none for a hub set.
        read: starts reading from the first row.
    """

    where: str
    columns: tuple[str, ...]
    worded: tuple[str, ...]
    files: tuple[Path, ...]
    read: Callable[[], Generator[PlacedRow]]

    def __iter__(self) -> Generator[PlacedRow]:
        return self.read()

    def require_column(self, column: str) -> str:
        """Give `column` back if there is one of that name; otherwise raise with the nearest."""
        if column not in self.columns:
            raise UserError(explain_no_column(self.where, column, self.columns))
        return column


def open_table(
    source: str | Path | dict[str, Any],
    by_line: bool = False,
    whole: bool = False,
) -> Table:
    """Open the rows of a file, of a folder's files by name, or of a set that `datasets` loads.

    Args:
        source: a path, a hub id (its split `train`) or a hub id or folder with a split
            (`owner/name:test`, `owner/name:train[:100]`), or load_dataset's own arguments (path,
            name, split, data_files…). What exists as a path is never taken for a hub id.
        by_line: a text file is one row a line, where otherwise it is one row; the column is
            `text` either way.
        whole: its columns are those of all rows, which are read for it, and not of the first ones.

    Raises:
        UserError: names the file and the line of what is no such file, is empty or cannot be read.
    """
    if isinstance(source, dict):
        if not isinstance(source.get("path"), str):
            raise UserError(
                f"{source}: rows are named by `path`, a folder, a hub id or a format, and this "
                f"names none"
            )
        if set(source) != {"path"}:
            return _open_hub_dataset(source)
        source = str(source["path"])
    if not str(source).strip():
        raise UserError("no file is named: an empty path would be the current folder")

    path = Path(source).expanduser()
    if is_saved_by_datasets(path):
        return _open_hub_dataset({"path": str(path)})
    if not path.exists():
        return _open_hub_dataset(_parse_hub_source(str(source), path))
    files = _list_files(path) if path.is_dir() else [path]

    def read() -> Generator[PlacedRow]:
        for file in files:
            yield from read_file(file, by_line)

    return _build_table(str(source), tuple(files), read, whole)


def _parse_hub_source(source: str, path: Path) -> dict[str, Any]:
    """Read what is no path as a hub id or a saved folder, each perhaps with a split.

    Returns:
        The arguments of `datasets.load_dataset`.
    """
    name, split = name_and_split(source)
    folder = Path(name).expanduser()
    if split and folder.is_dir():
        return {"path": str(folder), "split": split}
    if _is_hub_id(name):
        return {"path": name, "split": split or "train"}
    raise UserError(_explain_no_file(path))


def _is_hub_id(source: str) -> bool:
    """Whether this is `name` or `owner/name`, and no file's name."""
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        return False
    return not get_format(source)


def _explain_no_file(path: Path) -> str:
    """Say that a file is not there, and which one may be meant."""
    if not path.parent.is_dir():
        return f"{path}: there is no such file, and no folder {path.parent}"
    names = [file.name for file in path.parent.iterdir()]
    guess = find_nearest(path.name, names)
    hint = f"; did you mean {path.with_name(guess)}?" if guess else ""
    return f"{path}: there is no such file{hint}"


def _list_files(folder: Path) -> list[Path]:
    """List the files of a folder that can be read, in the order of their names.

    Raises:
        UserError: there are none, or they are of several formats or of several splits.
    """
    files = []
    for file in sorted(folder.iterdir()):
        if get_format(file) and not file.name.startswith("."):
            files.append(file)
    if not files:
        endings = ", ".join(FORMATS)
        raise UserError(f"{folder}: no {endings} file is in this folder")

    formats = {get_format(file) for file in files}
    if len(formats) > 1:
        several = " and ".join(sorted(formats))
        raise UserError(
            f"{folder}: holds {several} files; name one file, or a folder of one format"
        )
    splits = [file.name for file in files if get_stem(file).lower() in SPLITS]
    if splits and len(files) > 1:
        names = ", ".join(splits)
        raise UserError(f"{folder}: holds the files of several splits ({names}); name one file")
    return files


def _build_table(
    where: str,
    files: tuple[Path, ...],
    read: Callable[[], Generator[PlacedRow]],
    whole: bool = False,
) -> Table:
    """Build a table from its first rows, or from all.

    Args:
        where: what messages call it.
        files: the files it is read from.
        read: starts reading from the first row.
        whole: whether its columns are those of all rows.

    Raises:
        UserError: it has no rows.
    """
    formats = {get_format(file) for file in files}
    is_json = bool(formats & {".json", ".jsonl"})
    is_text = ".txt" in formats  # a row may be a whole document
    max_rows_read = 1000 if is_json else 20

    has_words: dict[str, bool] = {}
    num_rows = 0
    with contextlib.closing(read()) as placed_rows:
        for _, row in placed_rows:
            num_rows += 1
            for column, cell in row.items():
                name = str(column)
                had_words = has_words.get(name, False)
                has_words[name] = had_words or holds_words(cell)
            # Only rows of JSON may have columns that earlier ones have not.
            is_known = not is_json and all(has_words.values())
            is_enough = num_rows >= max_rows_read and not whole
            if is_known or is_text or is_enough:
                break
    if not num_rows:
        raise UserError(f"{where}: there are no rows in it")
    worded = [name for name, is_worded in has_words.items() if is_worded]
    return Table(where, tuple(has_words), tuple(worded), files, read)


def _open_hub_dataset(hf_args: dict[str, Any]) -> Table:
    """Open a set that `datasets` loads by these arguments."""
    loaded = load_hub_dataset(hf_args)
    names = [hf_args.get(key) for key in ("path", "name", "split")]
    where = "/".join(str(name) for name in names if name)
    files: tuple[Path, ...] = ()
    if Path(hf_args["path"]).is_dir():
        files = tuple(Path(file["filename"]) for file in loaded.cache_files)

    def read() -> Generator[PlacedRow]:
        for number, row in enumerate(loaded, 1):
            yield Place(where, "row", number), row

    return _build_table(where, files, read)
