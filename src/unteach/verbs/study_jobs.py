"""What `unteach study` does about runs that are under way: submit, status, retry, cancel."""

import logging
from collections import Counter

from unteach import console
from unteach.studies import compose_runs, saved_plan, slurm, states
from unteach.studies.plan import PlannedRun
from unteach.studies.study_file import Study
from unteach.verbs import study_runs
from unteach.wording import counted

logger = logging.getLogger(__name__)
TOLD = 200
"""Characters of a reason that a line of the status shows."""


def submit(study: Study) -> None:
    """Composes every run, keeps the plan, and hands over to Slurm what is not there yet."""
    compose_runs.check(study.plan, study.config_dirs)
    saved_plan.open_study(study)
    _hand_over(study, again=False)


def _hand_over(study: Study, again: bool) -> None:
    count, notes = slurm.submit(study, again)
    print(
        f"submitted {count} of {len(study.plan)} runs; `unteach study status {study.name}` says "
        f"how they stand"
    )
    for note in notes:
        logger.info(note)


def status(study: Study) -> None:
    """One line for all, and one for each run that is under way or in trouble."""
    found = slurm.read_standings(study)
    num_by_state = Counter(one.state for one in found.values())
    summary = ", ".join(
        f"{num_by_state[state]} {state}" for state in states.STATES if num_by_state[state]
    )
    print(f"{study.name}: {counted(len(study.plan), 'run')}: {summary}")
    for run in study.plan:
        one = found[run.name]
        if one.state in ("done", "to do"):
            continue
        far = f" {one.progress:.0%}" if one.progress is not None else ""
        job = f" [job {one.job}]" if one.job else ""
        reason = " ".join(one.reason.split())
        console.say(f"  {run.name}  {one.state}{far}{job}{': ' if reason else ''}{reason[:TOLD]}")


def retry(study: Study) -> None:
    """What failed once more, where the study was carried out; after a change of its file, what that
    does not touch."""
    study, left_out = saved_plan.drop_changed_runs(study)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    if slurm.was_handed_over(study):
        compose_runs.check(study.plan, study.config_dirs)
        _hand_over(study, again=True)
    else:
        study_runs.carry_out(study, opened=True)


def cancel(study: Study, only: PlannedRun | None) -> None:
    """Stops what runs or waits, here and in the queue."""
    plan = [only] if only else study.plan
    asked = slurm.cancel(study, plan) + states.stop(plan)
    print(f"cancelled: {', '.join(asked)}" if asked else "nothing of it runs or waits")
