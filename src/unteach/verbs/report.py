"""`unteach report`: evaluated runs beside each other, as a table and one page with everything."""

import logging
import os
from collections import Counter
from pathlib import Path

from unteach.config.verb_configs import ReportConfig
from unteach.errors import UserError, describe_unknown, require_extra
from unteach.report.collect import collect, insert_starts
from unteach.report.families import OVER_SEEDS, average_over_seeds
from unteach.report.files import write_report
from unteach.report.find import EvaluatedRun, find_retain_models, find_runs
from unteach.report.table import print_table

logger = logging.getLogger(__name__)
NEEDED_FOR = "drawing the pictures and the page of a report"


def run(config: ReportConfig) -> Path:
    """Print the tables of some runs, write the page, and give its path."""
    require_extra("report", NEEDED_FOR)
    runs, notes = find_runs(config.runs)
    for note in notes:
        logger.info(note)
    retain_models = find_retain_models(runs)
    for run in retain_models:
        logger.info(f"shown too, as it is what the others are compared with: {run.folder}")
    runs = [*retain_models, *runs]
    title = choose_title(config.runs, runs)
    return report_runs(runs, Path(config.out), title, find_suite(config.suite, runs))


def choose_title(places: list[str], runs: list[EvaluatedRun]) -> str:
    """Name a report after what was found: one folder by its name, several runs by the folder that
    they share."""
    if len(places) == 1 and Path(places[0]).exists():
        return f"Report on {Path(places[0]).resolve().name}"
    if len(runs) == 1:
        return f"Report on {runs[0].name}"
    shared = Path(os.path.commonpath([run.folder.absolute() for run in runs]))
    within = shared.relative_to(Path.cwd()) if shared.is_relative_to(Path.cwd()) else shared
    where = "" if within in (Path(), Path(shared.anchor)) else f" of {within}"
    return f"Report on {len(runs)} runs{where}"


def find_suite(name: str | None, runs: list[EvaluatedRun]) -> str | None:
    """Find the suite as its files are called, however the user spelled it; None where none was
    named."""
    if name is None:
        return None
    spellings = {suite.lower(): suite for run in runs for suite in run.suites}
    if name.lower() not in spellings:
        raise UserError(describe_unknown("suite among these results", name, spellings.values()))
    return spellings[name.lower()]


def report_runs(
    runs: list[EvaluatedRun],
    folder: Path,
    title: str,
    suite: str | None = None,
) -> Path:
    """Print the table of each suite, write the report's files, and give the page's path.

    Args:
        suite: the only one that is shown; None shows all, those that most runs have first.
    """
    num_runs = Counter(name for run in runs for name in run.suites)
    suites = [suite] if suite else sorted(num_runs, key=lambda name: (-num_runs[name], name))
    tabs = {}
    for name in suites:
        # A suite that was named is an error where a run lacks it.
        measured = [run for run in runs if suite or name in run.suites]
        results = collect([(run.name, run.kind, run.folder) for run in measured], name)
        tabs[name] = insert_starts(results)
        if len(suites) > 1:
            have_it = f" ({len(measured)} of {len(runs)} runs have it)"
            print(f"\n{name}{have_it if len(measured) < len(runs) else ''}")
        print_table(tabs[name])
        if means := average_over_seeds(results):
            tabs[name + OVER_SEEDS] = insert_starts(means)
            print(f"\n{name}: means over seeds")
            print_table(tabs[name + OVER_SEEDS])
    page, notes = write_report(tabs, folder, title)
    for note in notes:
        logger.info(note)
    print(f"report: {page}")
    return page
