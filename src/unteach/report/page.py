"""One HTML file that shows many runs, tab by tab, and needs nothing but itself."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unteach.errors import UserError
from unteach.report import answers, token_heat
from unteach.report.collect import REFERENCES, RunResult
from unteach.report.colours import Tints, assign_tints, get_colour
from unteach.report.drawing import HALF_PAGE, LINES_PAGE, WIDE_PAGE, draw_svg
from unteach.report.families import OVER_SEEDS
from unteach.report.html import encode_data, read_shipped, render_template, write_html
from unteach.report.judging import (
    UTILITY_GONE,
    UTILITY_GONE_MEANS,
    get_column,
    list_metrics,
)
from unteach.report.pictures import Picture
from unteach.report.recipes import Recipe, read_recipe
from unteach.report.sections import Sections, build_sections
from unteach.report.sets import are_comparable
from unteach.report.table import MISSING, Cell, Table, make_cell, make_table

KIND_MEANINGS = {
    "retain": "gold standard",
    "base": "before training",
    "start": "where it started",
    "full": "knows everything",
    "forget": "unlearned",
}
SCRIPTS = (
    "elements.js",
    "page.js",
    "pictures.js",
    "tokens.js",
    "tint.js",
    "answers.js",
    "start.js",
)
FORMATS = {
    "trade": WIDE_PAGE,
    "by_set": LINES_PAGE,
    "moved": LINES_PAGE,
    "losses": LINES_PAGE,
    "ratios": HALF_PAGE,
    "attacks": HALF_PAGE,
}
"""How large the pictures of each section are."""

Tabs = dict[str, list[RunResult]]


@dataclass(frozen=True)
class DrawnPicture:
    """A picture as the page shows it."""

    choices: tuple[str, ...]
    svg: Markup
    note: str


@dataclass(frozen=True)
class MetricRow:
    """A metric's values in every run, with the reason where one has none."""

    metric: str
    cells: list[tuple[Cell, str]]


@dataclass(frozen=True)
class Remark:
    """Something said of some runs: of a metric that is absent, or of rows that were left out."""

    what: str
    why: str
    names: str


@dataclass(frozen=True)
class TabPage:
    """What the page shows of the runs of one tab, beside what its script draws."""

    name: str
    table: Table
    metrics: list[MetricRow]
    absences: list[Remark]
    notes: list[Remark]
    pictures: dict[str, list[DrawnPicture]]


def write_page(
    tabs: Tabs,
    path: Path,
    title: str,
    sections: dict[str, Sections] | None = None,
) -> Path:
    """Write the report of each tab's runs to `path`, whole or not at all, and give `path` back.

    The page loads nothing: scripts, styles and data are inside it, and its own policy forbids it to
    ask the network.

    Args:
        sections: the pictures of each tab, where they are described already.

    Raises:
        UserError: there is nothing to show.
    """
    if not any(tabs.values()):
        raise UserError("there are no runs to report; name at least one evaluated run")
    tints = assign_tints(tabs)
    if sections is None:
        sections = {tab: build_sections(tab, runs, tints) for tab, runs in tabs.items()}
    all_runs = _list_runs(tabs)
    tab_pages = []
    for tab_index, (tab, runs) in enumerate(tabs.items()):
        tab_pages.append(_build_tab(tab, runs, sections[tab], tab_index))
    path = Path(path)
    values: dict[str, object] = {
        "title": title,
        "lead": write_lead(all_runs),
        "tabs": tab_pages,
        "recipes": _read_recipes(all_runs, path.parent),
        "mark": partial(mark_run, tints=tints),
        "kind_meanings": KIND_MEANINGS,
        "utility_gone": UTILITY_GONE,
        "utility_gone_means": UTILITY_GONE_MEANS,
        "missing": MISSING,
        "style": read_shipped(["page.css"]),
        "script": read_shipped(SCRIPTS),
        "data": encode_data([_build_data(tab, runs, tints) for tab, runs in tabs.items()]),
    }
    write_html(path, render_template("page.html", values))
    return path


