"""What `unteach study` does about runs that are under way: submit, status, retry, cancel."""

from collections import Counter
from typing import Any

from unteach import compose
from unteach.launch import composing, kept, states
from unteach.launch.plan import PlannedRun
from unteach.launch.studyfile import Study

TOLD = 200
"""Characters of a reason that a line of the status shows."""


def status(study: Study) -> None:
    """One line for all, and one for each run that is not done."""
    found = standings(study)
    counted = Counter(one.state for one in found.values())
    summary = ", ".join(f"{counted[state]} {state}" for state in states.STATES if counted[state])
    print(f"{study.name}: {len(study.plan)} runs: {summary}")
    for run in study.plan:
        one = found[run.name]
        if one.state in ("done", "to do"):
            continue
        far = f" {one.progress:.0%}" if one.progress is not None else ""
        job = f" [job {one.job}]" if one.job else ""
        reason = " ".join(one.reason.split())
        print(f"  {run.name}  {one.state}{far}{job}{': ' if reason else ''}{reason[:TOLD]}")


def standings(study: Study) -> dict[str, states.Standing]:
    return states.standings(study.plan)


def retry(study: Study) -> None:
    from unteach.verbs import study as verb

    study, left_out = kept.unaffected(study)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    verb.carry_out(study)


def cancel(study: Study, only: PlannedRun | None) -> None:
    asked: list[Any] = states.stop([only] if only else study.plan)
    print(f"asked to save and stop: {', '.join(asked)}" if asked else "nothing of it runs or waits")


def submit(study: Study) -> None:
    compose.environment()
    composing.check(study.plan, study.config_dirs)
    kept.open_study(study)
