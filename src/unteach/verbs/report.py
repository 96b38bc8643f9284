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
    return report_runs(
        runs,
        folder=Path(config.out),
        title=choose_title(config.runs, runs),
        suite=find_suite(config.suite, runs),
    )


def choose_title(places: list[str], runs: list[EvaluatedRun]) -> str:
    """Name a report after what it is of: one folder by its name, several runs by the folder that
    they share.

    Args:
        places: what the user named.
        runs: the runs that this means.
    """
    if len(places) == 1:
        folder = Path(places[0])
        if folder.exists():
            return f"Report on {folder.resolve().name}"
    if len(runs) == 1:
        return f"Report on {runs[0].name}"

    title = f"Report on {len(runs)} runs"
    folders = [run.folder.absolute() for run in runs]
    shared = Path(os.path.commonpath(folders))
    cwd = Path.cwd()
    if shared in (cwd, Path(shared.anchor)):
        return title
    if shared.is_relative_to(cwd):
        shared = shared.relative_to(cwd)
    return f"{title} of {shared}"


def find_suite(name: str | None, runs: list[EvaluatedRun]) -> str | None:
    """Find the suite as its files are called, however the user spelled it; None where none was
    named.

    Raises:
        UserError: no run has results of it.
    """
    if name is None:
        return None
    spellings: dict[str, str] = {}
    for run in runs:
        spellings.update({suite.lower(): suite for suite in run.suites})
    spelling = spellings.get(name.lower())
    if spelling is None:
        raise UserError(describe_unknown("suite among these results", name, spellings.values()))
    return spelling


def _list_suites(runs: list[EvaluatedRun]) -> list[str]:
    """List the suites that some run has results of, those that most runs have first."""
    num_runs = Counter[str]()
    for run in runs:
        num_runs.update(run.suites)
    return sorted(num_runs, key=lambda name: (-num_runs[name], name))


def report_runs(
    runs: list[EvaluatedRun],
    folder: Path,
    title: str,
    suite: str | None = None,
) -> Path:
    """Print the table of each suite, write the report's files, and give the page's path.

    Args:
        folder: where the report is written.
        title: what the page is headed by.
        suite: the only one that is shown; None shows all, those that most runs have first.

    Raises:
        UserError: `suite` is given, and a run has no results of it.
    """
    suites = [suite] if suite else _list_suites(runs)
    tabs = {}
    for name in suites:
        # A suite that was named is an error where a run lacks it.
        measured = [run for run in runs if suite or name in run.suites]
        places = [(run.name, run.kind, run.folder) for run in measured]
        results = collect(places, name)
        if len(suites) > 1:
            num_measured = len(measured)
            heading = f"\n{name}"
            if num_measured < len(runs):
                heading += f" ({num_measured} of {len(runs)} runs have it)"
            print(heading)
        tabs[name] = insert_starts(results)
        print_table(tabs[name])

        means = average_over_seeds(results)
        if means:
            print(f"\n{name}: means over seeds")
            tab = name + OVER_SEEDS
            tabs[tab] = insert_starts(means)
            print_table(tabs[tab])

    page, notes = write_report(tabs, folder, title)
    for note in notes:
        logger.info(note)
    print(f"report: {page}")
    return page
