"""The headline numbers of several runs, one row a run: as data, for the terminal, and as
markdown."""

from __future__ import annotations

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
    known_columns,
)
from unteach.wording import format_value

if TYPE_CHECKING:
    from rich.console import Console

MISSING = "–"
NARROWEST_NAME = 10


@dataclass(frozen=True)
class Cell:
    """One number as it is shown, with what it stands on; `text` is an en dash where the run has no
    such value.

    `best`: no other unlearned model of the table is better in this column.
    """

    text: str
    value: float | None = None
    interval: str = ""
    size: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Columns (the run's name and kind stand before them) and one row of cells for each run.

    gone: the places of the rows whose models have lost what they were to keep.
    """

    columns: list[Column]
    rows: list[tuple[RunResult, list[Cell]]]
    gone: set[int]


def make_table(runs: list[RunResult]) -> Table:
    """Turns runs into rows. A column is there if any run has its metric; a value that is missing is
    a dash, never 0.

    Results of a suite of which no column is known show every metric of their summaries.
    """
    columns, gone = known_columns(runs), find_gone(runs)
    best = [find_best(runs, column, gone) for column in columns]
    rows = []
    for place, run in enumerate(runs):
        cells = [make_cell(run, column) for column in columns]
        marked = [
            replace(cell, best=place in places) for cell, places in zip(cells, best, strict=True)
        ]
        rows.append((run, marked))
    return Table(columns, rows, gone)


def make_cell(run: RunResult, column: Column) -> Cell:
    """The run's value of one column, written as it is shown."""
    value = run.value(column.metric)
    if value is None:
        return Cell(MISSING)
    bounds = run.interval(column.metric)
    interval = (
        " to ".join(format_value(bound, column.decimals) for bound in bounds) if bounds else ""
    )
    return Cell(format_value(value, column.decimals), value, interval, run.size(column.metric))


def print_table(runs: list[RunResult], console: Console | None = None) -> None:
    """Prints the table to the terminal, the retain model (the gold standard) in yellow.

    A number cut short is a wrong number: only names are folded, and where even that is not enough,
    lines run over the terminal's edge.
    """
    console, table = console or RichConsole(), make_table(runs)
    widths = [
        max(
            len(word)
            for word in [
                *column.label.split(),
                *column.better.split(),
                *(cell.text for cell in cells),
            ]
        )
        for column, cells in zip(
            table.columns, zip(*(cells for _, cells in table.rows), strict=True), strict=True
        )
    ]
    longest = max((len(run.name) for run in runs), default=0)
    if table.gone:
        longest = max(longest, len(UTILITY_GONE))
    gap = 2 if longest + sum(widths) + 2 * len(widths) <= console.width else 1
    for_name = max(NARROWEST_NAME, min(longest, console.width - sum(widths) - gap * len(widths)))
    drawn = RichTable(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
        header_style="bold",
        border_style="dim",
        width=for_name + sum(widths) + gap * len(widths),
    )
    # Text, not str: a name is no markup, though it may look like some
    drawn.add_column("run", overflow="fold", width=for_name, vertical="bottom")
    for column, width in zip(table.columns, widths, strict=True):
        head = Text("\n".join([*neutralize(column.label).split(), ""]))
        head.append("\n".join(column.better.split()), "not bold dim")
        drawn.add_column(head, justify="right", width=width, no_wrap=True, vertical="bottom")
    for place, (run, cells) in enumerate(table.rows):
        name = Text(neutralize(run.name))
        if place in table.gone:
            name.append(f"\n{UTILITY_GONE}", "dim")
        shown = [name, *(Text(cell.text, style=_style(cell)) for cell in cells)]
        drawn.add_row(*shown, style="yellow" if run.kind == "retain" else None)
    console.print(drawn, crop=False, no_wrap=True, overflow="ignore")
    if table.gone:
        console.print(Text(UTILITY_GONE_MEANS, "dim"))


def _style(cell: Cell) -> str:
    return "dim" if cell.value is None else "bold" if cell.best else ""


def markdown(runs: list[RunResult]) -> str:
    """The table in GitHub's markdown."""
    table = make_table(runs)
    lines = [
        _line(["run", *(plain(column.label) for column in table.columns)]),
        _line(["---", *("---:" for _ in table.columns)]),
    ]
    for place, (run, cells) in enumerate(table.rows):
        name = plain(run.name) + (f" ({UTILITY_GONE})" if place in table.gone else "")
        lines.append(_line([name, *(_bold(cell) for cell in cells)]))
    if table.gone:
        lines += ["", UTILITY_GONE_MEANS]
    return "\n".join(lines) + "\n"


def _bold(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.best else cell.text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(name: str) -> str:
    """The name as markdown prints it letter by letter."""
    flat = " ".join(name.split())
    return "".join(f"\\{letter}" if letter in "\\`*[]<>|" else letter for letter in flat)
