"""How long the rest of a plan will take, by the runs of the same kind that are over."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean

from unteach import console
from unteach.studies.plan import PlannedRun


class TimeLeft:
    """Learns from runs that end how long those will take that are left.

    Args:
        plan: all runs that are to be carried out.
        jobs: how many run at a time.
        later: the kinds of runs that follow when these are over.
    """

    def __init__(self, plan: Iterable[PlannedRun], jobs: int = 1, later: Iterable[str] = ()):
        self.num_left = Counter([*(run.kind for run in plan), *later])
        self.jobs = jobs
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def end(self, run: PlannedRun, seconds: float) -> None:
        """Learn that a run is over, and how long it took."""
        self.num_left[run.kind] -= 1
        self.seconds[run.kind].append(seconds)

    def estimate(self) -> float | None:
        """Estimate the seconds that are left; None where a kind of run has never ended yet."""
        total = 0.0
        for kind, count in self.num_left.items():
            if count and kind not in self.seconds:
                return None
            if count:
                total += count * fmean(self.seconds[kind])
        return total / self.jobs


def describe_time_left(time_left: TimeLeft) -> str:
    """Say how long the rest will take, behind what is said already; "" where nobody knows."""
    seconds = time_left.estimate()
    return "" if not seconds else f" (about {console.format_duration(seconds)} left)"
