"""What can be compared: runs that forget the same set, whose gold standard is the same retain
model."""

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.pictures import MOST_LINES

SEPARATOR = ": "
"""Between a suite's name and the forget set whose runs alone are shown."""


def list_forget_sets(runs: list[RunResult]) -> list[str]:
    """List what the runs forget, or what their retain models never saw, in the runs' order."""
    forget_sets: dict[str, None] = {}
    for run in runs:
        if run.forgets and run.kind in ("forget", "retain"):
            forget_sets[run.forgets] = None
    return list(forget_sets)


def are_comparable(runs: list[RunResult]) -> bool:
    """Tell whether all forget the same, so that one retain model is the gold standard of all."""
    return len(list_forget_sets(runs)) < 2


RunsByTab = dict[str, list[RunResult]]
"""By what they are shown under: a suite, or a suite and a forget set."""


def split_by_forget_set(suites: RunsByTab) -> RunsByTab:
    """Add to the suites, after one whose runs forget several sets, the runs of each set with what
    belongs to none."""
    tabs = {}
    for name, runs in suites.items():
        tabs[name] = runs
        if are_comparable(runs):
            continue
        for forget_set in list_forget_sets(runs):
            tab = f"{name}{SEPARATOR}{forget_set}"
            tabs[tab] = [run for run in runs if run.forgets in (forget_set, "")]
    return tabs


def get_suite_name(tab: str) -> str:
    """Get the suite that wrote what is shown under a name of `split_by_forget_set`."""
    return tab.partition(SEPARATOR)[0]


def choose_drawn(runs: list[RunResult]) -> list[int]:
    """Choose the runs, by their places in the list, that have a line in a picture of lines: all or,
    of more than a picture can show, references first, and what is left evenly."""
    indices = range(len(runs))
    if len(runs) <= MOST_LINES:
        return list(indices)
    references = [index for index in indices if runs[index].kind in REFERENCES]
    others = [index for index in indices if runs[index].kind not in REFERENCES]
    chosen = _spread(references, MOST_LINES // 2)
    chosen += _spread(others, MOST_LINES - len(chosen))
    return sorted(chosen)


def _spread(indices: list[int], most: int) -> list[int]:
    """Choose so many of a list, evenly; all where it has no more."""
    if len(indices) <= most:
        return indices
    return [indices[step * len(indices) // most] for step in range(most)]


def note_drawn(runs: list[RunResult], drawn: list[int]) -> str:
    """Say, in a sentence of a picture's note, that not every run has a line in it."""
    if len(drawn) == len(runs):
        return ""
    return (
        f" Lines of {len(drawn)} of {len(runs):,} models are drawn: references, and others evenly; "
        "the table has all."
    )
