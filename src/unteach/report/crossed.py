"""What was forgotten against how: each metric as a table of forget sets and methods, mean and
deviation over seeds."""

from dataclasses import dataclass
from typing import Any

from unteach.report.collect import RunResult
from unteach.report.columns import Column
from unteach.report.families import Family, families
from unteach.report.judging import known_columns
from unteach.report.sets import comparable, forgotten
from unteach.report.table import MISSING, plain
from unteach.wording import format_value

Spread = tuple[float, float | None]
"""(mean, sample standard deviation over seeds)."""


@dataclass(frozen=True)
class Crossed:
    """One metric. data: the forget sets, in the runs' order; rows: (method, kind, a Spread or None
    for each set)."""

    column: Column
    data: list[str]
    rows: list[tuple[str, str, list[Spread | None]]]


def crossed(runs: list[RunResult]) -> list[Crossed]:
    """A table for each column of the leaderboard; none where nothing, or only one thing, was
    forgotten."""
    if comparable(runs):
        return []
    judged, found = forgotten(runs), families(runs)
    methods = list(
        dict.fromkeys((family.method, family.kind) for family in found if family.data in judged)
    )
    cells = {(family.method, family.kind, family.data): family for family in found}
    tables = []
    for column in known_columns(runs):
        rows = [
            (
                method,
                kind,
                [_spread(cells.get((method, kind, data)), column.metric) for data in judged],
            )
            for method, kind in methods
        ]
        rows = [row for row in rows if sum(cell is not None for cell in row[2]) > 1]
        if rows:
            tables.append(Crossed(column, judged, rows))
    return tables


def _spread(family: Family | None, metric: str) -> Spread | None:
    centre = family.mean(metric) if family else None
    return None if family is None or centre is None else (centre, family.deviation(metric))


def markdown(tables: list[Crossed]) -> str:
    """The tables, one below the other, a row a method."""
    parts = []
    for table in tables:
        heads = ["method", *map(plain, table.data)]
        parts.append(f"### {plain(table.column.label)}, by what is forgotten\n")
        parts.append(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
        for method, _, cells in table.rows:
            parts.append(
                f"| {' | '.join([plain(method), *(said(cell, table.column) for cell in cells)])} |"
            )
        parts.append("")
    return "\n".join(parts)


def said(cell: Spread | None, column: Column) -> str:
    """`0.512 ± 0.010`; without the deviation where there is one run."""
    if cell is None:
        return MISSING
    centre = format_value(cell[0], column.decimals)
    return centre if cell[1] is None else f"{centre} ± {format_value(cell[1], column.decimals)}"


def as_data(tables: list[Crossed]) -> list[dict[str, Any]]:
    """The tables as the page's script reads them."""
    return [
        {
            "label": table.column.label,
            "better": table.column.better,
            "data": table.data,
            "rows": [
                {
                    "name": method,
                    "kind": kind,
                    "mean": [c and c[0] for c in cells],
                    "spread": [c and c[1] for c in cells],
                }
                for method, kind, cells in table.rows
            ],
        }
        for table in tables
    ]
