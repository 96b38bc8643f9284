"""Writes what editors and shells read, from the code: src/unteach/schemas/*.json, and the index of
keys for completion.

python docs/make_editor.py
"""

import sys
from pathlib import Path

from unteach.cli import VERBS
from unteach.editor import index, schemas
from unteach.verbs import listing

PACKAGE = Path(__file__).parents[1] / "src" / "unteach"


def make_files() -> dict[Path, str]:
    """The content of each file."""
    files = {}
    for kind in schemas.BUILDERS:
        files[PACKAGE / "schemas" / f"{kind}.json"] = schemas.dump(schemas.build(kind))
    verbs = {name: (verb.what, verb.options) for name, verb in VERBS.items()}
    names = {kind: [line[0] for line in listing.list_entries(kind)] for kind in listing.KINDS}
    files[PACKAGE / "editor" / "index.json"] = index.build_index(verbs, names)
    return files


if __name__ == "__main__":
    for file, text in make_files().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    sys.exit(0)
