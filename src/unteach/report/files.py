"""Writes a report: the same runs as markdown, CSV, JSON, a page and pictures, all into one
folder."""

import re
from pathlib import Path

from unteach.atomic import write_json, write_text
from unteach.errors import UserError
from unteach.json_files import read_json
from unteach.report import export
from unteach.report.collect import RunResult
from unteach.report.colours import assign_tints
from unteach.report.drawing import write_panels, write_png
from unteach.report.page import write_page
from unteach.report.pictures import Picture
from unteach.report.sections import Sections, build_sections
from unteach.report.sets import split_by_forget_set

RECORD = "report.json"
WRITTEN = ("report.md", "report.csv", "report.html", "report.png")
MOST_PANELS = 6
"""Pictures in one file."""
NO_TRADE_OFF = (
    "there is no trade-off to draw: no run has both a metric of role forget (such as "
    "forget_Q_A_Prob) and one of role retain (such as model_utility); evaluate the runs with them, "
    "or describe your own metrics (docs/components.md)"
)


def refuse_other_reports(folder: Path) -> None:
    """Raise UserError where a file has the name of a report's that no report of ours wrote."""
    present = [name for name in WRITTEN if (folder / name).exists()]
    if present and not (folder / RECORD).exists():
        raise UserError(
            f"{folder}: holds {', '.join(present)} and no {RECORD}, so no report of unteach; name "
            "another folder (out=), or move them away"
        )


def write_report(
    suites: dict[str, list[RunResult]],
    folder: Path,
    title: str,
) -> tuple[Path, list[str]]:
    """Write report.md, .csv, .json, .html and pictures.

    Of several suites, the first one's trade-off is report.png and the others' are
    report-<suite>.png. Page and pictures also show the runs of each forget set apart.

    Returns:
        The page's path, and notes on what a user may miss.
    """
    refuse_other_reports(folder)
    notes = _note_replaced(folder, title)
    # This file comes first: it says that the others beside it are ours to replace.
    write_json(folder / RECORD, {"title": title, **export.to_json(suites)})
    write_text(folder / "report.md", export.format_markdown(suites, title))
    write_text(folder / "report.csv", export.format_csv(suites))

    tabs = split_by_forget_set(suites)
    tints = assign_tints(tabs)
    sections = {tab: build_sections(tab, runs, tints) for tab, runs in tabs.items()}
    notes += write_trade_offs(tabs, sections, folder)
    write_charts(list(sections.values()), folder)
    return write_page(tabs, folder / "report.html", title, sections), notes


def write_trade_offs(
    tabs: dict[str, list[RunResult]],
    sections: dict[str, Sections],
    folder: Path,
) -> list[str]:
    """Draw the default trade-off of each tab; note the tabs of unlearned models that have none."""
    notes = []
    for number, (tab, runs) in enumerate(tabs.items()):
        name = re.sub("[^a-z0-9.]+", "-", tab.lower())
        file = folder / (f"report-{name}.png" if number else "report.png")
        if sections[tab].trade:
            write_png(sections[tab].trade[0], file)
            continue
        file.unlink(missing_ok=True)  # an earlier report's
        if any(run.kind == "forget" for run in runs):  # others have nothing to trade
            notes.append(f"{tab}: {NO_TRADE_OFF}")
    return notes


def write_charts(sections: list[Sections], folder: Path) -> None:
    """Draw report-forgotten.png, -training.png and -ratios.png, each of the first tab that has it.

    An earlier report's is removed where there is none now.
    """
    charts: dict[str, list[Picture]] = {
        "forgotten": [],
        "training": [],
        "ratios": [],
    }
    for tab in sections:
        charts["forgotten"] = charts["forgotten"] or tab.by_set
        charts["training"] = charts["training"] or tab.moved
        charts["ratios"] = charts["ratios"] or tab.ratios
    for name, pictures in charts.items():
        file = folder / f"report-{name}.png"
        if pictures:
            write_panels(pictures[:MOST_PANELS], file)
        else:
            file.unlink(missing_ok=True)


def _note_replaced(folder: Path, title: str) -> list[str]:
    """Say that a report on something else lay in the folder, which is replaced."""
    file = folder / RECORD
    if not file.is_file():
        return []
    try:
        earlier = read_json(file, "the earlier report").get("title")
    except (UserError, AttributeError):
        return []  # of a report that is no longer whole there is nothing to miss
    if earlier in (None, title):
        return []
    return [f"{folder}: replaces “{earlier}”; out=FOLDER keeps both"]