def _list_runs(tabs: Tabs) -> list[RunResult]:
    """List the runs of all tabs, each once; means over seeds are no runs."""
    by_folder: dict[Path, RunResult] = {}
    for tab, runs in tabs.items():
        if OVER_SEEDS in tab:
            continue
        for run in runs:
            by_folder[run.folder] = run
    return list(by_folder.values())


def write_lead(runs: list[RunResult]) -> str:
    """Say in one sentence what the page shows."""
    if len(runs) == 1:
        subject = "One model: what it"
        among = "beside it"
    else:
        subject = f"{len(runs)} models beside each other: what each"
        among = "among them"
    gold = f"there is no retain model {among}, so no gold standard to compare with."
    if any(run.kind == "retain" for run in runs):
        gold = "the gold standard is the retain model, which never saw the forget set."
    return f"{subject} still knows of what it should forget, and what it kept of the rest; {gold}"


def mark_run(run: RunResult, tints: Tints) -> str:
    """Give the classes of the mark that stands before a run's name, in the run's colour."""
    colour = "" if run.kind in REFERENCES else get_colour(run, tints)
    return " ".join(filter(None, ("dot", run.kind, colour)))


def _build_tab(
    tab: str,
    runs: list[RunResult],
    sections: Sections,
    number: int,
) -> TabPage:
    """Gather what the page's template shows of the runs of one tab."""
    metrics = []
    for metric in list_metrics(runs):
        column = get_column(runs, metric)
        row = MetricRow(metric, [])
        for run in runs:
            reason = run.absent.get(metric, "")
            row.cells.append((make_cell(run, column), reason))
        metrics.append(row)
    return TabPage(
        name=tab,
        table=make_table(runs),
        metrics=metrics,
        absences=_share_remarks([(run.name, run.absent) for run in runs]),
        notes=_share_remarks([(run.name, run.notes) for run in runs]),
        pictures=_draw_sections(sections, number),
    )


def _share_remarks(by_run: list[tuple[str, dict[str, str]]]) -> list[Remark]:
    """Say each remark once, for all the runs that share it."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, remarks in by_run:
        for remark in remarks.items():
            names.setdefault(remark, []).append(name)
    shared = []
    for (what, why), run_names in names.items():
        shared.append(Remark(what, why, ", ".join(run_names)))
    return shared


def _draw_sections(
    sections: Sections,
    tab_number: int,
) -> dict[str, list[DrawnPicture]]:
    """Draw the pictures of one tab, by the names of their sections."""
    by_section = {}
    for section in fields(Sections):
        pictures: list[Picture] = getattr(sections, section.name)
        drawn = []
        for number, picture in enumerate(pictures):
            name = f"{tab_number}/{section.name}/{number}"
            svg = Markup(draw_svg(picture, FORMATS[section.name], name))
            drawn.append(DrawnPicture(picture.choices, svg, picture.note))
        by_section[section.name] = drawn
    return by_section


def _read_recipes(
    runs: list[RunResult],
    page_dir: Path,
) -> list[tuple[RunResult, Recipe]]:
    """Read how each run's model was made, where its folder says it; paths are told from the page's
    folder."""
    recipes = []
    for run in runs:
        if run.kind == "start":  # its folder is another run's
            continue
        recipe = read_recipe(run, page_dir)
        if recipe is not None:
            recipes.append((run, recipe))
    return recipes


def _build_data(tab: str, runs: list[RunResult], tints: Tints) -> dict[str, Any]:
    """Give what the page's script draws of the runs of one tab."""
    shown_runs = []
    for run in runs:
        shown_run = {
            "name": run.name,
            "kind": run.kind,
            "tint": tints.get(run.name),
        }
        shown_runs.append(shown_run)
    # Rows of different forget sets do not stand beside each other.
    alike = runs if are_comparable(runs) else []
    token_answers, num_token_answers = token_heat.collect_token_answers(alike)
    question_sets = answers.collect_question_sets(alike)
    return {
        "name": tab,
        "runs": shown_runs,
        "heat": token_heat.to_data(token_answers),
        "heat_count": num_token_answers,
        "sets": answers.to_data(question_sets),
    }
