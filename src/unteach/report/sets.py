"""What can be compared: runs that forget the same set, whose gold standard is the same retain
model."""

from unteach.report.collect import RunResult

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
