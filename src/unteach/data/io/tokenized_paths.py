"""Which paths hold tokens already, so that whoever reads rows asks nothing else of them."""

from pathlib import Path
from typing import Any

from unteach.data.io.arrow_files import record_batches
from unteach.lazy import pyarrow

MANIFEST = "unteach_tokens.json"
"""The file that makes a folder one of `unteach tokenize`."""


def is_tokenized(path: Any) -> bool:
    """Say whether this is a folder with a manifest of tokens, or a file of training-code's."""
    if not isinstance(path, str | Path):
        return False
    place = Path(path)
    return (place / MANIFEST).is_file() or (
        place.suffix == ".arrow" and place.is_file() and _is_theirs(place)
    )


def _is_theirs(file: Path) -> bool:
    try:
        with pyarrow.memory_map(str(file)) as mapped:
            first = next(iter(record_batches(mapped)), None)
            return first is not None and "input_ids" in first.schema.names
    except (pyarrow.ArrowException, OSError, ValueError, SystemError):
        # which reading it as rows will say
        return False
