"""Results of a suite beside those that its folder holds: kept together where both are of the same
thing.

<SUITE>_BASIS.json says what the values are of: the weights, and the suite's settings. A later
evaluation with other metrics of the same basis adds to the files. One of another basis takes their
place; values that it does not measure again are moved aside, never dropped.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from unteach import atomic, console, fingerprints, json_files, run_dir
from unteach.config.suites import SuiteConfig
from unteach.evals.retain_logs import EVAL, ROWS
from unteach.wording import counted

SUMMARY = "_SUMMARY.json"
METRICS = "_METRICS.json"
NOTES = "_NOTES.json"
ABSENT = "_ABSENT.json"
BASIS = "_BASIS.json"
CHANGE_NO_VALUE = ("metrics", "default", "batch_size", "describe", "before", "tokens")
"""Settings of a suite that may differ between two evaluations whose values are kept together."""

Contents = dict[str, dict[str, Any]]
"""What is written of a suite, by the ending of its file's name."""


def basis_of(config: SuiteConfig, weights: str) -> dict[str, Any]:
    """Say what the values of a suite are of."""
    settings = {
        name: value for name, value in asdict(config).items() if name not in CHANGE_NO_VALUE
    }
    return {"weights": weights, "settings": fingerprints.hash_value(settings)}


def write_merged(contents: Contents, basis: dict[str, Any], prefix: str, folder: Path) -> bool:
    """Write a suite's results into a folder, with the values there that are of the same basis.

    Args:
        contents: what was found now.
        basis: what it is of, as `basis_of` says.
        prefix: the suite's name as its files have it.

    Returns:
        Whether values that were there are kept beside the new ones.
    """
    old = {ending: _read(folder / f"{prefix}{ending}") for ending in (*contents, BASIS)}
    earlier = set(old[EVAL]) - set(contents[EVAL])
    is_same = old[BASIS] == basis and _agree(old[ROWS], contents[ROWS])
    if earlier and is_same:
        contents = _merge(old, contents, earlier)
    elif earlier:
        _move_aside(prefix, folder, earlier)
    for ending, content in {**contents, BASIS: basis}.items():
        file = folder / f"{prefix}{ending}"
        if content or ending in (EVAL, SUMMARY, ROWS):
            atomic.write_json(file, content)
        else:
            file.unlink(missing_ok=True)  # of an earlier evaluation
    return bool(earlier) and is_same


def read_descriptions(folder: Path, prefix: str) -> dict[str, Any]:
    """Read how the metrics of a suite are described, where its results say it."""
    return _read(folder / f"{prefix}{METRICS}")


def _read(file: Path) -> dict[str, Any]:
    return json_files.read_mapping(file, "an earlier evaluation") if file.exists() else {}


def _agree(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(old[column] == rows for column, rows in new.items() if column in old)


def _merge(old: Contents, new: Contents, earlier: set[str]) -> Contents:
    """The new contents with the earlier metrics."""
    merged = {ending: {**old[ending], **new[ending]} for ending in new}
    values = {**{name: old[EVAL][name] for name in earlier}, **new[EVAL]}
    merged[EVAL] = {name: values[name] for name in sorted(values)}
    merged[SUMMARY] = {name: merged[SUMMARY][name] for name in sorted(merged[SUMMARY])}
    merged[ABSENT] = {name: reason for name, reason in merged[ABSENT].items() if name not in values}
    return merged


def _move_aside(prefix: str, folder: Path, earlier: set[str]) -> None:
    moved = run_dir.move_aside(folder / f"{prefix}{EVAL}")
    console.say(
        f"note: {moved} keeps {counted(len(earlier), 'value')} that this evaluation does not "
        "measure and that are of other weights, rows or settings"
    )
