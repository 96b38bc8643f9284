"""Texts of the rows that a run was trained on, read again from where its configuration says they
are."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.data.io import sources, tokenized_paths
from unteach.data.synthetic import authors
from unteach.errors import UserError

LARGEST = 64 * 2**20
"""Bytes of a file that is read for the sake of its first rows."""


def read_texts(run: Path | None, count: int) -> list[str]:
    """Return the texts of a run's first rows; none where they are not on this machine, or are
    tokens already."""
    sections = run_dir.read_config(run).get("data") if run else None
    for hf_args in _sources(sections):
        if not _is_at_hand(hf_args):
            continue
        try:
            rows = sources.load_rows(hf_args)
        except UserError:  # it has moved since
            continue
        texts = [" ".join(_texts_of(row)) for row in itertools.islice(rows, count)]
        if any(texts):
            return [text for text in texts if text]
    return []


def _sources(node: Any) -> Iterator[dict[str, Any]]:
    """The `hf_args` of every dataset in a configuration's data."""
    if not isinstance(node, dict):
        return
    if isinstance(node.get("hf_args"), dict):
        yield node["hf_args"]
    for inner in node.values():
        yield from _sources(inner)


def _is_at_hand(hf_args: dict[str, Any]) -> bool:
    path = str(hf_args.get("path", ""))
    if authors.parse_world(path):
        return True
    if not path or tokenized_paths.is_tokenized(path):
        return False
    try:
        files = sources.list_files(hf_args)
    except UserError:
        return False
    return bool(files) and sum(file.stat().st_size for file in files if file.exists()) <= LARGEST


def _texts_of(value: object) -> Iterator[str]:
    """Every text in a row, however deep: a conversation's turns too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_of(inner)
