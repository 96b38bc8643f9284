"""Which paths hold tokens already, so that whoever reads rows asks nothing else of them."""

from pathlib import Path

from unteach.data.io.arrow_files import read_record_batches
from unteach.lazy import pyarrow

MANIFEST = "unteach_tokens.json"
"""The file that makes a folder one of `unteach tokenize`."""


def is_tokenized(path: object) -> bool:
    """Whether this is a folder with a manifest of tokens, or a token file of training-code."""
    if not isinstance(path, str | Path):
        return False
    path = Path(path)
    if (path / MANIFEST).is_file():
        return True
    return path.suffix == ".arrow" and path.is_file() and _has_input_ids(path)


def _has_input_ids(file: Path) -> bool:
    """Whether the first record batch of an Arrow file has tokens in it."""
    try:
        with pyarrow.memory_map(str(file)) as mapped:
            first = next(iter(read_record_batches(mapped)), None)
            return first is not None and "input_ids" in first.schema.names
    except (pyarrow.ArrowException, OSError, ValueError, SystemError):
        # Reading it as rows will say what is wrong with it.
        return False
