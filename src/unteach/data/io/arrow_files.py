"""Arrow files of others: validated before anything is read from their mapped memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unteach import json_files
from unteach.errors import UserError, refuse_path, refuse_unreadable
from unteach.lazy import pyarrow


def record_batches(mapped: Any) -> Iterator[Any]:
    """Give the record batches of an open Arrow file, of IPC's file form or its stream form, each
    validated.

    A damaged batch points outside its own memory: reading it would end the process, or give bytes
    of something else.
    """
    try:
        opened = pyarrow.ipc.open_file(mapped)
        batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        batches = iter(pyarrow.ipc.open_stream(mapped))
    for batch in batches:
        batch.validate(full=True)
        yield batch


def refuse_damaged_set(folder: Path) -> None:
    """Raise UserError where a folder of `datasets.save_to_disk`, which maps what it loads, is
    damaged."""
    for name in _names(folder / "dataset_dict.json", "splits"):
        refuse_damaged_set(folder / str(name))
    for told in _names(folder / "state.json", "_data_files"):
        file = folder / str(told.get("filename") if isinstance(told, dict) else told)
        with (
            refuse_unreadable(str(file), "no whole Arrow file", pyarrow.ArrowException),
            pyarrow.memory_map(str(file)) as mapped,
        ):
            for _ in record_batches(mapped):
                pass


def _names(file: Path, key: str) -> list[Any]:
    """Give what a file of `datasets` lists; none of it may lie outside the file's folder."""
    if not file.is_file():
        return []
    told = json_files.read_json(file, "a saved set of rows")
    names = told.get(key) if isinstance(told, dict) else None
    if not isinstance(names, list):
        raise UserError(f"{file}: lists no {key}; save the set again")
    for name in names:
        refuse_path(str(name.get("filename") if isinstance(name, dict) else name), file)
    return names
