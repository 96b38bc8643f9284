"""Which runs go to the scheduler together: those of one kind that wait for the same parents, as one
job array."""

from collections.abc import Iterable
from dataclasses import dataclass

from unteach.studies.plan import PlannedRun


@dataclass(frozen=True)
class Batch:
    """One job array: its runs in order, and the runs that all of them wait for."""

    kind: str
    runs: tuple[PlannedRun, ...]
    after: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(run.name for run in self.runs)


def batches(plan: list[PlannedRun], largest: int, under_way: Iterable[str] = ()) -> list[Batch]:
    """The batches of a plan, parents' before children's, none of more than `largest` runs.

    A parent that is neither in the plan nor under way is done already, and nobody waits for it.
    """
    there = {run.name for run in plan} | set(under_way)
    groups: dict[tuple[str, tuple[str, ...]], list[PlannedRun]] = {}
    for run in plan:
        after = tuple(parent for parent in run.after if parent in there)
        groups.setdefault((run.kind, after), []).append(run)
    return [
        Batch(kind, tuple(runs[start : start + largest]), after)
        for (kind, after), runs in groups.items()
        for start in range(0, len(runs), largest)
    ]
