"""What was forgotten against how: each metric as a table of forget sets and methods, mean and
deviation over seeds."""

from dataclasses import dataclass

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.colours import TINTS
from unteach.report.columns import Column
from unteach.report.families import Family, group_families
from unteach.report.judging import list_headline_columns
from unteach.report.pictures import Axis, Picture, Point, Series
from unteach.report.sets import are_comparable, list_forget_sets
from unteach.report.table import MISSING, escape_markdown
from unteach.report.tradeoff import KINDS
from unteach.wording import format_value

NOTE = "Each point is the mean over seeds, each bar one sample standard deviation to either side."


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, and the sample standard deviation; None of one seed."""

    mean: float
    deviation: float | None

    def format(self, decimals: int) -> str:
        """Write `0.512 ± 0.010`; without the deviation where there is one run."""
        mean = format_value(self.mean, decimals)
        if self.deviation is None:
            return mean
        return f"{mean} ± {format_value(self.deviation, decimals)}"


@dataclass(frozen=True)
class Row:
    """One method; a cell for each forget set, None where it was not tried."""

    method: str
    kind: str
    cells: list[Spread | None]


@dataclass(frozen=True)
class CrossTable:
    """One metric."""

    column: Column
    forget_sets: list[str]
    rows: list[Row]


def build_cross_tables(runs: list[RunResult]) -> list[CrossTable]:
    """Build a table for each column of the leaderboard; none where nothing, or only one thing, was
    forgotten."""
    if are_comparable(runs):
        return []
    forget_sets = list_forget_sets(runs)
    families = group_families(runs)
    by_cell = {(family.method, family.kind, family.data): family for family in families}
    judged = [family for family in families if family.data in forget_sets]
    methods = dict.fromkeys((family.method, family.kind) for family in judged)
    tables = []
    for column in list_headline_columns(runs):
        rows = []
        for method, kind in methods:
            members = [by_cell.get((method, kind, forget_set)) for forget_set in forget_sets]
            cells = [_build_spread(family, column.metric) for family in members]
            if sum(cell is not None for cell in cells) > 1:
                rows.append(Row(method, kind, cells))
        if rows:
            tables.append(CrossTable(column, forget_sets, rows))
    return tables


def _build_spread(family: Family | None, metric: str) -> Spread | None:
    mean = family.mean(metric) if family else None
    if family is None or mean is None:
        return None
    return Spread(mean, family.deviation(metric))


def format_markdown(tables: list[CrossTable]) -> str:
    """Write the tables, one below the other, a row a method."""
    parts = []
    for table in tables:
        heads = ["method", *map(escape_markdown, table.forget_sets)]
        parts.append(f"### {escape_markdown(table.column.label)}, by what is forgotten\n")
        parts.append(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
        for row in table.rows:
            cells = [
                MISSING if cell is None else cell.format(table.column.decimals)
                for cell in row.cells
            ]
            parts.append(f"| {' | '.join([escape_markdown(row.method), *cells])} |")
        parts.append("")
    return "\n".join(parts)


def build_picture(table: CrossTable) -> Picture:
    """Describe the picture of a table: a line a method, over the forget sets."""
    series = []
    num_coloured = 0
    for row in table.rows:
        is_reference = row.kind in REFERENCES
        colour = row.kind if is_reference else f"line{num_coloured % len(TINTS)}"
        num_coloured += not is_reference
        points = []
        for set_index, cell in enumerate(row.cells):
            if cell is not None:
                told = cell.format(table.column.decimals)
                hover = f"{row.method}\n{table.forget_sets[set_index]}: {told}"
                points.append(Point(set_index, cell.mean, cell.deviation, hover))
        series.append(
            Series(
                name=row.method,
                colour=colour,
                points=points,
                line="dotted" if is_reference else "solid",
                marker=KINDS[row.kind][1],
                hover=row.method,
            )
        )
    better = f" (good: {table.column.better})" if table.column.better else ""
    return Picture(
        choices=(table.column.label,),
        x=Axis("what is forgotten", categories=tuple(table.forget_sets)),
        y=Axis(f"{table.column.label}{better}"),
        series=series,
        note=NOTE,
    )
