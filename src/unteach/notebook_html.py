"""How results show themselves in a notebook: a line that says what they are, and a table.

Colours are left to the notebook, so that a dark theme stays dark.
"""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from unteach.wording import format_count, format_value

MISSING = "–"
MOST_ROWS, MOST_CHARACTERS = 10, 200
"""Rows of a table of answers that are shown, and characters of a cell."""
LEFT = ' style="text-align:left"'


def build_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Build a table of plain texts, the first column on the left."""
    first, *others = map(escape, heads)
    cells = "".join(f"<th>{head}</th>" for head in others)
    lines = [f"<thead><tr><th{LEFT}>{first}</th>{cells}</tr></thead>"]
    for row in rows:
        first, *others = map(escape, row)
        cells = "".join(f"<td>{value}</td>" for value in others)
        lines.append(f"<tr><th{LEFT}>{first}</th>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def build_paragraph(text: str, name: str = "") -> str:
    """Build a paragraph, with a name in bold before it."""
    bold = f"<b>{escape(name)}</b> " if name else ""
    return f"<p>{bold}{escape(text)}</p>"


def format_share(share: float | None) -> str:
    """Format a share in whole percent."""
    return MISSING if share is None else f"{share:.0%}"


def format_number(value: float | None) -> str:
    """Format a value, or say that there is none."""
    return MISSING if value is None else format_value(value)


def build_answers(file: Path) -> str:
    """Build a table of the first rows of a file of answers, long texts cut; no more are held."""
    shown: list[dict[str, object]] = []
    num_rows = 0
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            num_rows += 1
            if len(shown) < MOST_ROWS:
                shown.append(json.loads(line))

    heads: dict[str, None] = {}
    for row in shown:
        heads |= dict.fromkeys(row)
    cells = []
    for row in shown:
        cells.append([_cut(str(row.get(head, MISSING))) for head in heads])
    note = format_count(num_rows, "row")
    if num_rows > len(shown):
        note = f"the first {len(shown)} of {note}"
    return build_paragraph(note) + build_table(list(heads), cells)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
