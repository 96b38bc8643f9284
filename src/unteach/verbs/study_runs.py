"""The runs of a study on this machine, all or one of them, and the report over what is done."""

from pathlib import Path

from unteach import console, fingerprints, logs, run_dir
from unteach.config import compose
from unteach.config.schema import TrainConfig
from unteach.config.verb_options import Options
from unteach.errors import EXIT_DIVERGED, Diverged, LeakFound, UserError, require_extra
from unteach.json_files import read_json
from unteach.report import collect, find, origin
from unteach.run_dir import RunState
from unteach.studies import compose_runs, gpu_slots, local, saved_plan, states
from unteach.studies.plan import AUDIT, PlannedRun
from unteach.studies.study_file import Study
from unteach.training import run_state
from unteach.verbs.report import NEEDED_FOR, report_runs
from unteach.verbs.start_composed import start_composed
from unteach.wording import format_count


def carry_out(study: Study, opened: bool = False) -> Path:
    """Compose every run before the first starts, run them, print the table and write the page.

    Args:
        opened: that the study's folder has its plan already.

    Raises:
        Diverged: some run did not finish.
        LeakFound: all did, and an audit found more than its `fail_if` allows.
    """
    require_extra("report", NEEDED_FOR)
    compose_runs.check(study.plan, study.config_dirs)
    if not opened:
        saved_plan.open_study(study)

    done: set[str] = set()
    for run in study.plan:
        if _is_finished(run, study.config_dirs, done):
            done.add(run.name)
    todo = [run for run in study.plan if run.name not in done]
    if done:
        count = format_count(len(study.plan), "run")
        if todo:
            count = f"{len(done)} of {count}"
        print(f"finished before: {count} in {study.folder}; nothing of that is done again")

    unfinished: list[local.Outcome] = []
    for outcome in _execute(study, todo) if todo else []:
        if outcome.state == "done":
            done.add(outcome.run.name)
        else:
            unfinished.append(outcome)
    page = report(study, done)
    for outcome in unfinished:
        console.say(f"{outcome.run.name} {outcome.state}: {outcome.reason}")
    if unfinished:
        count = format_count(len(unfinished), "run")
        raise Diverged(f"{count} did not finish (exit code {EXIT_DIVERGED})")
    _raise_leaks(study, done)
    return page


def _raise_leaks(study: Study, done: set[str]) -> None:
    """Raise LeakFound where audits of a study found more than their `fail_if` allows."""
    leaks = []
    for run in study.plan:
        if run.kind != AUDIT or run.name not in done:
            continue
        summary = read_json(Path(run.folder) / run_dir.AUDIT_SUMMARY, "the summary of an audit")
        bound = summary.get("fail_if") or {}
        if bound.get("is_met"):
            leaks.append(f"{run.name}: audit.fail_if: {bound['name']} is {bound['rate']:.4g}")
    if leaks:
        raise LeakFound("\n".join(leaks))


def _is_finished(run: PlannedRun, dirs: tuple[str, ...], finished: set[str]) -> bool:
    """Say whether a training run or an audit stands finished, as its own command would find it:
    then it is not even started.

    Args:
        finished: the names of those before it that are; an audit is of them.
    """
    if run.kind == "eval" or not run_dir.is_done(Path(run.folder)):
        return False
    if run.kind == AUDIT and not finished.issuperset(run.after):
        return False
    # its notes were said when all runs were composed
    with logs.collect_notes():
        config = compose.compose(run.config_name, run.overrides, dirs)
    if config.resume != "auto":
        return False
    folder = Path(run.folder)
    memory_file = Path(config.paths.cache_dir) / fingerprints.MEMORY_FILE
    try:
        state = run_dir.open_run(folder, config.tree, config.resume)
        if state is not RunState.DONE:
            return False
        run_dir.refuse_changed_inputs(folder, memory_file)
    except UserError:  # another configuration's, or of other rows: its own command says it
        return False
    return not isinstance(config, TrainConfig) or run_state.is_evaluated(config)


def _execute(study: Study, plan: list[PlannedRun]) -> list[local.Outcome]:
    """Carry runs out beside each other, in children of this process."""
    # Once for all children, and only now that all runs are known to be right: it costs torch.
    import unteach.evals.run
    import unteach.training.trainer  # noqa: F401

    slots = gpu_slots.build_slots(study.local)
    return local.execute(plan, lambda run: _run(run, study.config_dirs), slots)


def carry_out_one(study: Study, run: PlannedRun) -> None:
    """Carry out one run alone, whose parents are done; it ends with the run's own exit code.

    Raises:
        LeakFound: it is an audit that found more than its `fail_if` allows; it is done.
    """
    standings = states.read_standings(study.plan)
    parents = []
    for parent in run.after:
        state = standings[parent].state
        if state != "done":
            parents.append(f"{parent} ({state})")
    if parents:
        raise UserError(f"{run.name} waits for {', '.join(parents)}: carry those out first")
    if saved_plan.read(study.folder) is None:
        saved_plan.write(study)
    with states.claim(run):
        _run(run, study.config_dirs)
    _raise_leaks(study, {run.name})


def _run(run: PlannedRun, dirs: tuple[str, ...]) -> None:
    """Carry one run out, as its own command would, but for an audit that found a leak: it is done,
    and whoever called raises it once that is recorded."""
    verb = run.kind if run.kind in ("eval", AUDIT) else "train"
    options = Options(run.config_name, dirs)
    try:
        start_composed(verb, list(run.overrides), options)
    except LeakFound as leak:
        console.say(str(leak))


def report(study: Study, done: set[str]) -> Path:
    """Print the tables and write the report into the study's folder, over all runs that were
    evaluated.

    Args:
        done: the names of the runs that are finished.

    Returns:
        The page's path; the study's folder where there is nothing to report.
    """
    require_extra("report", NEEDED_FOR)
    kinds = {run.name: run.kind for run in study.plan}
    evaluated = []
    for run in study.plan:
        is_measured = run.kind != AUDIT and "eval=null" not in run.overrides
        if run.name not in done or not is_measured:
            continue
        folder = Path(run.folder)
        kind = run.kind
        # of the run that it waits for first, or of a model that this study does not make
        if kind == "eval" and run.after:
            kind = kinds[run.after[0]]
        elif kind == "eval":
            kind = origin.infer_kind(folder)
        evaluated_run = find.EvaluatedRun(
            name=run.name,
            kind=kind,
            folder=folder,
            suites=collect.list_suites(folder),
        )
        evaluated.append(evaluated_run)
    if not evaluated:
        print("no run of it is finished and evaluated yet, so there is nothing to report")
        return study.folder
    return report_runs(evaluated, study.folder, f"Study {study.name}")
