"""What the answers of a file depend on, kept beside it, and what became of its rows since."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files
from unteach.data.packed_list import PackedList
from unteach.errors import UserError
from unteach.inference.answer_lines import Line, RowID
from unteach.wording import format_count

NUM_SHOWN = 5
"""Ids of rows that a message lists."""


@dataclass
class Meta:
    """What the answers of a file depend on.

    Attributes:
        ids: of the rows; None where they are numbered from 0.
        digests: of the rows, with spaces between them.
    """

    settings: dict[str, Any]
    ids: Sequence[RowID] | None
    digests: str

    @classmethod
    def build(cls, settings: dict[str, Any], lines: Sequence[Line]) -> "Meta":
        ids: PackedList[RowID] | None = None
        digests = bytearray()
        for number, line in enumerate(lines):
            if ids is None and line.id != number:
                ids = PackedList(range(number))
            if ids is not None:
                ids.append(line.id)
            digests += f"{line.digest} ".encode()
        return cls(settings, ids, digests[:-1].decode())

    def write(self, path: Path) -> None:
        rows = {
            "ids": None if self.ids is None else list(self.ids),
            "digests": self.digests,
        }
        made_by = fingerprints.build_manifest(int(self.settings.get("seed", 0)))
        atomic.write_json(
            path,
            {
                "settings": self.settings,
                "rows": rows,
                "made_by": made_by,
            },
        )

    @classmethod
    def read(cls, path: Path) -> "Meta":
        content = json_files.read_json(path, "what the output was made with")
        try:
            digests = content["rows"]["digests"]
            ids = content["rows"]["ids"]
            if ids is not None and len(ids) != len(digests.split()):
                raise ValueError("other ids than digests")
            return cls(content["settings"], ids, digests)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError(
                f"{path}: not what `unteach infer` wrote; resume=never moves it and its output "
                f"aside"
            ) from None

    def map_digests(self) -> dict[RowID, str]:
        """Return the digest of each row by its id."""
        digests = self.digests.split()
        return dict(zip(self.ids or range(len(digests)), digests, strict=True))


def describe_changes(before: dict[RowID, str], after: dict[RowID, str]) -> list[str]:
    """Say in sentences what became of the rows.

    Args:
        before, after: the digest of each row by its id.
    """
    changed = []
    for id_, digest in after.items():
        if before.get(id_, digest) != digest:
            changed.append(id_)
    new = [id_ for id_ in after if id_ not in before]
    gone = [id_ for id_ in before if id_ not in after]
    sentences = []
    if changed:
        sentences.append(f"{format_count(len(changed), 'row')} changed ({_list_few(changed)})")
    for what, ids in (("new", new), ("gone", gone)):
        if ids:
            be = "is" if len(ids) == 1 else "are"
            sentences.append(f"{format_count(len(ids), 'row')} {be} {what} ({_list_few(ids)})")
    if not sentences and list(before) != list(after):
        sentences.append("the rows are in another order")
    return sentences


def _list_few(ids: list[RowID]) -> str:
    text = ", ".join(map(str, ids[:NUM_SHOWN]))
    num_more = len(ids) - NUM_SHOWN
    return f"{text} and {num_more} more" if num_more > 0 else text
