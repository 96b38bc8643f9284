"""Which runs go to the scheduler together: those of one kind that wait for the same parents, as one
job array."""

from collections.abc import Iterable
from dataclasses import dataclass

from unteach.studies.plan import PlannedRun


@dataclass(frozen=True)
class JobArray:
    """One job array: its runs in order, and the names of the runs that all of them wait for."""

    kind: str
    runs: tuple[PlannedRun, ...]
    after: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its runs."""
        return tuple(run.name for run in self.runs)


def group_into_arrays(
    plan: list[PlannedRun],
    max_size: int,
    submitted: Iterable[str] = (),
) -> list[JobArray]:
    """Group runs into arrays, parents' before children's.

    Args:
        plan: the runs that are not handed over yet.
        max_size: the most runs of an array.
        submitted: names of runs that have a job. A parent that is neither in the plan nor among
            these is done, and nobody waits for it.
    """
    not_done = set(submitted)
    for run in plan:
        not_done.add(run.name)
    groups: dict[tuple[str, tuple[str, ...]], list[PlannedRun]] = {}
    for run in plan:
        after = tuple(parent for parent in run.after if parent in not_done)
        key = (run.kind, after)
        groups.setdefault(key, []).append(run)
    arrays = []
    for (kind, after), runs in groups.items():
        for start in range(0, len(runs), max_size):
            part = runs[start : start + max_size]
            arrays.append(JobArray(kind, tuple(part), after))
    return arrays
