"""How long the rest of a plan takes."""

from unteach.studies.plan import PlannedRun
from unteach.studies.time_left import TimeLeft, describe_time_left


def plan(*kinds: str) -> list[PlannedRun]:
    return [PlannedRun(f"{kind}{number}", kind, "train", ()) for number, kind in enumerate(kinds)]


def test_runs_of_a_kind_take_as_long_as_those_before() -> None:
    runs = plan("full", "forget", "forget", "audit", "audit")
    left = TimeLeft(runs, jobs=2)
    assert left.estimate() is None and describe_time_left(left) == ""
    for run, seconds in zip(runs, (10.0, 20.0, 40.0, 100.0), strict=False):
        left.end(run, seconds)
    assert left.estimate() == 100.0 / 2
    assert describe_time_left(left) == " (about 0:50 left)"
    left.end(runs[-1], 1.0)
    assert left.estimate() == 0 and describe_time_left(left) == ""


def test_runs_that_follow_count_too() -> None:
    runs = plan("forget", "audit")
    left = TimeLeft(runs, later=["audit", "audit"])
    left.end(runs[0], 10.0)
    assert left.estimate() is None
    left.end(runs[1], 20.0)
    assert left.estimate() == 40.0
