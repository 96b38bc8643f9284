"""Tokens of many rows, kept so that the next run need not make them again.

An entry is a folder of arrays, named after all that the tokens depend on. Entries are whole or not
there, are checked by their digests before they are used, and those that were not used for longest
go where all of them together would take too much.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files
from unteach.data.handlers.built_rows import BuiltRows
from unteach.data.packed_examples import PackedExamples, load_array, save_array
from unteach.data.row_errors import RowErrors
from unteach.data.template import Template
from unteach.data.tokenized.token_files import build_template_facts, hash_tokenizer
from unteach.errors import UserError

logger = logging.getLogger(__name__)

MOST_BYTES = 8 << 30
"""What all entries may take together."""
VERSION = 1
"""Of an entry's form, and of how rows become tokens: what an older one holds is made again."""
DIGESTS, NOTES, HASHES = "digests.json", "notes.json", "hashes.npy"


class TokenCache:
    """Entries in a folder, which need not be there yet."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES):
        self.folder = folder
        self.most_bytes = most_bytes

    def read(self, key: str, row_errors: RowErrors) -> BuiltRows | None:
        """Read an entry; None where there is none, or a damaged one, which goes.

        Args:
            key: its name.
            row_errors: collects what it says of rows.
        """
        entry = self.folder / key
        if not entry.is_dir():
            return None
        try:
            digests = json_files.read_mapping(entry / DIGESTS, "digests of tokens")
            if _hash_entry(entry) != digests:
                raise ValueError("the entry is damaged")
            examples = PackedExamples.load(entry)
            hashes = load_array(entry / HASHES)
            notes = json_files.read_mapping(entry / NOTES, "notes on rows")
            os.utime(entry)
        except (OSError, ValueError, KeyError, UserError):
            shutil.rmtree(entry, ignore_errors=True)
            return None
        row_errors.read_notes(notes)
        return BuiltRows(examples, row_errors, hashes)

    def write(self, key: str, built: BuiltRows) -> None:
        """Write an entry, and delete those that were not used for longest if there is no room.

        What cannot be written is said, and made again next time.
        """
        entry = self.folder / key
        try:
            if not entry.exists():
                with atomic.atomic_write_folder(entry) as temporary:
                    built.examples.save(temporary)
                    atomic.write_json(temporary / NOTES, built.row_errors.list_notes())
                    save_array(temporary / HASHES, built.hashes)
                    atomic.write_json(temporary / DIGESTS, _hash_entry(temporary))
            self._evict(key)
        except OSError as error:
            # Another run may have written the same meanwhile, or taken one away.
            if not entry.exists():
                logger.info(f"the tokens of these rows are not kept in {self.folder}: {error}")

    def _evict(self, newest: str) -> None:
        """Delete the entries that were not used for longest while all take too much together; the
        newest stays, and so does what others are writing."""
        entries = [entry for entry in self.folder.iterdir() if not atomic.is_temporary(entry)]
        entries.sort(key=lambda entry: entry.stat().st_mtime)
        sizes = {entry: _measure(entry) for entry in entries}
        for entry in entries:
            if sum(sizes.values()) <= self.most_bytes:
                return
            if entry.name != newest:
                shutil.rmtree(entry, ignore_errors=True)
                del sizes[entry]


def build_key(
    rows_digest: str, dataset: type, arguments: dict[str, Any], template: Template
) -> str:
    """Build the name of an entry from all that its tokens depend on.

    Args:
        rows_digest: of the rows, in order.
        dataset: the class that reads them.
        arguments: how, its configuration.
        template: the model's, with its tokenizer.
    """
    return fingerprints.hash_value(
        [
            VERSION,
            rows_digest,
            f"{dataset.__module__}.{dataset.__qualname__}",
            arguments,
            build_template_facts(template),
            hash_tokenizer(template.tokenizer),
        ]
    )


def _hash_entry(entry: Path) -> dict[str, str]:
    """Hash the files of an entry but the one that has the digests."""
    digests = {}
    for file in sorted(entry.rglob("*")):
        if file.is_file() and file.name != DIGESTS:
            digests[str(file.relative_to(entry))] = fingerprints.hash_files(file)
    return digests


def _measure(entry: Path) -> int:
    """Measure how many bytes an entry takes."""
    return sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
