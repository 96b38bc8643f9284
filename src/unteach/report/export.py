"""A report's numbers for other programs: every value of every run, as JSON and as CSV."""

import csv
import io
from dataclasses import dataclass, fields
from typing import Any

from unteach.report import cross_tables, table
from unteach.report.collect import RunResult
from unteach.report.judging import get_column
from unteach.report.sets import split_by_forget_set
from unteach.report.tradeoff import list_views

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet computes a text by that begins so."""

Suites = dict[str, list[RunResult]]


@dataclass(frozen=True)
class ValueRow:
    """One value; low and high are the ends of its interval, None where the log has none."""

    suite: str
    run: str
    kind: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    folder: str
    label: str
    role: str
    better: str


def list_value_rows(suites: Suites) -> list[ValueRow]:
    """List every value of every run."""
    rows = []
    for suite, runs in suites.items():
        for run in runs:
            for metric in run.metrics():
                column = get_column(runs, metric)
                low, high = run.interval(metric) or (None, None)
                rows.append(
                    ValueRow(
                        suite=suite,
                        run=run.name,
                        kind=run.kind,
                        metric=metric,
                        value=run.value(metric),
                        low=low,
                        high=high,
                        n=run.size(metric),
                        folder=str(run.folder),
                        label=column.label,
                        role=column.role,
                        better=column.better,
                    )
                )
    return rows


def format_csv(suites: Suites) -> str:
    """Write the rows as CSV, numbers to their last digit, an empty field where there is no
    number."""
    out = io.StringIO()
    names = [field.name for field in fields(ValueRow)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in list_value_rows(suites):
        writer.writerow({name: neutralize_cell(value) for name, value in vars(row).items()})
    return out.getvalue()


def neutralize_cell(value: object) -> object:
    """Give a text that no spreadsheet takes for a formula; numbers stay."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def to_json(suites: Suites) -> dict[str, Any]:
    """Give the rows, why metrics are absent, what was left out, and each view's Pareto front by the
    names of its runs."""
    absent, notes, fronts = [], [], []
    for suite, runs in suites.items():
        for run in runs:
            for metric, reason in run.absent.items():
                absent.append(
                    {
                        "suite": suite,
                        "run": run.name,
                        "metric": metric,
                        "reason": reason,
                    }
                )
            for sentence, detail in run.notes.items():
                notes.append(
                    {
                        "suite": suite,
                        "run": run.name,
                        "note": sentence,
                        "detail": detail,
                    }
                )
    for tab, runs in split_by_forget_set(suites).items():
        for view in list_views(runs):
            if view.comparable:
                names = [point.name for point in view.front]
                fronts.append(
                    {
                        "suite": tab,
                        "x": view.x.metric,
                        "y": view.y.metric,
                        "runs": names,
                    }
                )
    values = [dict(vars(row)) for row in list_value_rows(suites)]
    return {
        "values": values,
        "absent": absent,
        "notes": notes,
        "fronts": fronts,
    }


def format_markdown(suites: Suites, title: str) -> str:
    """Write the tables with their headings."""
    parts = [f"# {table.escape_markdown(title)}\n"]
    for suite, runs in suites.items():
        if len(suites) > 1:
            parts.append(f"## {table.escape_markdown(suite)}\n")
        parts.append(table.format_markdown(runs))
        if tables := cross_tables.build_cross_tables(runs):
            parts.append(cross_tables.format_markdown(tables))
    return "\n".join(parts)
