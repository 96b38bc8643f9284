"""A report's numbers for other programs: every value of every run, as JSON and as CSV."""

import csv
import io
from typing import Any

from unteach.report import crossed, table, tradeoff
from unteach.report.collect import RunResult
from unteach.report.judging import column_of
from unteach.report.sets import apart

FIELDS = (
    "suite",
    "run",
    "kind",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "folder",
    "label",
    "role",
    "better",
)

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet computes a text by that begins so."""


def as_rows(suites: dict[str, list[RunResult]]) -> list[dict[str, Any]]:
    """One row a value; low and high are the ends of its interval, None where the log has none."""
    rows = []
    for suite, runs in suites.items():
        for run in runs:
            for metric in run.metrics():
                column = column_of(runs, metric)
                numbers = _numbers(run, metric)
                told = (column.label, column.role, column.better)
                values = (suite, run.name, run.kind, metric, *numbers, str(run.folder), *told)
                rows.append(dict(zip(FIELDS, values, strict=True)))
    return rows


def _numbers(
    run: RunResult, metric: str
) -> tuple[float | None, float | None, float | None, int | None]:
    low, high = run.interval(metric) or (None, None)
    return run.value(metric), low, high, run.size(metric)


def as_csv(suites: dict[str, list[RunResult]]) -> str:
    """The rows as CSV, numbers to their last digit, an empty field where there is no number."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in as_rows(suites):
        writer.writerow({name: neutralize_cell(value) for name, value in row.items()})
    return out.getvalue()


def neutralize_cell(value: object) -> Any:
    """Give a text that no spreadsheet takes for a formula; numbers stay."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def as_json(suites: dict[str, list[RunResult]]) -> dict[str, Any]:
    """The rows, why metrics are absent, what was left out, and each picture's Pareto front by the
    names of its runs."""
    return {
        "values": as_rows(suites),
        "absent": [
            {"suite": suite, "run": run.name, "metric": metric, "reason": reason}
            for suite, runs in suites.items()
            for run in runs
            for metric, reason in run.absent.items()
        ],
        "notes": [
            {"suite": suite, "run": run.name, "note": sentence, "detail": detail}
            for suite, runs in suites.items()
            for run in runs
            for sentence, detail in run.notes.items()
        ],
        "fronts": [
            {
                "suite": suite,
                "x": view.x.metric,
                "y": view.y.metric,
                "runs": [point.name for point in view.front],
            }
            for suite, runs in apart(suites).items()
            for view in tradeoff.views(runs)
            if view.comparable
        ],
    }


def as_markdown(suites: dict[str, list[RunResult]], title: str) -> str:
    """The tables with their headings."""
    parts = [f"# {table.plain(title)}\n"]
    for suite, runs in suites.items():
        parts += [f"## {table.plain(suite)}\n"] if len(suites) > 1 else []
        parts.append(table.markdown(runs))
        parts += [crossed.markdown(tables)] if (tables := crossed.crossed(runs)) else []
    return "\n".join(parts)
