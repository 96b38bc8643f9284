"""What can be compared: runs that forget the same set, whose gold standard is the same retain
model."""

from unteach.report.collect import RunResult

OF = ": "
"""Between a suite's name and the forget set whose runs alone are shown."""


def forgotten(runs: list[RunResult]) -> list[str]:
    """What the runs forget, or what their retain models never saw, in the runs' order."""
    return list(
        dict.fromkeys(
            run.forgets for run in runs if run.forgets and run.kind in ("forget", "retain")
        )
    )


def comparable(runs: list[RunResult]) -> bool:
    """Whether all forget the same, so that one retain model is the gold standard of all."""
    return len(forgotten(runs)) < 2


def apart(suites: dict[str, list[RunResult]]) -> dict[str, list[RunResult]]:
    """The suites, and after one whose runs forget several sets, the runs of each set with what
    belongs to none."""
    found = {}
    for name, runs in suites.items():
        found[name] = runs
        for data in [] if comparable(runs) else forgotten(runs):
            found[f"{name}{OF}{data}"] = [run for run in runs if run.forgets in (data, "")]
    return found


def suite_of(name: str) -> str:
    """The suite that wrote what is shown under a name of `apart`."""
    return name.partition(OF)[0]
