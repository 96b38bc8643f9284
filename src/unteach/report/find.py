"""Finds the runs that a user's words mean: run folders, folders of runs, patterns, logs."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from unteach import run_dir
from unteach.errors import UserError
from unteach.report.collect import EVAL, KINDS, list_suites
from unteach.report.origin import build_eval_command, infer_kind, read_config

HIDDEN = (".", run_dir.EVALS_BEFORE)
"""How folders begin that hold no run of their own: what a run started from is none."""

Suites = tuple[str, ...]


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluated run: `suites` are those that it has results of (of a log named alone, the
    log's)."""

    name: str
    kind: str
    folder: Path
    suites: Suites


@dataclass
class _Search:
    """What was found so far: each run's suites, and the runs that have no results."""

    suites: dict[Path, Suites] = field(default_factory=dict)
    unevaluated: list[Path] = field(default_factory=list)

    def add(self, folder: Path, suites: Suites) -> None:
        known = self.suites.get(folder, ())
        self.suites[folder] = tuple(dict.fromkeys((*known, *suites)))


def find_runs(words: Iterable[str]) -> tuple[list[EvaluatedRun], list[str]]:
    """Find the runs that words mean, each once, references first; and say in a sentence what has no
    results.

    A folder without results of its own stands for the runs below it.

    Raises:
        UserError: a word means no run.
    """
    search = _Search()
    for word in words:
        for path in _expand(word):
            _search_at(path, search, is_pattern=not Path(word).exists())
    if not search.suites:
        raise UserError("none of these has been evaluated; `unteach eval` does that")
    names = shorten_names(list(search.suites))
    runs = [
        EvaluatedRun(names[folder], infer_kind(folder), folder, suites)
        for folder, suites in search.suites.items()
    ]
    passed = sorted({str(path) for path in search.unevaluated})
    notes = [f"not evaluated, so not shown: {', '.join(passed)}"] if passed else []
    return sorted(runs, key=lambda run: KINDS.index(run.kind)), notes


def find_retain_models(runs: list[EvaluatedRun]) -> list[EvaluatedRun]:
    """Find the retain models that these runs are compared with (retain_logs_path), where none is
    among them."""
    if any(run.kind == "retain" for run in runs):
        return []
    search = _Search()
    for run in runs:
        log = read_config(run.folder).get("retain_logs_path")
        if log and Path(str(log)).exists():
            _search_at(Path(str(log)), search, is_pattern=True)
    names = shorten_names(list(search.suites))
    return [
        EvaluatedRun(names[folder], "retain", folder, suites)
        for folder, suites in search.suites.items()
    ]


def _expand(word: str) -> list[Path]:
    if Path(word).exists() or not glob.has_magic(word):
        return [Path(word)]
    matches = sorted(map(Path, glob.glob(word)))
    if not matches:
        raise UserError(
            f"{word}: nothing matches this pattern; name run folders, or a pattern that some match"
        )
    return matches


def _search_at(path: Path, search: _Search, is_pattern: bool) -> None:
    """Add the runs at a path or below it; what matched a pattern may have none."""
    if path.is_file() and path.name.endswith(EVAL):
        search.add(_get_run_folder(path.parent), (path.name.removesuffix(EVAL),))
        return
    if path.is_dir():
        if _search_below(path, search, set()):
            return
    elif not path.exists():
        raise UserError(
            f"{path}: there is no such run; give run folders, folders of runs, or <SUITE>{EVAL} "
            f"files"
        )
    if not is_pattern:
        what = "in it or below it" if path.is_dir() else "as its name says"
        raise UserError(
            f"{path}: there are no results {what} (<SUITE>{EVAL}). Evaluate the run first: "
            f"{build_eval_command(path)}"
        )
    if path.is_dir():
        search.unevaluated.append(path)


def _search_below(folder: Path, search: _Search, seen: set[Path]) -> bool:
    """Add the runs in a folder, and say whether there were any."""
    if folder.resolve() in seen:  # a link that leads back up
        return False
    seen.add(folder.resolve())
    if suites := list_suites(folder):
        search.add(_get_run_folder(folder), suites)
        return True
    has_runs = False
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith(HIDDEN):
            has_runs = _search_below(child, search, seen) or has_runs
    if not has_runs and (folder / run_dir.CONFIG).exists():
        search.unevaluated.append(folder)
    return has_runs


def _get_run_folder(folder: Path) -> Path:
    return folder.parent if folder.name == run_dir.EVALS else folder


def shorten_names(folders: list[Path]) -> dict[Path, str]:
    """Give the shortest ends of paths that tell them apart; a checkpoint also says whose it is."""
    parts = {folder: folder.absolute().parts for folder in folders}
    length = {folder: 2 if folder.name.startswith("checkpoint-") else 1 for folder in folders}
    while True:
        names = {folder: "/".join(parts[folder][-length[folder] :]) for folder in folders}
        taken = list(names.values())
        clashing = [
            folder
            for folder in folders
            if taken.count(names[folder]) > 1 and length[folder] < len(parts[folder])
        ]
        if not clashing:
            return names
        for folder in clashing:
            length[folder] += 1
