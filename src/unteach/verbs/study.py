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

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path

from unteach import console, fingerprints, run_dir
from unteach.config import compose, hydra_groups
from unteach.config.environment import environment
from unteach.errors import EXIT_DIVERGED, Diverged, UserError, unknown
from unteach.run_dir import RunState
from unteach.studies import compose_runs, gpu_slots, local, saved_plan, states
from unteach.studies.plan import PlannedRun
from unteach.studies.study_file import Study, study_of
from unteach.verbs.report import write as write_report
from unteach.wording import counted

COMMANDS = ("plan", "run", "submit", "status", "retry", "cancel", "report")
BEGUN = ("status", "cancel", "report")
"""Commands about a study that was begun: its own plan is asked before its file."""


def command(words: list[str], config_dirs: Iterable[str] = (), write: str | None = None) -> None:
    dirs = tuple(config_dirs)
    bare = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word and not word.startswith("study=")]
    asked = bare.pop(0) if bare else "run"
    if asked not in COMMANDS:
        raise UserError(unknown("study command", asked, COMMANDS))
    named = [word.partition("=")[2] for word in words if word.startswith("study=")] + bare
    if len(named) != 1:
        raise UserError(
            f"name one study: study=NAME; there are "
            f"{', '.join(hydra_groups.options('study', dirs))}"
        )
    if write is not None and asked != "plan":
        raise UserError(f"--write goes with `unteach study plan`, not with {asked}")
    study, only = load(named[0], overrides, dirs, kept_first=asked in BEGUN)
    if asked == "retry" and not overrides:
        study = saved_plan.as_begun(study)
    if only and asked not in ("run", "cancel"):
        raise UserError(f"`unteach study {asked}` takes a whole study; {named[0]} is one run of it")
    if asked == "plan":
        plan(study, write)
    elif asked == "run":
        carry_out_one(study, only) if only else carry_out(study)
    elif asked == "report":
        report(study, {run.name for run in study.plan if run_dir.is_done(Path(run.folder))})
    else:
        from unteach.verbs import study_jobs

        getattr(study_jobs, asked)(study, *([only] if asked == "cancel" else []))


def load(
    name: str, words: list[str], dirs: tuple[str, ...], kept_first: bool
) -> tuple[Study, PlannedRun | None]:
    """The study that a word names, and the one run of it where it names that too."""
    head, _, tail = name.rpartition("/")
    for study_name, run_name in ((name, ""), (head, tail)):
        begun = saved_plan.of_name(study_name) if study_name and not words else None
        if begun and (kept_first or run_name):
            return begun, _run_of(begun, run_name)
        if Path(study_name).is_file() or study_name in hydra_groups.options("study", dirs):
            study = study_of(study_name, words, dirs)
            return study, _run_of(study, run_name)
        if begun:
            return begun, _run_of(begun, run_name)
    return study_of(name, words, dirs), None


def _run_of(study: Study, name: str) -> PlannedRun | None:
    by_name = {run.name: run for run in study.plan}
    if name and name not in by_name:
        raise UserError(f"study {study.name}: {unknown('run', name, by_name)}")
    return by_name.get(name)


def plan(study: Study, write: str | None) -> None:
    compose_runs.check(study.plan, study.config_dirs)
    for run in study.plan:
        print(f"{run.name}  ({run.kind}{', after ' + ', '.join(run.after) if run.after else ''})")
    kinds = ", ".join(f"{count} {kind}" for kind, count in saved_plan.summary(study).items())
    print(f"{counted(len(study.plan), 'run')}: {kinds}")
    if write is not None:
        from unteach.studies import slurm_scripts

        saved_plan.open_study(study)
        print(f"scripts: {slurm_scripts.write(study, Path(write))}")


