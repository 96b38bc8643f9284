"""`unteach study plan|run study=NAME [key=value …]`: many runs, the order between them, one table and one page.

A study is a file in configs/study/ (yours: --config-dir FOLDER with study/NAME.yaml), or study=PATH.yaml. Words that
name something under `vary` replace its values; all others go to every run. jobs=N carries out N runs at a time.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from unteach import compose
from unteach.errors import EXIT_DIVERGED, Diverged, UserError, unknown
from unteach.launch import local
from unteach.launch.plan import PlannedRun, expand
from unteach.verbs.report import write


def command(words: list[str], config_dirs: Iterable[str] = ()) -> None:
    dirs = tuple(config_dirs)
    asked = [word for word in words if "=" not in word] or ["run"]
    if asked not in (["plan"], ["run"]):
        raise UserError(unknown("study command", " ".join(asked), ("plan", "run")))
    overrides = [word for word in words if "=" in word and not word.startswith("study=")]
    chosen = [word.partition("=")[2] for word in words if word.startswith("study=")]
    if len(chosen) != 1:
        raise UserError(f"name one study: study=NAME; there are {', '.join(compose.options('study', dirs))}")
    jobs = [word.partition("=")[2] for word in overrides if word.startswith("jobs=")]
    if jobs and not jobs[-1].isdigit():
        raise UserError(f"jobs={jobs[-1]}: must be a whole number, how many runs at a time")
    study, extra = vary(read(chosen[0], dirs), [word for word in overrides if not word.startswith("jobs=")])
    plan = expand(study, extra=extra)
    if asked == ["plan"]:
        for run in plan:
            print(f"{run.name}  ({run.kind}{', after ' + ', '.join(run.after) if run.after else ''})")
        return
    carry_out(study["name"], plan, dirs, int(jobs[-1]) if jobs else 1)


def read(name: str, config_dirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """The study's mapping, from configs/study/, a user's folder, or a path."""
    folders = [*map(Path, config_dirs), compose.CONFIGS]
    homes = [Path(name), *(folder / "study" / f"{name}.yaml" for folder in folders)]
    found = next((path for path in homes if path.is_file()), None)
    if found is None:
        raise UserError(f"study={name}: " + unknown("study", name, compose.options("study", config_dirs)))
    study = yaml.safe_load(found.read_text(encoding="utf-8"))
    if not isinstance(study, dict):
        raise UserError(f"{found}: a study is a mapping with name, full, retain, forget, vary, eval")
    return study


def vary(study: dict[str, Any], words: Iterable[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Puts words on a study: a varied key takes the word's value, and the study a name that says so."""
    varied, extra, changed = dict(study.get("vary") or {}), [], []
    for word in words:
        key, _, value = word.partition("=")
        if key in varied:
            values = yaml.safe_load(value)
            values = values if isinstance(values, list) else [values]
            if values != varied[key]:
                changed.append(f"{key.split('.')[-1]}{'+'.join(map(str, values))}")
            varied[key] = values
        else:
            extra.append(word)
    return {**study, "name": "-".join([study["name"], *changed]), "vary": varied}, tuple(extra)


def carry_out(name: str, plan: list[PlannedRun], config_dirs: tuple[str, ...] = (), jobs: int = 1) -> Path:
    """Composes every run before the first starts, runs them, prints the table and writes the page."""
    compose.environment()
    configs = {run.name: compose.compose(run.config_name, run.overrides, config_dirs) for run in plan}
    import unteach.evals.run
    import unteach.training.trainer  # noqa: F401  (once, before any child is forked)
    from unteach.verbs import evaluate, train

    outcomes = local.execute(plan, lambda run: (evaluate if run.kind == "eval" else train).run(configs[run.name]), jobs)
    page = report(name, plan, {outcome.run.name for outcome in outcomes if outcome.state == "done"})
    for outcome in outcomes:
        if outcome.state != "done":
            print(f"{outcome.run.name} {outcome.state}: {outcome.reason}")
    if any(outcome.state != "done" for outcome in outcomes):
        raise Diverged(f"{sum(o.state != 'done' for o in outcomes)} runs did not finish (exit code {EXIT_DIVERGED})")
    return page


def report(name: str, plan: list[PlannedRun], done: set[str]) -> Path:
    """The tables in the terminal and the report in the study's folder, over all runs that were evaluated."""
    from unteach.report import collect, find

    judged = [run for run in plan if run.name in done and "eval=null" not in run.overrides]
    found = [find.Found(run.name, run.kind, f := Path(run.folder), collect.results_of(f)) for run in judged]
    return write(found, Path(plan[0].folder).parent, f"Study {name}")
