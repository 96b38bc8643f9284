"""Arrow files of others: validated before anything is read from their mapped memory."""

from collections.abc import Iterator
from pathlib import Path

from unteach import json_files
from unteach.errors import UserError, refuse_path, refuse_unreadable
from unteach.lazy import pyarrow


def read_record_batches(mapped: "pyarrow.MemoryMappedFile") -> "Iterator[pyarrow.RecordBatch]":
    """Read the record batches of an Arrow file, in IPC's file form or its stream form.

    Each is validated: a damaged batch points outside its own memory, and reading it would end the
    process, or give bytes of something else.
    """
    batches: Iterator[pyarrow.RecordBatch]
    try:
        opened = pyarrow.ipc.open_file(mapped)
        batches = (opened.get_batch(index) for index in range(opened.num_record_batches))
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        batches = iter(pyarrow.ipc.open_stream(mapped))
    for batch in batches:
        batch.validate(full=True)
        yield batch


def refuse_damaged_set(folder: Path) -> None:
    """Refuse a damaged folder of `datasets.save_to_disk`, which maps what it loads."""
    for split in _list_names(folder / "dataset_dict.json", "splits"):
        refuse_damaged_set(folder / split)
    for name in _list_names(folder / "state.json", "_data_files"):
        file = folder / name
        with (
            refuse_unreadable(str(file), "no whole Arrow file", pyarrow.ArrowException),
            pyarrow.memory_map(str(file)) as mapped,
        ):
            for _ in read_record_batches(mapped):
                pass


def _list_names(file: Path, key: str) -> list[str]:
    """List the names in a file of `datasets`; none of them may lie outside the file's folder."""
    if not file.is_file():
        return []
    saved = json_files.read_json(file, "a saved set of rows")
    entries = saved.get(key) if isinstance(saved, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{file}: lists no {key}; save the set again")
    names = []
    for entry in entries:
        name = str(entry.get("filename") if isinstance(entry, dict) else entry)
        refuse_path(name, file)
        names.append(name)
    return names
