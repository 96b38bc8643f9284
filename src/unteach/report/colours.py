"""The palette, and one colour a run, the same wherever a report shows it.

A colour is named here and in page.css; a picture on the page takes the page's, which has another
shade for the dark.
"""

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.families import OVER_SEEDS
from unteach.report.pictures import LineStyle

TINTS = ("#2f6fb3", "#c2572b", "#6d5bb0", "#0f766e", "#b0417f", "#6b7f1a", "#8a5a3c", "#2a9d5c")
"""Of the runs that are no reference, in turn; a run after the last one begins again, with another
dash."""
REFERENCE_TINTS = {"base": "#98a0a8", "start": "#7a5c1e", "full": "#46515c", "retain": "#b07d12"}
PALETTE = {
    "ink": "#22262b",
    "soft": "#6a7178",
    "grid": "#efece6",
    "gold": "#b07d12",
    "accent": "#0f766e",
    "raised": "#ffffff",
    **{f"line{number}": tint for number, tint in enumerate(TINTS)},
    **REFERENCE_TINTS,
}
DASHES: tuple[LineStyle, ...] = ("solid", "dashed", "dotted", "dashdot")

Tints = dict[str, int]
"""The runs' numbers of colours, by their names."""


def assign_tints(tabs: dict[str, list[RunResult]]) -> Tints:
    """Number the runs that are no reference, by name, in the order in which they come over all
    tabs.

    Means over seeds are numbered by themselves: they never stand in one picture with the runs that
    they are of.
    """
    of_runs: Tints = {}
    of_means: Tints = {}
    for tab, runs in tabs.items():
        numbers = of_means if OVER_SEEDS in tab else of_runs
        for run in runs:
            if run.kind not in REFERENCES:
                numbers.setdefault(run.name, len(numbers))
    return {**of_means, **of_runs}


def get_colour(run: RunResult, tints: Tints) -> str:
    """Get a run's colour, by its name in the palette."""
    if run.kind in REFERENCES:
        return run.kind
    return f"line{tints[run.name] % len(TINTS)}"


def get_dash(run: RunResult, tints: Tints) -> LineStyle:
    """Get how a run's line is dashed, which tells runs of one colour apart."""
    if run.kind in REFERENCES:
        return "solid"
    return DASHES[tints[run.name] // len(TINTS) % len(DASHES)]
