"""One colour a run, the same wherever a report shows it: in its tables, pictures, curves and
answers."""

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.families import OVER_SEEDS

TINTS = ("#2f6fb3", "#c2572b", "#6d5bb0", "#0f766e", "#b0417f", "#6b7f1a", "#8a5a3c", "#2a9d5c")
"""As the page's style has them; a run after the last one begins again, with another dash."""
REFERENCE_TINTS = {"base": "#98a0a8", "start": "#7a5c1e", "full": "#46515c", "retain": "#b07d12"}


def assign_tints(suites: dict[str, list[RunResult]]) -> dict[str, int]:
    """Number the runs that are no reference, by name, in the order in which they come over all
    suites.

    Means over seeds are numbered by themselves: they never stand in one picture with the runs that
    they are of.
    """
    numbers: dict[bool, dict[str, int]] = {False: {}, True: {}}
    for suite, runs in suites.items():
        own = numbers[OVER_SEEDS in suite]
        for run in runs:
            if run.kind not in REFERENCES:
                own.setdefault(run.name, len(own))
    return {**numbers[True], **numbers[False]}


def tint_of(run: RunResult, tints: dict[str, int]) -> str:
    """Give a run's colour as a picture's file has it."""
    if run.kind in REFERENCES:
        return REFERENCE_TINTS[run.kind]
    return TINTS[tints[run.name] % len(TINTS)]
