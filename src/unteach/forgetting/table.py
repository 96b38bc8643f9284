"""The candidates of a request beside each other, on the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unteach.forgetting.choice import Candidate
from unteach.forgetting.leak import Leak
from unteach.forgetting.leak_by_budget import LeakAtBudget
from unteach.whole_tables import print_whole

MISSING = "–"
HEADS = ("asked politely", "any attack", "control", "KL", "kept", "time")


def print_candidates(candidates: Sequence[Candidate], chosen: Candidate) -> None:
    """Print what is left of the facts in each candidate, and what it cost."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("method", no_wrap=True)
    for head in HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for candidate in sorted(candidates, key=lambda one: (one.a == 0, one.leak.worst)):
        style = "bold" if candidate is chosen else ""
        kept = MISSING if candidate.kept is None else f"{candidate.kept:.0%}"
        cells = [
            f"{candidate.leak.clean:.0%}",
            f"{candidate.leak.worst:.0%}",
            f"{candidate.leak.control:.0%}",
            f"{candidate.kl:.3g}" if candidate.a else "could not land",
            kept,
            f"{candidate.seconds:.0f} s",
        ]
        table.add_row(candidate.method, *cells, style=style)
    print_whole(table)


def print_leaks(leaks: Sequence[LeakAtBudget]) -> None:
    """Print what the chosen method leaves at each budget."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for head in ("budget", "KL", "asked politely", "any attack", "control", "a leak"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in leaks:
        table.add_row(
            f"{one.budget:g}",
            f"{one.kl:.3g}",
            f"{one.leak.clean:.0%}",
            f"{one.leak.worst:.0%}",
            f"{one.leak.control:.0%}",
            describe_leak(one.leak),
        )
    print_whole(table)


def describe_leak(leak: Leak) -> str:
    """Say in a word whether a leak was found."""
    if leak.is_found:
        return "found"
    return "none found" if leak.is_tested else "untested"
