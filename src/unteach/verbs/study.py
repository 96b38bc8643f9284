"""`unteach study plan|run|submit|status|retry|cancel|report NAME[/RUN] [key=value …]`: many runs
and their order.

A study is a file in configs/study/ (yours: --config-dir FOLDER with study/NAME.yaml), a path, or
one of ARC's top configurations; study=NAME says the same. Words that name something under `vary`
replace its values, `local.…` (jobs=N: N runs at a time) and `slurm.…` set the executors, and all
others go to every run.

plan    the runs and their order; --write FOLDER: job scripts to submit by hand
run     carries it out on this machine; NAME/RUN: that run alone
submit  hands it to Slurm: again, it hands over what is not there yet
status  how each run stands
retry   failed, diverged and cancelled runs once more; after a change of the file, those it leaves
cancel  stops what runs or waits; the same command goes on with it later
report  the table and the page of what is done
"""

from pathlib import Path

from unteach import run_dir
from unteach.config import groups
from unteach.config.verb_configs import StudyConfig
from unteach.errors import UserError, describe_unknown
from unteach.studies import compose_runs, saved_plan, slurm_scripts
from unteach.studies.plan import PlannedRun
from unteach.studies.study_file import Study, read_study
from unteach.verbs import study_jobs, study_runs
from unteach.wording import format_count

BEGUN = ("status", "cancel", "report")
"""Actions on a study that was begun: its own plan is asked before its file."""


def run(config: StudyConfig) -> None:
    """Do with a study, or with one run of it, what is asked for."""
    action = config.action
    study, only = load(
        config.name,
        list(config.overrides),
        config.config_dirs,
        kept_first=action in BEGUN,
    )
    if only and action not in ("run", "cancel"):
        raise UserError(
            f"`unteach study {action}` takes a whole study; {config.name} is one run of it"
        )
    if action == "plan":
        plan(study, config.write)
    elif action == "run" and only:
        study_runs.carry_out_one(study, only)
    elif action == "run":
        study_runs.carry_out(study)
    elif action == "report":
        done = {run.name for run in study.plan if run_dir.is_done(Path(run.folder))}
        study_runs.report(study, done)
    elif action == "submit":
        study_jobs.submit(study)
    elif action == "status":
        study_jobs.status(study)
    elif action == "retry":
        study_jobs.retry(study if config.overrides else saved_plan.reload(study))
    else:
        study_jobs.cancel(study, only)


def load(
    name: str,
    words: list[str],
    dirs: tuple[str, ...],
    kept_first: bool,
) -> tuple[Study, PlannedRun | None]:
    """Find the study that a word names, and the one run of it where it names that too.

    Args:
        name: a study, or a study and a run of it with a stroke between.
        words: what a study's file is changed by; a study that was begun takes none.
        kept_first: whether a begun study's own plan is asked before its file.
    """
    head, _, tail = name.rpartition("/")
    for study_name, run_name in ((name, ""), (head, tail)):
        begun = None
        if study_name and not words:
            begun = saved_plan.find_begun(study_name)
        if begun and (kept_first or run_name):
            return begun, _find_run(begun, run_name)
        if Path(study_name).is_file() or study_name in groups.list_options("study", dirs):
            study = read_study(study_name, words, dirs)
            return study, _find_run(study, run_name)
        if begun:
            return begun, _find_run(begun, run_name)
    return read_study(name, words, dirs), None


def _find_run(study: Study, name: str) -> PlannedRun | None:
    """Find a run of a study by its name; None where no name is given."""
    by_name = {run.name: run for run in study.plan}
    if name and name not in by_name:
        problem = describe_unknown("run", name, by_name)
        raise UserError(f"study {study.name}: {problem}")
    return by_name.get(name)


def plan(study: Study, write: str | None) -> None:
    """Print the runs and their order, and write job scripts into a folder where one is named."""
    compose_runs.check(study.plan, study.config_dirs)
    for run in study.plan:
        facts = run.kind
        if run.after:
            facts += f", after {', '.join(run.after)}"
        print(f"{run.name}  ({facts})")
    kinds = [f"{count} {kind}" for kind, count in saved_plan.count_kinds(study).items()]
    num_runs = format_count(len(study.plan), "run")
    print(f"{num_runs}: {', '.join(kinds)}")
    if write is not None:
        saved_plan.open_study(study)
        scripts = slurm_scripts.write_scripts(study, Path(write))
        print(f"scripts: {scripts}")