def carry_out(study: Study, opened: bool = False) -> Path:
    """Composes every run before the first starts, runs them, prints the table and writes the
    page."""
    environment()
    compose_runs.check(study.plan, study.config_dirs)
    if not opened:
        saved_plan.open_study(study)
    finished = [run.name for run in study.plan if _is_finished(run, study.config_dirs)]
    todo = [run for run in study.plan if run.name not in finished]
    if finished:
        which = (
            f"{len(finished)} of {counted(len(study.plan), 'run')}"
            if todo
            else counted(len(finished), "run")
        )
        print(f"finished before: {which} in {study.folder}; nothing of that is done again")
    outcomes = _execute(study, todo) if todo else []
    page = report(
        study, {*finished, *(outcome.run.name for outcome in outcomes if outcome.state == "done")}
    )
    for outcome in outcomes:
        if outcome.state != "done":
            console.say(f"{outcome.run.name} {outcome.state}: {outcome.reason}")
    if any(outcome.state != "done" for outcome in outcomes):
        lost = sum(outcome.state != "done" for outcome in outcomes)
        raise Diverged(f"{counted(lost, 'run')} did not finish (exit code {EXIT_DIVERGED})")
    return page


def _is_finished(run: PlannedRun, dirs: tuple[str, ...]) -> bool:
    """Say whether a training run stands finished, as its own command would find it: then it is not
    even started."""
    from unteach.verbs import train

    if run.kind == "eval" or not run_dir.is_done(Path(run.folder)):
        return False
    # its notes were said when all runs were composed
    with contextlib.redirect_stdout(io.StringIO()):
        config = compose.compose(run.config_name, run.overrides, dirs)
    if config.resume != "auto":
        return False
    try:
        folder, cache = Path(run.folder), Path(config.paths.cache_dir)
        state = run_dir.open_run(folder, config.tree, config.resume)
        if state is RunState.DONE:
            run_dir.refuse_changed_inputs(folder, cache / fingerprints.MEMORY_FILE)
    except UserError:  # another configuration's, or of other rows: its own command says it
        return False
    return state is RunState.DONE and train.is_evaluated(config)


def _execute(study: Study, plan: list[PlannedRun]) -> list[local.Outcome]:
    import unteach.evals.run
    import unteach.training.trainer  # noqa: F401  (once, before any child is forked)

    return local.execute(
        plan, lambda run: _run(run, study.config_dirs), gpu_slots.slots_of(study.local)
    )


def carry_out_one(study: Study, run: PlannedRun) -> None:
    """One run alone, whose parents are done; it ends with the run's own exit code."""
    environment()
    before = states.standings(study.plan)
    if waits := [
        f"{parent} ({before[parent].state})"
        for parent in run.after
        if before[parent].state != "done"
    ]:
        raise UserError(f"{run.name} waits for {', '.join(waits)}: carry those out first")
    if saved_plan.read(study.folder) is None:
        saved_plan.write(study)
    with states.claim(run):
        _run(run, study.config_dirs)


def _run(run: PlannedRun, dirs: tuple[str, ...]) -> None:
    from unteach.distributed import accelerate_launch
    from unteach.verbs import evaluate, train

    verb, module = ("eval", evaluate) if run.kind == "eval" else ("train", train)
    config = compose.compose(run.config_name, run.overrides, dirs, starting=True)
    if not accelerate_launch.started(verb, config, run.overrides, run.config_name, dirs):
        module.run(config)


def report(study: Study, done: set[str]) -> Path:
    """The tables in the terminal and the report in the study's folder, over all runs that were
    evaluated."""
    from unteach.report import collect, find, origin

    judged = [run for run in study.plan if run.name in done and "eval=null" not in run.overrides]
    kinds = {run.name: run.kind for run in study.plan}
    found = []
    for run in judged:
        folder = Path(run.folder)
        kind = run.kind
        # of the run that it waits for first, or of a model that this study does not make
        if kind == "eval":
            kind = kinds[run.after[0]] if run.after else origin.kind_of(folder)
        found.append(find.Found(run.name, kind, folder, collect.results_of(folder)))
    if not found:
        print("no run of it is finished and evaluated yet, so there is nothing to report")
        return study.folder
    return write_report(found, study.folder, f"Study {study.name}")
