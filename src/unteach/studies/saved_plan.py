"""The plan as it was when a study began: <study>/plan.json, with which a changed study file is
compared."""

import contextlib
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from unteach import atomic, json_files, owner, run_dir
from unteach.errors import UserError, refuse_unreadable
from unteach.studies import settings, states
from unteach.studies.plan import AUDIT, PlannedRun
from unteach.studies.study_file import ROOT, Study, read_study

FILE = "plan.json"


def write(study: Study) -> None:
    """Write a study's plan into its folder."""
    config_dirs = []
    for folder in study.config_dirs:
        config_dirs.append(str(Path(folder).resolve()))
    content = {
        "name": study.name,
        "source": study.source,
        "words": study.words,
        "config_dirs": config_dirs,
        "local": dataclasses.asdict(study.local),
        "slurm": dataclasses.asdict(study.slurm),
        "runs": [dataclasses.asdict(run) for run in study.plan],
    }
    atomic.write_json(study.folder / FILE, content)


def read(folder: Path) -> Study | None:
    """Read the study that was begun in a folder; None where none was."""
    file = folder / FILE
    if not file.exists():
        return None
    content = json_files.read_json(file, "the study's plan")
    malformed = (KeyError, TypeError, AttributeError)
    with refuse_unreadable(str(file), "is no plan of a study", *malformed):
        return Study(
            name=content["name"],
            plan=[_read_run(run) for run in content["runs"]],
            config_dirs=tuple(content["config_dirs"]),
            local=settings.read_local(content["local"]),
            slurm=settings.read_slurm(content["slurm"]),
            source=content["source"],
            words=tuple(content["words"]),
        )


def _read_run(content: dict[str, Any]) -> PlannedRun:
    """Read one run of a plan's file."""
    return PlannedRun(
        name=content["name"],
        kind=content["kind"],
        config_name=content["config_name"],
        overrides=tuple(content["overrides"]),
        after=tuple(content["after"]),
    )


def find_begun(name: str) -> Study | None:
    """Find a begun study by its name, or its folder."""
    return read(Path(ROOT) / name) or read(Path(name))


def reload(study: Study) -> Study:
    """Read the study's file as it is now, with the overrides that the study was begun with."""
    begun = read(study.folder)
    if begun is None:
        return study
    if not Path(begun.source).is_file():
        return begun
    return read_study(begun.source, begun.words, begun.config_dirs)


def compare(old_plan: list[PlannedRun], new_plan: list[PlannedRun]) -> dict[str, str]:
    """Say of each run of a plan what a new plan changes of it. A run that was added is no change,
    nor is an audit that is left out: nothing else depends on it."""
    new_runs = {run.name: run for run in new_plan}
    changes = {}
    for run in old_plan:
        if run.name not in new_runs:
            if run.kind != AUDIT:
                changes[run.name] = "is gone"
            continue
        differences = _compare_runs(run, new_runs[run.name])
        if differences:
            changes[run.name] = "; ".join(differences)
    return changes


def _compare_runs(old: PlannedRun, new: PlannedRun) -> list[str]:
    """Say what is different of a run: its overrides, what it waits for, its kind."""
    old_values = _split_overrides(old)
    new_values = _split_overrides(new)
    changes = []
    for key in {**old_values, **new_values}:
        if key.startswith(run_dir.MAY_CHANGE):
            continue
        if old_values.get(key) != new_values.get(key):
            old_value = old_values.get(key, "unset")
            new_value = new_values.get(key, "unset")
            changes.append(f"{key}: {old_value} -> {new_value}")
    if old.after != new.after:
        parents = ", ".join(new.after) or "nothing"
        changes.append(f"waits for {parents}")
    if old.kind != new.kind:
        changes.append(f"kind: {old.kind} -> {new.kind}")
    return changes


def _split_overrides(run: PlannedRun) -> dict[str, str]:
    values = {}
    for override in run.overrides:
        key, _, value = override.partition("=")
        values[key] = value
    return values


def compare_begun_runs(begun: Study, study: Study) -> dict[str, str]:
    """Say what a study changes of runs that have begun. One that failed before its first step may
    be mended, renamed or left out."""
    changes = compare(begun.plan, study.plan)
    changes_begun = {}
    for run in begun.plan:
        if run.name in changes and states.has_begun(run):
            changes_begun[run.name] = changes[run.name]
    return changes_begun


def open_study(study: Study) -> None:
    """Keep the plan of a study; refuse one that changes a run that has begun."""
    begun = read(study.folder)
    starts_anew = any("resume=never" in run.overrides for run in study.plan)
    if begun is not None and not starts_anew:
        changes = compare_begun_runs(begun, study)
        if changes:
            lines = _list_changes(changes)
            raise UserError(
                f"{study.folder} was begun with another study; these runs have begun and are said "
                f"otherwise now:\n{lines}\n"
                "  Take the change back, give the study another name, "
                f"or `unteach study retry {study.name}` to go on with the runs that it does not "
                "touch."
            )
    write(study)
    _remove_leftovers(study)


def _list_changes(changes: dict[str, str]) -> str:
    """List the changes in a message, a line each."""
    lines = []
    for name, change in changes.items():
        lines.append(f"  {name}: {change}")
    return "\n".join(lines)


def _remove_leftovers(study: Study) -> None:
    """Remove what killed processes left of runs that are done: no run will write there again."""
    state_dirs = {states.get_state_file(run).parent for run in study.plan}
    for state_dir in state_dirs:
        atomic.remove_stale_temp_files(state_dir)
    for run in study.plan:
        folder = Path(run.folder)
        has_lock = owner.find_lock(folder).exists()
        if has_lock and run_dir.is_done(folder):
            with contextlib.suppress(owner.Busy), owner.own(folder):
                pass  # which takes the lock's file away at its end


def drop_changed_runs(study: Study) -> tuple[Study, dict[str, str]]:
    """Drop the runs that a change touches, or whose parent it does, after they had begun.

    Returns:
        The study with the other runs, and why each of these was dropped.
    """
    begun = read(study.folder)
    if begun is None:
        return study, {}
    dropped = compare_begun_runs(begun, study)
    kept = []
    for run in study.plan:
        if run.name in dropped:
            continue
        dropped_parents = [parent for parent in run.after if parent in dropped]
        if dropped_parents:
            parents = ", ".join(dropped_parents)
            dropped[run.name] = f"waits for {parents}"
        else:
            kept.append(run)
    if not kept:
        lines = _list_changes(dropped)
        raise UserError(
            f"{study.folder} was begun with another study, and the change touches every "
            f"run:\n{lines}"
        )
    # The plan keeps what a dropped run began as, so that its folder stays explained.
    as_begun = [run for run in begun.plan if run.name in dropped]
    write(dataclasses.replace(study, plan=kept + as_begun))
    return dataclasses.replace(study, plan=kept), dropped


def count_kinds(study: Study) -> dict[str, int]:
    """Count the runs of each kind."""
    counts = Counter(run.kind for run in study.plan)
    return dict(counts)
