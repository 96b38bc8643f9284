"""The headline numbers of several runs, one row a run: as data, for the terminal, and as markdown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.sets import comparable

if TYPE_CHECKING:
    from rich.console import Console

MISSING = "–"
TINY = 0.001
NARROWEST_NAME = 10


@dataclass(frozen=True)
class Column:
    """One metric: `better` says in a word or two which way is good, `meaning` in a sentence what it measures."""

    metric: str
    label: str
    better: str = ""
    meaning: str = ""
    decimals: int = 3


@dataclass(frozen=True)
class Cell:
    """One number as it is shown, with what it stands on; `text` is an en dash where the run has no such value.

    `best`: no other unlearned model of the table is better in this column.
    """

    text: str
    value: float | None = None
    interval: str = ""
    size: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Columns (the run's name and kind stand before them) and one row of cells for each run."""

    columns: list[Column]
    rows: list[tuple[RunResult, list[Cell]]]


NEAR, HIGH, ZERO = "near retain", "higher", "near 0"
COLUMNS = (
    Column("forget_Q_A_Prob", "forget prob", NEAR, "Probability of the true answers of the forget set, by token"),
    Column("forget_Q_A_ROUGE", "forget ROUGE", NEAR, "Share of the true forget answers that the model says again"),
    Column("forget_verbmem_ROUGE", "forget verbmem", NEAR, "How far a forget text is continued word by word"),
    Column("forget_knowmem_ROUGE", "forget knowmem", NEAR, "How well questions about the forget texts are answered"),
    Column("forget_truth_ratio", "truth ratio", NEAR, "How alike true and false forget answers look to the model"),
    Column("forget_quality", "forget quality", HIGH, "p-value: can the model be told from one that never saw the set?"),
    Column("model_utility", "utility", HIGH, "What is kept: probability, ROUGE and truth ratio outside the forget set"),
    Column("retain_Q_A_Prob", "retain prob", HIGH, "Probability of the true answers of the retain set, by token"),
    Column("retain_knowmem_ROUGE", "retain knowmem", HIGH, "How well questions about the retain texts are answered"),
    Column("extraction_strength", "extraction strength", NEAR, "Share of an answer that its opening brings back whole"),
    Column(
        "forget_quality_2", "KS ln p", ZERO, "ln p of the KS test of the truth ratios against the retain model's", 2
    ),
    Column("forget_quality_1", "one-sided ln p", ZERO, "The same of the one-sided test", 2),
    Column("forget_mean_tr", "forget TR", NEAR, "Mean truth ratio of the forget rows, phrased anew"),
    Column("forget_mean_probability_gt", "forget prob", NEAR, "Probability of the true forget answers, phrased anew"),
    Column("forget_rougeL_recall", "forget ROUGE", NEAR, "Share of the forget answers that the model says again"),
    Column(
        "train_set_forget_mean_probability_gt", "taught forget prob", NEAR, "Of the forget answers, as they were taught"
    ),
    Column("train_set_forget_rougeL_recall", "taught forget ROUGE", NEAR, "Share of these that the model says again"),
    Column(
        "train_set_retain_mean_probability_gt", "taught retain prob", HIGH, "Of the retain answers, as they were taught"
    ),
    Column("retain_model_utility_3", "retain utility", HIGH, "Truth ratio, ROUGE and probability of the retain rows"),
    Column("entity_retain_model_utility_3", "kin utility", HIGH, "The same of rows about an entity of a forgotten row"),
    Column("non_entity_retain_model_utility_3", "others' utility", HIGH, "The same of all other retain rows"),
    Column("privleak", "privleak", ZERO, "Membership inference against the retain model's, in percent", decimals=1),
)


def make_table(runs: list[RunResult]) -> Table:
    """Turns runs into rows. A column is there if any run has its metric; a value that is missing is a dash, never 0.

    Results of a suite of which no column is known show every metric of their summaries.
    """
    columns = known_columns(runs)
    best = {column.metric: best_of(runs, column) for column in columns}
    rows = [(run, [make_cell(run, column) for column in columns]) for run in runs]
    return Table(
        columns, [(run, [_marked(run, *one, best) for one in zip(columns, cells, strict=True)]) for run, cells in rows]
    )


def known_columns(runs: list[RunResult]) -> list[Column]:
    """The columns that some run has a value of; every metric of the summaries where none of them is known."""
    known = [column for column in COLUMNS if any(run.value(column.metric) is not None for run in runs)]
    return known or [Column(metric, metric) for metric in all_metrics(runs)]


