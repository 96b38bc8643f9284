"""One HTML file that shows many runs, suite by suite, and needs nothing but itself."""

import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from unteach.atomic import write_text
from unteach.errors import UserError
from unteach.report import answers, crossed, distributions, heat, making, tradeoff, trajectories
from unteach.report.collect import RunResult
from unteach.report.colours import assign_tints
from unteach.report.columns import Column
from unteach.report.families import OVER_SEEDS
from unteach.report.judging import UTILITY_GONE, UTILITY_GONE_MEANS, all_metrics, column_of
from unteach.report.sets import comparable, suite_of
from unteach.report.table import MISSING, Cell, Table, make_cell, make_table

KIND_WORDS = {
    "retain": "gold standard",
    "base": "before training",
    "start": "where it started",
    "full": "knows everything",
    "forget": "unlearned",
}
SCRIPTS = ("page.js", "picture.js", "curves.js", "beside.js", "tokens.js", "answers.js", "start.js")


def write_page(suites: dict[str, list[RunResult]], path: Path, title: str) -> Path:
    """Writes the report of each suite's runs to `path`, whole or not at all, and gives `path` back.

    The page loads nothing: scripts, styles and data are inside it, and its own policy forbids it to
    ask the network. Raises UserError where there is nothing to show.
    """
    if not any(suites.values()):
        raise UserError("there are no runs to report; name at least one evaluated run")
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped,unused-ignore]

    alone = (shown for name, shown in suites.items() if OVER_SEEDS not in name)
    runs = {run.folder: run for shown in alone for run in shown}
    tints = assign_tints(suites)
    parts = {
        "title": html.escape(title),
        "lead": html.escape(lead(list(runs.values()))),
        "style": _shipped("page.css"),
        "numbers": "".join(
            _suite_numbers(shown, tints, first=not n) for n, shown in enumerate(suites.values())
        ),
        "made": making.as_html(
            [run for run in runs.values() if run.kind != "start"], tints, Path(path).parent
        ),
        "data": _data(suites, tints),
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


def _data(suites: dict[str, list[RunResult]], tints: dict[str, int]) -> str:
    data = [_suite_data(name, runs, tints) for name, runs in suites.items()]
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # inside a script element only these could end it or begin another
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _suite_data(name: str, runs: list[RunResult], tints: dict[str, int]) -> dict[str, Any]:
    # rows of different forget sets do not stand beside each other
    alike = runs if comparable(runs) else []
    ratios = distributions.truth_ratios(alike)
    return {
        "name": name,
        "runs": [{"name": run.name, "kind": run.kind, "tint": tints.get(run.name)} for run in runs],
        "crossed": crossed.as_data(crossed.crossed(runs)),
        "moved": trajectories.as_data(trajectories.trajectories(runs, suite_of(name))),
        "losses": making.losses_as_data(runs),
        "views": [tradeoff.as_data(view) for view in tradeoff.views(runs)],
        "ratios": distributions.as_data(ratios) if ratios else None,
        "attacks": [distributions.as_data(shown) for shown in distributions.attacks(alike)],
        "heat": heat.as_data(heat.heat(alike)),
        "sets": answers.as_data(answers.question_sets(alike)),
    }


def _suite_numbers(runs: list[RunResult], tints: dict[str, int], first: bool) -> str:
    """One suite's table and what explains it; all but the first suite's wait for their tab."""
    table = make_table(runs)
    details = _legend(table) + _meanings(table) + _everything(runs) + _absences(runs) + _notes(runs)
    hidden = "" if first else " hidden"
    return f'<div class="numbers"{hidden}>{_main_table(table, tints)}\n{details}</div>\n'


def _main_table(table: Table, tints: dict[str, int]) -> str:
    heads = "".join(_head(column) for column in table.columns)
    rows = ""
    for place, (run, cells) in enumerate(table.rows):
        numbers = "".join(map(_number, cells))
        name = _name(run, tints, place in table.gone)
        rows += f'<tr class="{html.escape(run.kind)}">{name}{numbers}</tr>\n'
    return (
        '<div class="wide"><div class="scroll" tabindex="0" role="region" aria-label="the numbers">'
        f'<table><thead><tr><th scope="col">run</th>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div></div>"
        '<p class="note" hidden>The table goes on to the right: scroll or swipe it sideways.</p>'
    )


def _head(column: Column) -> str:
    label, better = html.escape(column.label), html.escape(column.better)
    title = html.escape(f"{column.meaning or column.metric}. Click to sort.")
    return (
        f'<th scope="col"><button type="button" '
        f'title="{title}">{label}</button><small>{better}</small></th>'
    )


def _name(run: RunResult, tints: dict[str, int], gone: bool) -> str:
    words = [KIND_WORDS.get(run.kind, ""), UTILITY_GONE if gone else ""]
    below = ", ".join(word for word in words if word)
    below = f"<small>{below}</small>" if below else ""
    dot = making.dot(run, tints)
    named = f'<span class="named">{dot}<span class="name">{html.escape(run.name)}</span></span>'
    return f'<td title="{html.escape(str(run.folder))}">{named}{below}</td>'


def _number(cell: Cell, reason: str = "") -> str:
    if cell.value is None:
        title = f' title="{html.escape(reason)}"' if reason else ""
        return f'<td class="missing"{title}>{MISSING}</td>'
    stands_on = f' title="over {cell.size} examples"' if cell.size else ""
    interval = f"<small>{html.escape(cell.interval)}</small>" if cell.interval else ""
    best = ' class="best"' if cell.best else ""
    return (
        f'<td{best} data-value="{cell.value!r}"{stands_on}>{html.escape(cell.text)}{interval}</td>'
    )


def _legend(table: Table) -> str:
    notes = []
    if any(cell.best for _, cells in table.rows for cell in cells):
        notes.append(
            "In bold colour: the best of the models that are no reference, column by column."
        )
    if table.gone:
        notes.append(UTILITY_GONE_MEANS)
    return "".join(f'<p class="note">{html.escape(note)}</p>\n' for note in notes)


def _meanings(table: Table) -> str:
    known = [column for column in table.columns if column.meaning or column.better]
    if not known:
        return ""
    lines = "".join(
        f"<dt>{html.escape(column.label)}</dt><dd>{html.escape(column.meaning)} "
        f"(<code>{html.escape(column.metric)}</code>{_good(column)})</dd>\n"
        for column in known
    )
    return f"<details open><summary>What the columns mean</summary><dl>{lines}</dl></details>\n"


def _good(column: Column) -> str:
    return f"; good: {html.escape(column.better)}" if column.better else ""


def _everything(runs: list[RunResult]) -> str:
    metrics = all_metrics(runs)
    heads = "".join(f'<th scope="col">{html.escape(run.name)}</th>' for run in runs)
    rows = "".join(
        f"<tr><td>{html.escape(metric)}</td>"
        + "".join(
            _number(make_cell(run, column_of(runs, metric)), run.absent.get(metric, ""))
            for run in runs
        )
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
        f"<dt>{html.escape(metric)}</dt><dd>{html.escape(reason)} "
        f"({html.escape(', '.join(names))})</dd>\n"
        for (metric, reason), names in shared.items()
    )
    return f"<details><summary>What was not measured, and why</summary><dl>{lines}</dl></details>\n"


def _notes(runs: list[RunResult]) -> str:
    """What was left out of rows or cut, each sentence once for all the runs that share it."""
    shared: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for sentence, detail in run.notes.items():
            shared.setdefault((sentence, detail), []).append(run.name)
    if not shared:
        return ""
    lines = "".join(
        f"<dt>{html.escape(sentence)}</dt><dd>{html.escape(detail)} "
        f"({html.escape(', '.join(names))})</dd>\n"
        for (sentence, detail), names in shared.items()
    )
    return f"<details><summary>What was left out or cut</summary><dl>{lines}</dl></details>\n"
