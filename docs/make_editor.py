"""Writes what editors and shells read, from the code: src/unteach/schemas/*.json, and the index of
keys for completion.

python docs/make_editor.py [FOLDER]
"""

import sys
from pathlib import Path

from unteach.cli import VERBS
from unteach.editor import index, schemas
from unteach.verbs import listing

PACKAGE = Path(__file__).parents[1] / "src" / "unteach"


def write_files(home: Path) -> None:
    """Write each file below a folder."""
    (home / "schemas").mkdir(exist_ok=True)
    (home / "editor").mkdir(exist_ok=True)
    for kind in schemas.BUILDERS:
        text = schemas.dump(schemas.build(kind))
        (home / "schemas" / f"{kind}.json").write_text(text, encoding="utf-8")
    verbs = {name: (verb.what, verb.options) for name, verb in VERBS.items()}
    names = {kind: [line[0] for line in listing.list_entries(kind)] for kind in listing.KINDS}
    text = index.build_index(verbs, names)
    (home / "editor" / "index.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
