"""Read again the texts of the rows that a run was trained on, from where its configuration says."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.data.io import sources, tokenized_paths
from unteach.data.synthetic import worlds
from unteach.errors import UserError

MAX_BYTES = 64 * 2**20
"""Bytes of a file that is read for the sake of its first rows."""


def read_texts(run: Path | None, count: int) -> list[str]:
    """Return the texts of a run's first rows; none where they are not on this machine, or are
    tokens already."""
    sections = run_dir.read_config(run).get("data") if run else None
    for hf_args in _find_sources(sections):
        if not _is_at_hand(hf_args):
            continue
        try:
            rows = sources.load_rows(hf_args)
        except UserError:  # it has moved since
            continue
        texts = [" ".join(_find_texts(row)) for row in itertools.islice(rows, count)]
        texts = [text for text in texts if text]
        if texts:
            return texts
    return []


def _find_sources(node: object) -> Iterator[dict[str, Any]]:
    """Find the `hf_args` of every dataset in a configuration's data."""
    if not isinstance(node, dict):
        return
    if isinstance(node.get("hf_args"), dict):
        yield node["hf_args"]
    for inner in node.values():
        yield from _find_sources(inner)


def _is_at_hand(hf_args: dict[str, Any]) -> bool:
    """Say whether rows are on this machine, and few enough to be read in a moment."""
    path = str(hf_args.get("path", ""))
    if worlds.parse_world(path):
        return True
    if not path or tokenized_paths.is_tokenized(path):
        return False
    try:
        files = sources.list_files(hf_args)
    except UserError:
        return False
    num_bytes = sum(file.stat().st_size for file in files if file.exists())
    return bool(files) and num_bytes <= MAX_BYTES


def _find_texts(value: object) -> Iterator[str]:
    """Find every text in a row, however deep: a conversation's turns too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _find_texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _find_texts(inner)
