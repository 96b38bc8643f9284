"""Finds the runs that a user's words mean: run folders, folders of runs, patterns, logs."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unteach import run_dir
from unteach.errors import UserError
from unteach.report.collect import EVAL, KINDS, results_of
from unteach.report.origin import command_to_evaluate, kind_of, read_config


@dataclass(frozen=True)
class Found:
    """One evaluated run: `suites` are those that it has results of (of a log named alone, the
    log's)."""

    name: str
    kind: str
    folder: Path
    suites: tuple[str, ...]


def runs_in(words: Iterable[str]) -> tuple[list[Found], list[str]]:
    """The runs that the words mean, each once, references first; and one sentence on what has no
    results.

    A folder without results of its own stands for the runs below it. Raises UserError for a word
    that means no run.
    """
    there: dict[Path, tuple[str, ...]] = {}
    empty: list[Path] = []
    for word in words:
        for path in _paths(word):
            for folder, suites in _results_at(path, empty, pattern=not Path(word).exists()):
                there[folder] = tuple(dict.fromkeys((*there.get(folder, ()), *suites)))
    if not there:
        raise UserError("none of these has been evaluated; `unteach eval` does that")
    names = short_names(list(there))
    found = [
        Found(names[folder], kind_of(folder), folder, suites) for folder, suites in there.items()
    ]
    passed = sorted({str(path) for path in empty})
    notes = [f"not evaluated, so not shown: {', '.join(passed)}"] if passed else []
    return sorted(found, key=lambda one: KINDS.index(one.kind)), notes


def retain_models_of(found: list[Found]) -> list[Found]:
    """The retain models that these runs are compared with (retain_logs_path), where none is among
    them."""
    if any(one.kind == "retain" for one in found):
        return []
    named = [read_config(one.folder).get("retain_logs_path") for one in found]
    logs = dict.fromkeys(str(path) for path in named if path and Path(str(path)).exists())
    there = dict(one for path in logs for one in _results_at(Path(path), [], pattern=True))
    names = short_names(list(there))
    return [Found(names[folder], "retain", folder, suites) for folder, suites in there.items()]


def _paths(word: str) -> list[Path]:
    if Path(word).exists() or not glob.has_magic(word):
        return [Path(word)]
    matching = sorted(map(Path, glob.glob(word)))
    if not matching:
        raise UserError(
            f"{word}: nothing matches this pattern; name run folders, or a pattern that some match"
        )
    return matching


def _results_at(path: Path, empty: list[Path], pattern: bool) -> list[tuple[Path, tuple[str, ...]]]:
    """(run's folder, suites) at a path or below it; what matched a pattern may have none and is
    noted in `empty`."""
    if path.is_file() and path.name.endswith(EVAL):
        suite, folder = path.name.removesuffix(EVAL), path.parent
        return [(folder.parent if folder.name == run_dir.EVALS else folder, (suite,))]
    if path.is_dir():
        if found := _below(path, empty, set()):
            return found
    elif not path.exists():
        raise UserError(
            f"{path}: there is no such run; give run folders, folders of runs, or <SUITE>{EVAL} "
            f"files"
        )
    if not pattern:
        what = "in it or below it" if path.is_dir() else "as its name says"
        raise UserError(
            f"{path}: there are no results {what} (<SUITE>{EVAL}). Evaluate the run first: "
            f"{command_to_evaluate(path)}"
        )
    if path.is_dir():
        empty.append(path)
    return []


def _below(folder: Path, empty: list[Path], seen: set[Path]) -> list[tuple[Path, tuple[str, ...]]]:
    if folder.resolve() in seen:  # a link that leads back up
        return []
    seen.add(folder.resolve())
    if suites := results_of(folder):
        return [(folder.parent if folder.name == run_dir.EVALS else folder, suites)]
    hidden = (".", run_dir.EVALS_BEFORE)  # what a run started from is no run of its own
    children = sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(hidden)
    )
    found = [one for child in children for one in _below(child, empty, seen)]
    if not found and (folder / run_dir.CONFIG).exists():
        empty.append(folder)
    return found


def short_names(folders: list[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that tell them apart; a checkpoint also says whose it is."""
    whole = {folder: folder.absolute().parts for folder in folders}
    length = {folder: 2 if folder.name.startswith("checkpoint-") else 1 for folder in folders}
    while True:
        names = {folder: "/".join(parts[-length[folder] :]) for folder, parts in whole.items()}
        taken = list(names.values())
        grown = [
            folder
            for folder in folders
            if taken.count(names[folder]) > 1 and length[folder] < len(whole[folder])
        ]
        if not grown:
            return names
        length.update({folder: length[folder] + 1 for folder in grown})
