"""The headline numbers of several runs, one row a run: as data, for the terminal, and as
markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.table import Table as RichTable
from rich.text import Text

from unteach.console import neutralize
from unteach.report.collect import RunResult
from unteach.report.columns import Column
from unteach.report.judging import (
    UTILITY_GONE,
    UTILITY_GONE_MEANS,
    find_best,
    find_gone,
    list_headline_columns,
)
from unteach.wording import format_value

if TYPE_CHECKING:
    from rich.console import Console

MISSING = "–"
NARROWEST_NAME = 10
MOST_PRINTED = 200
"""Rows of a table on a terminal."""
MARKDOWN_SIGN = re.compile(r"[\\`*\[\]<>|]")


@dataclass(frozen=True)
class Cell:
    """One number as it is shown, with what it stands on.

    Attributes:
        text: an en dash where the run has no such value.
        best: whether no other unlearned model of the table is better in this column.
    """

    text: str
    value: float | None = None
    interval: str = ""
    size: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One run, a cell for each column; `is_gone` where its model has lost what it was to keep."""

    run: RunResult
    cells: list[Cell]
    is_gone: bool


@dataclass(frozen=True)
class Table:
    """The columns (the run's name and kind stand before them) and a row for each run."""

    columns: list[Column]
    rows: list[Row]

    @property
    def has_gone(self) -> bool:
        return any(row.is_gone for row in self.rows)

    @property
    def has_best(self) -> bool:
        return any(cell.best for row in self.rows for cell in row.cells)


def make_table(runs: list[RunResult]) -> Table:
    """Turn runs into rows. A value that is missing is a dash, never 0."""
    columns = list_headline_columns(runs)
    gone = find_gone(runs)
    rows = [Row(run, [], run_index in gone) for run_index, run in enumerate(runs)]
    for column in columns:
        best_runs = find_best(runs, column, gone)
        for run_index, row in enumerate(rows):
            cell = make_cell(row.run, column)
            row.cells.append(replace(cell, best=run_index in best_runs))
    return Table(columns, rows)


def make_cell(run: RunResult, column: Column) -> Cell:
    """Write a run's value of one column as it is shown."""
    value = run.value(column.metric)
    if value is None:
        return Cell(MISSING)
    interval = ""
    bounds = run.interval(column.metric)
    if bounds:
        low, high = (format_value(bound, column.decimals) for bound in bounds)
        interval = f"{low} to {high}"
    return Cell(
        text=format_value(value, column.decimals),
        value=value,
        interval=interval,
        size=run.size(column.metric),
    )


def print_table(runs: list[RunResult], console: Console | None = None) -> None:
    """Print the table to the terminal, the retain model (the gold standard) in yellow.

    A number cut short is a wrong number: only names are folded, and where even that is not enough,
    lines run over the terminal's edge.
    """
    console = console or RichConsole()
    table, num_left_out = choose_printed(make_table(runs))
    widths = _find_widths(table)
    longest = max((len(row.run.name) for row in table.rows), default=0)
    if table.has_gone:
        longest = max(longest, len(UTILITY_GONE))
    # Two spaces between columns where there is room, one where there is not.
    num_columns = len(widths)
    gap = 2
    if longest + sum(widths) + gap * num_columns > console.width:
        gap = 1
    columns_width = sum(widths) + gap * num_columns
    room = console.width - columns_width
    name_width = max(NARROWEST_NAME, min(longest, room))

    printed = RichTable(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
        header_style="bold",
        border_style="dim",
        width=name_width + columns_width,
    )
    # Text, not str: a name is no markup, though it may look like some.
    printed.add_column(
        "run",
        overflow="fold",
        width=name_width,
        vertical="bottom",
    )
    for column, width in zip(table.columns, widths, strict=True):
        head = _build_head(column)
        printed.add_column(head, justify="right", width=width, no_wrap=True, vertical="bottom")
    for row in table.rows:
        name = Text(neutralize(row.run.name))
        if row.is_gone:
            name.append(f"\n{UTILITY_GONE}", "dim")
        cells = [Text(cell.text, style=_choose_style(cell)) for cell in row.cells]
        style = "yellow" if row.run.kind == "retain" else None
        printed.add_row(name, *cells, style=style)
    console.print(printed, crop=False, no_wrap=True, overflow="ignore")
    if num_left_out:
        left_out = f"{num_left_out:,} more rows are not printed; report.md, .csv and .html have all"
        console.print(Text(left_out, "dim"))
    if table.has_gone:
        console.print(Text(UTILITY_GONE_MEANS, "dim"))


def choose_printed(table: Table) -> tuple[Table, int]:
    """Choose the rows that a terminal shows: all or, of more than can be read there, what is best
    in a column and the first others; tell how many are left out."""
    num_rows = len(table.rows)
    if num_rows <= MOST_PRINTED:
        return table, 0
    is_best = [any(cell.best for cell in row.cells) for row in table.rows]
    by_rank = sorted(range(num_rows), key=lambda index: not is_best[index])
    printed = sorted(by_rank[:MOST_PRINTED])
    rows = [table.rows[index] for index in printed]
    return Table(table.columns, rows), num_rows - len(rows)


def _build_head(column: Column) -> Text:
    """Build a column's head: the words of its label, and dim below them which way is good."""
    label_words = neutralize(column.label).split()
    better_words = column.better.split()
    head = Text("\n".join([*label_words, ""]))
    head.append("\n".join(better_words), "not bold dim")
    return head


def _find_widths(table: Table) -> list[int]:
    """Find how wide each column must be: as its longest number or word."""
    widths = []
    for column_index, column in enumerate(table.columns):
        texts = [*column.label.split(), *column.better.split()]
        texts += [row.cells[column_index].text for row in table.rows]
        widths.append(max(map(len, texts)))
    return widths


def _choose_style(cell: Cell) -> str:
    if cell.value is None:
        return "dim"
    return "bold" if cell.best else ""


def format_markdown(runs: list[RunResult]) -> str:
    """Write the table in GitHub's markdown."""
    table = make_table(runs)
    heads = [escape_markdown(column.label) for column in table.columns]
    rules = ["---:"] * len(heads)
    lines = [
        _format_line(["run", *heads]),
        _format_line(["---", *rules]),
    ]
    for row in table.rows:
        name = escape_markdown(row.run.name)
        if row.is_gone:
            name += f" ({UTILITY_GONE})"
        cells = [f"**{cell.text}**" if cell.best else cell.text for cell in row.cells]
        lines.append(_format_line([name, *cells]))
    if table.has_gone:
        lines += ["", UTILITY_GONE_MEANS]
    return "\n".join(lines) + "\n"


def _format_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape_markdown(name: str) -> str:
    """Write a name so that markdown prints it letter by letter."""
    flat = " ".join(name.split())
    return MARKDOWN_SIGN.sub(r"\\\g<0>", flat)
