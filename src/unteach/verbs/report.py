"""`unteach report`: evaluated runs beside each other, as a table and one page with everything."""

import logging
import os
from collections import Counter
from pathlib import Path

from unteach.config.verb_configs import ReportConfig
from unteach.errors import UserError, require_extra, unknown
from unteach.report import collect, families, files, find, table
from unteach.report.find import Found

logger = logging.getLogger(__name__)
NEEDED_FOR = "drawing the pictures and the page of a report"


def run(config: ReportConfig) -> Path:
    """Print the tables of some runs, write the page, and give its path."""
    require_extra("report", NEEDED_FOR)
    found, notes = find.runs_in(config.runs)
    for note in notes:
        logger.info(note)
    compared = find.retain_models_of(found)
    for one in compared:
        logger.info(f"shown too, as it is what the others are compared with: {one.folder}")
    found = [*compared, *found]
    title = title_of(config.runs, found)
    return write(found, Path(config.out), title, suite_of(config.suite, found))


def title_of(places: list[str], found: list[Found]) -> str:
    """Name a report after what was found: one folder by its name, several runs by the folder that
    they share."""
    if len(places) == 1 and Path(places[0]).exists():
        return f"Report on {Path(places[0]).resolve().name}"
    if len(found) == 1:
        return f"Report on {found[0].name}"
    shared = Path(os.path.commonpath([one.folder.absolute() for one in found]))
    within = shared.relative_to(Path.cwd()) if shared.is_relative_to(Path.cwd()) else shared
    where = "" if within in (Path(), Path(shared.anchor)) else f" of {within}"
    return f"Report on {len(found)} runs{where}"


def suite_of(asked: str | None, found: list[Found]) -> str | None:
    """The suite as its files are called, however the user spelled it."""
    there = {name.lower(): name for one in found for name in one.suites}
    if asked is not None and asked.lower() not in there:
        raise UserError(unknown("suite among these results", asked, there.values()))
    return there[asked.lower()] if asked else None


def write(found: list[Found], folder: Path, title: str, suite: str | None = None) -> Path:
    """Prints the table of each suite and writes the report's files; gives the page's path."""
    having = Counter(name for one in found for name in one.suites)
    suites = [suite] if suite else sorted(having, key=lambda name: (-having[name], name))
    shown = {}
    for name in suites:
        judged = [one for one in found if suite or name in one.suites]
        measured = collect.collect([(one.name, one.kind, one.folder) for one in judged], name)
        shown[name] = collect.with_starts(measured)
        if len(suites) > 1:
            print(
                f"\n{name}"
                + (
                    f" ({len(judged)} of {len(found)} runs have it)"
                    if len(judged) < len(found)
                    else ""
                )
            )
        table.print_table(shown[name])
        if families_found := families.over_seeds(measured):
            means = collect.with_starts(families_found)
            print(f"\n{name}: means over seeds")
            shown[name + families.OVER_SEEDS] = means
            table.print_table(means)
    page, notes = files.write(shown, folder, title)
    for note in notes:
        logger.info(note)
    print(f"report: {page}")
    return page
