"""What was forgotten against how: each metric as a table of forget sets and methods, mean and
deviation over seeds."""

from dataclasses import dataclass

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.colours import TINTS
from unteach.report.columns import Column
from unteach.report.families import Family, group_families
from unteach.report.judging import list_headline_columns
from unteach.report.pictures import MOST_LINES, Axis, Picture, Point, Series
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
    # Of each method, in order, its family of each forget set.
    by_method: dict[tuple[str, str], dict[str, Family]] = {}
    for family in group_families(runs):
        if family.data in forget_sets:
            members = by_method.setdefault((family.method, family.kind), {})
            members[family.data] = family

    tables = []
    for column in list_headline_columns(runs):
        rows = []
        for (method, kind), members in by_method.items():
            row = Row(method, kind, [])
            for forget_set in forget_sets:
                member = members.get(forget_set)
                row.cells.append(_build_spread(member, column.metric))
            num_missing = row.cells.count(None)
            if len(row.cells) - num_missing > 1:
                rows.append(row)
        if rows:
            tables.append(CrossTable(column, forget_sets, rows))
    return tables


def _build_spread(family: Family | None, metric: str) -> Spread | None:
    """Take a family's mean and deviation; None where it has no value, or where there is none."""
    if family is None:
        return None
    mean = family.mean(metric)
    if mean is None:
        return None
    return Spread(mean, family.deviation(metric))


def format_markdown(tables: list[CrossTable]) -> str:
    """Write the tables, one below the other, a row a method."""
    parts = []
    for table in tables:
        heads = ["method", *map(escape_markdown, table.forget_sets)]
        parts.append(f"### {escape_markdown(table.column.label)}, by what is forgotten\n")
        parts.append(f"| {' | '.join(heads)} |")
        parts.append("|" + " --- |" * len(heads))
        for row in table.rows:
            texts = [escape_markdown(row.method)]
            for cell in row.cells:
                texts.append(MISSING if cell is None else cell.format(table.column.decimals))
            parts.append(f"| {' | '.join(texts)} |")
        parts.append("")
    return "\n".join(parts)


def build_picture(table: CrossTable) -> Picture:
    """Describe the picture of a table: a line a method, over the forget sets."""
    series = []
    num_coloured = 0
    for row in table.rows[:MOST_LINES]:
        is_reference = row.kind in REFERENCES
        if is_reference:
            colour = row.kind
        else:
            colour = f"line{num_coloured % len(TINTS)}"
            num_coloured += 1
        _, marker = KINDS[row.kind]
        line = Series(
            name=row.method,
            colour=colour,
            points=_build_points(table, row),
            line="dotted" if is_reference else "solid",
            marker=marker,
            hover=row.method,
        )
        series.append(line)
    note = NOTE
    if len(table.rows) > MOST_LINES:
        note += (
            f" The first {MOST_LINES} of {len(table.rows)} methods are drawn; report.md has all."
        )
    label = table.column.label
    if table.column.better:
        label += f" (good: {table.column.better})"
    return Picture(
        choices=(table.column.label,),
        x=Axis("what is forgotten", categories=tuple(table.forget_sets)),
        y=Axis(label),
        series=series,
        note=note,
    )


def _build_points(table: CrossTable, row: Row) -> list[Point]:
    """Describe a method's points, one for each forget set that it was tried on."""
    points = []
    for set_index, cell in enumerate(row.cells):
        if cell is None:
            continue
        text = cell.format(table.column.decimals)
        forget_set = table.forget_sets[set_index]
        point = Point(
            x=set_index,
            y=cell.mean,
            spread=cell.deviation,
            hover=f"{row.method}\n{forget_set}: {text}",
        )
        points.append(point)
    return points
