"""Results of a suite beside those that its folder holds: kept together where both are of the same
thing.

<SUITE>_BASIS.json says what the values are of: the weights, and the suite's settings. A later
evaluation with other metrics of the same basis adds to the files. One of another basis takes their
place; values that it does not measure again are moved aside, never dropped.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files, run_dir
from unteach.config.suites import SuiteConfig
from unteach.evals.retain_logs import EVAL, ROWS
from unteach.wording import counted

logger = logging.getLogger(__name__)

SUMMARY = "_SUMMARY.json"
METRICS = "_METRICS.json"
NOTES = "_NOTES.json"
ABSENT = "_ABSENT.json"
BASIS = "_BASIS.json"
WRITTEN_THOUGH_EMPTY = (EVAL, SUMMARY, ROWS)
CHANGE_NO_VALUE = ("metrics", "default", "batch_size", "describe", "before", "tokens")
"""Settings of a suite that may differ between two evaluations whose values are kept together."""

Contents = dict[str, dict[str, Any]]
"""What is written of a suite, by the ending of its file's name."""


def describe_basis(config: SuiteConfig, weights: str) -> dict[str, Any]:
    """Say what the values of a suite are of."""
    settings = {
        name: value for name, value in asdict(config).items() if name not in CHANGE_NO_VALUE
    }
    return {"weights": weights, "settings": fingerprints.hash_value(settings)}


def write_merged(contents: Contents, basis: dict[str, Any], prefix: str, folder: Path) -> bool:
    """Write a suite's results into a folder, with the values there that are of the same basis.

    Args:
        contents: the results of this evaluation.
        basis: what they are of, as `describe_basis` says.
        prefix: the suite's name as its files have it.
        folder: the folder of the files.

    Returns:
        Whether values that were there are kept beside the new ones.
    """
    old = {ending: _read_old(folder / f"{prefix}{ending}") for ending in (*contents, BASIS)}
    not_measured_now = set(old[EVAL]) - set(contents[EVAL])
    is_same_basis = old[BASIS] == basis and _has_same_rows(old[ROWS], contents[ROWS])
    if not_measured_now and is_same_basis:
        contents = _merge(old, contents, not_measured_now)
    elif not_measured_now:
        _move_aside(prefix, folder, len(not_measured_now))
    for ending, content in {**contents, BASIS: basis}.items():
        file = folder / f"{prefix}{ending}"
        if content or ending in WRITTEN_THOUGH_EMPTY:
            atomic.write_json(file, content)
        else:
            # An earlier evaluation may have left one.
            file.unlink(missing_ok=True)
    return bool(not_measured_now) and is_same_basis


def read_descriptions(folder: Path, prefix: str) -> dict[str, Any]:
    """Read how the metrics of a suite are described, where its results say it."""
    return _read_old(folder / f"{prefix}{METRICS}")


def _read_old(file: Path) -> dict[str, Any]:
    return json_files.read_mapping(file, "an earlier evaluation") if file.exists() else {}


def _has_same_rows(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Say whether the columns that both evaluations read were made of the same rows."""
    return all(old[column] == new[column] for column in old.keys() & new.keys())


def _merge(old: Contents, new: Contents, earlier_metrics: set[str]) -> Contents:
    """Add the earlier metrics to the new contents."""
    merged = {ending: {**old[ending], **new[ending]} for ending in new}
    values = dict(new[EVAL])
    for name in earlier_metrics:
        values[name] = old[EVAL][name]
    merged[EVAL] = dict(sorted(values.items()))
    merged[SUMMARY] = dict(sorted(merged[SUMMARY].items()))
    # A metric that one of the two evaluations has is not absent.
    merged[ABSENT] = {name: reason for name, reason in merged[ABSENT].items() if name not in values}
    return merged


def _move_aside(prefix: str, folder: Path, num_values: int) -> None:
    moved = run_dir.move_aside(folder / f"{prefix}{EVAL}")
    logger.info(
        f"{moved} keeps {counted(num_values, 'value')} that this evaluation does not "
        "measure and that are of other weights, rows or settings"
    )
