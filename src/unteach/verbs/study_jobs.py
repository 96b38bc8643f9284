"""What `unteach study` does about runs that are under way: submit, status, retry, cancel."""

import logging
from collections import Counter

from unteach import console
from unteach.studies import compose_runs, saved_plan, slurm, states
from unteach.studies.plan import PlannedRun
from unteach.studies.study_file import Study
from unteach.verbs import study_runs
from unteach.wording import format_count

logger = logging.getLogger(__name__)
MOST_CHARACTERS = 200
"""Of a reason that a line of the status shows."""


def submit(study: Study) -> None:
    """Compose every run, keep the plan, and hand over to Slurm what is not there yet."""
    compose_runs.check(study.plan, study.config_dirs)
    saved_plan.open_study(study)
    _hand_over(study, again=False)


def _hand_over(study: Study, again: bool) -> None:
    """Submit runs to Slurm and say how many.

    Args:
        again: hand over once more what failed.
    """
    count, notes = slurm.submit(study, again)
    num_runs = len(study.plan)
    print(
        f"submitted {count} of {num_runs} runs; `unteach study status {study.name}` says how they "
        "stand"
    )
    for note in notes:
        logger.info(note)


def status(study: Study) -> None:
    """Print one line for all, and one for each run that is under way or in trouble."""
    standings = slurm.read_standings(study)
    num_by_state = Counter(standing.state for standing in standings.values())
    counts = []
    for state in states.STATES:
        if num_by_state[state]:
            counts.append(f"{num_by_state[state]} {state}")
    num_runs = format_count(len(study.plan), "run")
    print(f"{study.name}: {num_runs}: {', '.join(counts)}")

    for run in study.plan:
        standing = standings[run.name]
        if standing.state in ("done", "to do"):
            continue
        line = f"  {run.name}  {standing.state}"
        if standing.progress is not None:
            line += f" {standing.progress:.0%}"
        if standing.job:
            line += f" [job {standing.job}]"
        reason = " ".join(standing.reason.split())
        if reason:
            line += f": {reason[:MOST_CHARACTERS]}"
        console.say(line)


def retry(study: Study) -> None:
    """Do what failed once more, where the study was carried out.

    After a change of its file, runs that the change touches are left out.
    """
    study, left_out = saved_plan.drop_changed_runs(study)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    if slurm.was_handed_over(study):
        compose_runs.check(study.plan, study.config_dirs)
        _hand_over(study, again=True)
    else:
        study_runs.carry_out(study, opened=True)


def cancel(study: Study, only: PlannedRun | None) -> None:
    """Stop what runs or waits, here and in the queue.

    Args:
        only: the one run that is meant; None means all.
    """
    plan = [only] if only else study.plan
    cancelled = slurm.cancel(study, plan) + states.stop(plan)
    if cancelled:
        print(f"cancelled: {', '.join(cancelled)}")
    else:
        print("nothing of it runs or waits")
