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
from unteach.wording import format_count

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
    settings = {}
    for name, value in asdict(config).items():
        if name not in CHANGE_NO_VALUE:
            settings[name] = value
    return {
        "weights": weights,
        "settings": fingerprints.hash_value(settings),
    }


def write_merged(
    contents: Contents,
    basis: dict[str, Any],
    prefix: str,
    folder: Path,
) -> bool:
    """Write a suite's results into a folder, with the values there that are of the same basis.

    Args:
        contents: the results of this evaluation.
        basis: what they are of, as `describe_basis` says.
        prefix: the suite's name as its files have it.
        folder: the folder of the files.

    Returns:
        Whether values that were there are kept beside the new ones.
    """
    old: Contents = {}
    for ending in (*contents, BASIS):
        old[ending] = _read_old(folder / f"{prefix}{ending}")
    has_same_rows = _has_same_rows(old[ROWS], contents[ROWS])
    is_same_basis = old[BASIS] == basis and has_same_rows

    # Values that this evaluation does not measure again are kept, here or aside.
    not_measured_now = set(old[EVAL]) - set(contents[EVAL])
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
    """Read a file of an earlier evaluation; empty where there is none."""
    if not file.exists():
        return {}
    return json_files.read_mapping(file, "an earlier evaluation")


def _has_same_rows(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Say whether the columns that both evaluations read were made of the same rows."""
    shared_columns = old.keys() & new.keys()
    return all(old[column] == new[column] for column in shared_columns)


def _merge(
    old: Contents,
    new: Contents,
    earlier_metrics: set[str],
) -> Contents:
    """Add the earlier metrics to the new contents."""
    merged = {ending: {**old[ending], **new[ending]} for ending in new}
    values = dict(new[EVAL])
    for name in earlier_metrics:
        values[name] = old[EVAL][name]
    merged[EVAL] = dict(sorted(values.items()))
    merged[SUMMARY] = dict(sorted(merged[SUMMARY].items()))
    # A metric that one of the two evaluations has is not absent.
    for name in values:
        merged[ABSENT].pop(name, None)
    return merged


def _move_aside(prefix: str, folder: Path, num_values: int) -> None:
    moved = run_dir.move_aside(folder / f"{prefix}{EVAL}")
    logger.info(
        f"{moved} keeps {format_count(num_values, 'value')} that this evaluation does not "
        "measure and that are of other weights, rows or settings"
    )
