"""Finds the runs that a user's words mean: run folders, folders of runs, patterns, logs."""

import glob
from collections import Counter
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
    """One evaluated run.

    Attributes:
        suites: those that it has results of; of a log named alone, the log's.
    """

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
        """Add a run's suites to those that are known of it, each once."""
        known = self.suites.get(folder, ())
        distinct = dict.fromkeys((*known, *suites))
        self.suites[folder] = tuple(distinct)


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
    runs = []
    for folder, suites in search.suites.items():
        run = EvaluatedRun(
            name=names[folder],
            kind=infer_kind(folder),
            folder=folder,
            suites=suites,
        )
        runs.append(run)
    runs.sort(key=lambda run: KINDS.index(run.kind))

    notes = []
    if search.unevaluated:
        folders = sorted({str(path) for path in search.unevaluated})
        notes.append(f"not evaluated, so not shown: {', '.join(folders)}")
    return runs, notes


def find_retain_models(runs: list[EvaluatedRun]) -> list[EvaluatedRun]:
    """Find the retain models that these runs are compared with (retain_logs_path), where none is
    among them."""
    if any(run.kind == "retain" for run in runs):
        return []
    search = _Search()
    for run in runs:
        config = read_config(run.folder)
        log = config.get("retain_logs_path")
        if not log:
            continue
        path = Path(str(log))
        if path.exists():
            _search_at(path, search, is_pattern=True)
    names = shorten_names(list(search.suites))
    retain_models = []
    for folder, suites in search.suites.items():
        run = EvaluatedRun(
            name=names[folder],
            kind="retain",
            folder=folder,
            suites=suites,
        )
        retain_models.append(run)
    return retain_models


def _expand(word: str) -> list[Path]:
    """List the paths that a word means: itself, or what matches it as a pattern."""
    if Path(word).exists() or not glob.has_magic(word):
        return [Path(word)]
    matches = sorted(Path(match) for match in glob.glob(word))
    if not matches:
        raise UserError(
            f"{word}: nothing matches this pattern; name run folders, or a pattern that some match"
        )
    return matches


def _search_at(path: Path, search: _Search, is_pattern: bool) -> None:
    """Add the runs at a path or below it; what matched a pattern may have none."""
    if path.is_file() and path.name.endswith(EVAL):
        suite = path.name.removesuffix(EVAL)
        search.add(_get_run_folder(path.parent), (suite,))
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
    """Add the runs in a folder or below it, and say whether there were any.

    Args:
        seen: folders that were searched before, with no links in their paths.
    """
    resolved = folder.resolve()
    if resolved in seen:  # a link that leads back up
        return False
    seen.add(resolved)
    suites = list_suites(folder)
    if suites:
        search.add(_get_run_folder(folder), suites)
        return True

    has_runs = False
    for child in sorted(folder.iterdir()):
        is_hidden = child.name.startswith(HIDDEN)
        if child.is_dir() and not is_hidden and _search_below(child, search, seen):
            has_runs = True
    if not has_runs and (folder / run_dir.CONFIG).exists():
        search.unevaluated.append(folder)
    return has_runs


def _get_run_folder(folder: Path) -> Path:
    return folder.parent if folder.name == run_dir.EVALS else folder


def shorten_names(folders: list[Path]) -> dict[Path, str]:
    """Give the shortest ends of paths that tell them apart; a checkpoint also says whose it is."""
    lengths = {}
    for folder in folders:
        is_checkpoint = folder.name.startswith("checkpoint-")
        lengths[folder] = 2 if is_checkpoint else 1
    while True:
        names = {folder: _join_last_parts(folder, lengths[folder]) for folder in folders}
        num_by_name = Counter(names.values())
        has_clash = False
        for folder, name in names.items():
            is_whole = lengths[folder] >= len(folder.absolute().parts)
            if num_by_name[name] > 1 and not is_whole:
                lengths[folder] += 1
                has_clash = True
        if not has_clash:
            return names


def _join_last_parts(folder: Path, num_parts: int) -> str:
    return "/".join(folder.absolute().parts[-num_parts:])
