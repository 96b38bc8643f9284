"""Writes a report: the same runs as markdown, CSV, JSON, a page and pictures, all into one
folder."""

import re
from pathlib import Path

from unteach.atomic import write_json, write_text
from unteach.errors import UserError
from unteach.json_files import read_json
from unteach.report import charts, export, page, plots
from unteach.report.collect import RunResult
from unteach.report.colours import assign_tints
from unteach.report.sets import apart

RECORD = "report.json"
WRITTEN = ("report.md", "report.csv", "report.html", "report.png")


def refuse_other_reports(folder: Path) -> None:
    """Raise UserError where a file has the name of a report's that no report of ours wrote."""
    there = [name for name in WRITTEN if (folder / name).exists()]
    if there and not (folder / RECORD).exists():
        raise UserError(
            f"{folder}: holds {', '.join(there)} and no {RECORD}, so no report of unteach; name "
            "another folder (out=), or move them away"
        )


def write(suites: dict[str, list[RunResult]], folder: Path, title: str) -> tuple[Path, list[str]]:
    """Writes report.md, .csv, .json, .html and pictures; gives the page's path and notes on what a
    user may miss.

    Of several suites, the first one's trade-off is report.png and the others' are
    report-<suite>.png. Page and pictures also show the runs of each forget set apart.
    """
    refuse_other_reports(folder)
    notes = _note_replaced(folder, title)
    # This file comes first: it says that the others beside it are ours to replace.
    write_json(folder / RECORD, {"title": title, **export.as_json(suites)})
    write_text(folder / "report.md", export.as_markdown(suites, title))
    write_text(folder / "report.csv", export.as_csv(suites))
    shown = apart(suites)
    tints = assign_tints(shown)
    for number, (suite, runs) in enumerate(shown.items()):
        picture = folder / (
            f"report-{re.sub('[^a-z0-9.]+', '-', suite.lower())}.png" if number else "report.png"
        )
        try:
            plots.tradeoff_png(runs, picture, tints)
        except UserError as error:
            picture.unlink(missing_ok=True)  # an earlier report's
            if any(run.kind == "forget" for run in runs):  # others have nothing to trade
                notes.append(f"{suite}: {error}")
    charts.write(shown, folder, "report")
    return page.write_page(shown, folder / "report.html", title), notes


def _note_replaced(folder: Path, title: str) -> list[str]:
    """Say that a report on something else lay in the folder, which is replaced."""
    file = folder / RECORD
    if not file.is_file():
        return []
    try:
        earlier = read_json(file, "the earlier report").get("title")
    except (UserError, AttributeError):
        return []  # of a report that is no longer whole there is nothing to miss
    return (
        [f"{folder}: replaces “{earlier}”; out=FOLDER keeps both"]
        if earlier not in (None, title)
        else []
    )
