"""One HTML file that shows many runs, suite by suite, and needs nothing but itself."""

import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from unteach.errors import UserError
from unteach.report import answers, crossed, distributions, heat, tradeoff, trajectories
from unteach.report.collect import RunResult
from unteach.report.families import OVER_SEEDS
from unteach.report.sets import comparable, suite_of
from unteach.report.table import MISSING, Cell, Column, Table, all_metrics, make_cell, make_table
from unteach.runs import write_text

ROLES = {"retain": "gold standard", "base": "before training", "full": "knows everything", "forget": "unlearned"}
SCRIPTS = ("page.js", "picture.js", "curves.js", "beside.js", "tokens.js", "answers.js", "start.js")


def write_page(suites: dict[str, list[RunResult]], path: Path, title: str) -> Path:
    """Writes the report of each suite's runs to `path`, whole or not at all, and gives `path` back.

    The page loads nothing: scripts, styles and data are inside it, and its own policy forbids it to ask the network.
    Raises UserError where there is nothing to show.
    """
    if not any(suites.values()):
        raise UserError("there are no runs to report; name at least one evaluated run")
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped,unused-ignore]

    alone = (shown for name, shown in suites.items() if OVER_SEEDS not in name)
    runs = {run.folder: run for shown in alone for run in shown}
    parts = {
        "title": html.escape(title),
        "lead": html.escape(lead(list(runs.values()))),
        "style": _shipped("page.css"),
        "numbers": "".join(_suite_numbers(shown, first=not n) for n, shown in enumerate(suites.values())),
        "data": _data(suites),
        "script": "\n".join(_shipped(name) for name in SCRIPTS),
        "plotly": get_plotlyjs(),
    }
    # in one pass, so that a title or an answer that looks like a slot is never filled in
    page = re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot.group(1)], _shipped("page.html"))
    # half a character, as a model cut off inside one may leave it, is not UTF-8
    write_text(Path(path), page.encode("utf-8", "replace").decode("utf-8"))
    return Path(path)


def lead(runs: list[RunResult]) -> str:
    """One sentence: what the page shows."""
    one = len(runs) == 1
    many = "One model: what it" if one else f"{len(runs)} models beside each other: what each"
    if any(run.kind == "retain" for run in runs):
        gold = "the gold standard is the retain model, which never saw the forget set."
    else:
        among = "beside it" if one else "among them"
        gold = f"there is no retain model {among}, so no gold standard to compare with."
    return f"{many} still knows of what it should forget, and what it kept of the rest; {gold}"


def _shipped(name: str) -> str:
    return resources.files("unteach.report").joinpath(name).read_text(encoding="utf-8")


def _data(suites: dict[str, list[RunResult]]) -> str:
    data = [_suite_data(name, runs) for name, runs in suites.items()]
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # inside a script element only these could end it or begin another
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _suite_data(name: str, runs: list[RunResult]) -> dict[str, Any]:
    alike = runs if comparable(runs) else []  # rows of different forget sets do not stand beside each other
    ratios = distributions.truth_ratios(alike)
    return {
        "name": name,
        "runs": [{"name": run.name, "kind": run.kind} for run in runs],
        "crossed": crossed.as_data(crossed.crossed(runs)),
        "moved": trajectories.as_data(trajectories.trajectories(runs, suite_of(name))),
        "views": [tradeoff.as_data(view) for view in tradeoff.views(runs)],
        "ratios": distributions.as_data(ratios) if ratios else None,
        "attacks": [distributions.as_data(shown) for shown in distributions.attacks(alike)],
        "heat": heat.as_data(heat.heat(alike)),
        "sets": answers.as_data(answers.question_sets(alike)),
    }


def _suite_numbers(runs: list[RunResult], first: bool) -> str:
    """One suite's table and what explains it; all but the first suite's wait for their tab."""
    table = make_table(runs)
    details = _legend(table) + _meanings(table) + _everything(runs) + _absences(runs)
    return f'<div class="numbers"{"" if first else " hidden"}>{_main_table(table)}\n{details}</div>\n'


def _main_table(table: Table) -> str:
    heads = "".join(_head(column) for column in table.columns)
    rows = "".join(
        f'<tr class="{html.escape(run.kind)}">{_name(run)}{"".join(map(_number, cells))}</tr>\n'
        for run, cells in table.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">run</th>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>"
    )


def _head(column: Column) -> str:
    label, better = html.escape(column.label), html.escape(column.better)
    title = html.escape(f"{column.meaning or column.metric}. Click to sort.")
    return f'<th scope="col"><button type="button" title="{title}">{label}</button><small>{better}</small></th>'


def _name(run: RunResult) -> str:
    role = ROLES.get(run.kind, "")
    below = f"<small>{role}</small>" if role else ""
    dot = f'<span class="dot {html.escape(run.kind)}"></span>'
    named = f'<span class="named">{dot}<span class="name">{html.escape(run.name)}</span></span>'
    return f'<td title="{html.escape(str(run.folder))}">{named}{below}</td>'


def _number(cell: Cell, reason: str = "") -> str:
    if cell.value is None:
        title = f' title="{html.escape(reason)}"' if reason else ""
        return f'<td class="missing"{title}>{MISSING}</td>'
    stands_on = f' title="over {cell.size} examples"' if cell.size else ""
    interval = f"<small>{html.escape(cell.interval)}</small>" if cell.interval else ""
    best = ' class="best"' if cell.best else ""
    return f'<td{best} data-value="{cell.value!r}"{stands_on}>{html.escape(cell.text)}{interval}</td>'


def _legend(table: Table) -> str:
    if not any(cell.best for _, cells in table.rows for cell in cells):
        return ""
    return '<p class="note">In colour: the best of the models that are no reference, column by column.</p>\n'


def _meanings(table: Table) -> str:
    known = [column for column in table.columns if column.meaning]
    if not known:
        return ""
    lines = "".join(
        f"<dt>{html.escape(column.label)}</dt><dd>{html.escape(column.meaning)} "
        f"(<code>{html.escape(column.metric)}</code>; good: {html.escape(column.better)})</dd>\n"
        for column in known
    )
    return f"<details><summary>What the columns mean</summary><dl>{lines}</dl></details>\n"


def _everything(runs: list[RunResult]) -> str:
    metrics = all_metrics(runs)
    heads = "".join(f'<th scope="col">{html.escape(run.name)}</th>' for run in runs)
    rows = "".join(
        f"<tr><td>{html.escape(metric)}</td>"
        + "".join(_number(make_cell(run, Column(metric, metric)), run.absent.get(metric, "")) for run in runs)
        + "</tr>\n"
        for metric in metrics
    )
    return (
        f"<details><summary>Every measured value ({len(metrics)} metrics)</summary>"
        f'<div class="scroll"><table><thead><tr><th scope="col">metric</th>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div></details>\n"
    )


def _absences(runs: list[RunResult]) -> str:
    """Each metric that is not there with its reason, said once for all the runs that share it."""
    shared: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for metric, reason in run.absent.items():
            shared.setdefault((metric, reason), []).append(run.name)
    if not shared:
        return ""
    lines = "".join(
        f"<dt>{html.escape(metric)}</dt><dd>{html.escape(reason)} ({html.escape(', '.join(names))})</dd>\n"
        for (metric, reason), names in shared.items()
    )
    return f"<details><summary>What was not measured, and why</summary><dl>{lines}</dl></details>\n"