def best_of(runs: list[RunResult], column: Column) -> float | None:
    """The value that is best in a column among the unlearned models; None where there are no two to compare."""
    judged = [value for run in runs if run.kind not in REFERENCES and (value := run.value(column.metric)) is not None]
    gold = [value for run in runs if run.kind == "retain" and (value := run.value(column.metric)) is not None]
    if len(judged) < 2 or not comparable(runs) or not column.better or (column.better == NEAR and not gold):
        return None
    if column.better == HIGH:
        return max(judged)
    aims = gold if column.better == NEAR else [0.0]
    return min(judged, key=lambda value: min(abs(value - aim) for aim in aims))


def _marked(run: RunResult, column: Column, cell: Cell, best: dict[str, float | None]) -> Cell:
    is_best = cell.value is not None and cell.value == best[column.metric] and run.kind not in REFERENCES
    return replace(cell, best=is_best)


def all_metrics(runs: list[RunResult]) -> list[str]:
    """Every metric that a summary names or whose absence a run explains, by name."""
    return sorted({metric for run in runs for metric in (*run.summary, *run.absent)})


def make_cell(run: RunResult, column: Column) -> Cell:
    """The run's value of one column, written as it is shown."""
    value = run.value(column.metric)
    if value is None:
        return Cell(MISSING)
    bounds = run.interval(column.metric)
    interval = " to ".join(show(bound, column.decimals) for bound in bounds) if bounds else ""
    return Cell(show(value, column.decimals), value, interval, run.size(column.metric))


def show(value: float, decimals: int = 3) -> str:
    """Fixed decimals; scientific below 0.001, where rounding would say 0 of what is not (p-values above all)."""
    if value != 0 and abs(value) < TINY:
        return f"{value:.1e}"
    return f"{value:z.{decimals}f}"


def print_table(runs: list[RunResult], console: Console | None = None) -> None:
    """Prints the table to the terminal, the retain model (the gold standard) in yellow.

    A number cut short is a wrong number: only names are folded, and where even that is not enough, lines run over the
    terminal's edge.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console as RichConsole
    from rich.table import Table as RichTable
    from rich.text import Text

    console, table = console or RichConsole(), make_table(runs)
    widths = [
        max(len(word) for word in [*column.label.split(), *column.better.split(), *(cell.text for cell in cells)])
        for column, cells in zip(table.columns, zip(*(cells for _, cells in table.rows), strict=True), strict=True)
    ]
    longest = max((len(run.name) for run in runs), default=0)
    gap = 2 if longest + sum(widths) + 2 * len(widths) <= console.width else 1
    for_name = max(NARROWEST_NAME, min(longest, console.width - sum(widths) - gap * len(widths)))
    drawn = RichTable(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0), header_style="bold",
        border_style="dim", width=for_name + sum(widths) + gap * len(widths),
    )  # fmt: skip
    # Text, not str: a name is no markup, though it may look like some
    drawn.add_column("run", overflow="fold", width=for_name, vertical="bottom")
    for column, width in zip(table.columns, widths, strict=True):
        head = Text("\n".join([*column.label.split(), ""])).append("\n".join(column.better.split()), "not bold dim")
        drawn.add_column(head, justify="right", width=width, no_wrap=True, vertical="bottom")
    for run, cells in table.rows:
        shown = [Text(run.name), *(Text(cell.text, style=_style(cell)) for cell in cells)]
        drawn.add_row(*shown, style="yellow" if run.kind == "retain" else None)
    console.print(drawn, crop=False, no_wrap=True, overflow="ignore")


def _style(cell: Cell) -> str:
    return "dim" if cell.value is None else "bold" if cell.best else ""


def markdown(runs: list[RunResult]) -> str:
    """The table in GitHub's markdown."""
    table = make_table(runs)
    lines = [
        _line(["run", *(column.label for column in table.columns)]),
        _line(["---", *("---:" for _ in table.columns)]),
        *(_line([plain(run.name), *(_bold(cell) for cell in cells)]) for run, cells in table.rows),
    ]
    return "\n".join(lines) + "\n"


def _bold(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.best else cell.text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(name: str) -> str:
    """The name as markdown prints it letter by letter."""
    flat = " ".join(name.split())
    return "".join(f"\\{letter}" if letter in "\\`*[]<>|" else letter for letter in flat)
