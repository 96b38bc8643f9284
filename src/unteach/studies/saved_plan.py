"""The plan as it was when a study began: <study>/plan.json, against which a changed study file is
held."""

import contextlib
import dataclasses
from collections import Counter
from pathlib import Path

from unteach import atomic, json_files, owner, run_dir
from unteach.errors import UserError, refuse_unreadable
from unteach.studies import settings, states
from unteach.studies.plan import PlannedRun
from unteach.studies.study_file import ROOT, Study, study_of

FILE = "plan.json"


def write(study: Study) -> None:
    value = {
        "name": study.name,
        "source": study.source,
        "words": study.words,
        "config_dirs": [str(Path(folder).resolve()) for folder in study.config_dirs],
        "local": dataclasses.asdict(study.local),
        "slurm": dataclasses.asdict(study.slurm),
        "runs": [dataclasses.asdict(run) for run in study.plan],
    }
    atomic.write_json(study.folder / FILE, value)


def read(folder: Path) -> Study | None:
    """The study that was begun in a folder; None where none was."""
    if not (folder / FILE).exists():
        return None
    value = json_files.read_json(folder / FILE, "the study's plan")
    with refuse_unreadable(
        str(folder / FILE), "is no plan of a study", KeyError, TypeError, AttributeError
    ):
        plan = [
            PlannedRun(
                run["name"],
                run["kind"],
                run["config_name"],
                tuple(run["overrides"]),
                tuple(run["after"]),
            )
            for run in value["runs"]
        ]
        own = settings.read_local(value["local"]), settings.read_slurm(value["slurm"])
        return Study(
            value["name"],
            plan,
            tuple(value["config_dirs"]),
            *own,
            value["source"],
            tuple(value["words"]),
        )


def of_name(name: str) -> Study | None:
    """The begun study of a name, or of its folder."""
    return read(Path(ROOT) / name) or read(Path(name))


def as_begun(study: Study) -> Study:
    """The study's file as it is now, with the words that the study was begun with."""
    before = read(study.folder)
    if before is None or not Path(before.source).is_file():
        return before or study
    return study_of(before.source, before.words, before.config_dirs)


def changes(old: list[PlannedRun], new: list[PlannedRun]) -> dict[str, str]:
    """Run -> what a study file says of it now and did not before. A run that was added is no
    change."""
    now = {run.name: run for run in new}
    found = {}
    for run in old:
        if run.name not in now:
            found[run.name] = "is gone"
        elif told := _changed(run, now[run.name]):
            found[run.name] = "; ".join(told)
    return found


def _changed(old: PlannedRun, new: PlannedRun) -> list[str]:
    before, after = _words(old), _words(new)
    told = [
        f"{key}: {before.get(key, 'unset')} -> {after.get(key, 'unset')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and not key.startswith(run_dir.MAY_CHANGE)
    ]
    told += [f"waits for {', '.join(new.after) or 'nothing'}"] if old.after != new.after else []
    return told + ([f"kind: {old.kind} -> {new.kind}"] if old.kind != new.kind else [])


def _words(run: PlannedRun) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in run.overrides)


def changes_of_begun(before: Study, study: Study) -> dict[str, str]:
    """The changes of runs that have begun. One that failed before its first step may be mended,
    renamed or left out."""
    begun = {run.name for run in before.plan if states.begun(run)}
    return {name: what for name, what in changes(before.plan, study.plan).items() if name in begun}


def open_study(study: Study) -> None:
    """Keeps the plan; refuses one that says something else of a run that has begun."""
    before = read(study.folder)
    if before is not None and not any(
        word == "resume=never" for run in study.plan for word in run.overrides
    ):
        changed = changes_of_begun(before, study)
        if changed:
            lines = "\n".join(f"  {name}: {what}" for name, what in changed.items())
            raise UserError(
                f"{study.folder} was begun with another study; these runs have begun and are said "
                f"otherwise now:\n"
                f"{lines}\n  Take the change back, give the study another name, or `unteach study "
                f"retry {study.name}` "
                "to go on with the runs that it does not touch."
            )
    write(study)
    _remove_leftovers(study)


def _remove_leftovers(study: Study) -> None:
    """Remove what killed processes left of runs that are done: no run will write there again."""
    for folder in {states.state_file(run).parent for run in study.plan}:
        atomic.remove_stale_temp_files(folder)
    for folder in (Path(run.folder) for run in study.plan):
        if run_dir.is_done(folder) and owner.find_lock(folder).exists():
            with contextlib.suppress(owner.Busy), owner.own(folder):
                pass  # which takes the lock's file away at its end


def unaffected(study: Study) -> tuple[Study, dict[str, str]]:
    """The study's runs, without those that a change touches, or whose parent it does, after they
    had begun; and why."""
    before = read(study.folder)
    if before is None:
        return study, {}
    left_out = changes_of_begun(before, study)
    for run in study.plan:
        lost = [parent for parent in run.after if parent in left_out]
        if lost and run.name not in left_out:
            left_out[run.name] = f"waits for {', '.join(lost)}"
    plan = [run for run in study.plan if run.name not in left_out]
    if not plan:
        told = "\n".join(f"  {name}: {what}" for name, what in left_out.items())
        raise UserError(
            f"{study.folder} was begun with another study, and the change touches every "
            f"run:\n{told}"
        )
    was = {run.name: run for run in before.plan if run.name in left_out}
    write(dataclasses.replace(study, plan=plan + list(was.values())))
    return dataclasses.replace(study, plan=plan), left_out


def summary(study: Study) -> dict[str, int]:
    """How many runs there are of each kind."""
    return dict(Counter(run.kind for run in study.plan))
