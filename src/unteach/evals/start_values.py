"""The weights that a run starts from, measured as `unteach eval` would, and compared with what
became of them.

They are loaded once more, in the precision of an evaluation and spread as the run is: the model
that trains is left alone, and every later run, and every `unteach eval`, of the same weights and
rows finds the measurements.
"""

import contextlib
import gc
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unteach import fingerprints, json_files, run_dir
from unteach.config.metric_descriptions import DECIMALS
from unteach.config.schema import ModelConfig
from unteach.config.suites import SuiteConfig
from unteach.console import neutralize
from unteach.distributed.process_context import DistContext
from unteach.evals import merge_results
from unteach.evals.retain_logs import EVAL, ROWS
from unteach.evals.run import evaluate_loaded, tell_gaps
from unteach.evals.suite_plan import SuitePlan
from unteach.lazy import np, torch
from unteach.models import loading
from unteach.models.placement import place_model
from unteach.wording import format_value

logger = logging.getLogger(__name__)

SMALL = 0.01
"""Probabilities, overlaps and shares of tokens that move by no more have not visibly moved."""


def evaluate_before(
    configs: dict[str, SuiteConfig],
    model: ModelConfig,
    planned: dict[str, SuitePlan],
    folder: Path,
    cache: Path,
    dist: DistContext,
) -> None:
    """Measure the weights that `model` names, before an adapter of the run's own is put on them.

    Random numbers of training are left as they were, and no memory stays taken.
    """
    without_adapter = replace(model, peft_args=None)
    with preserve_random_state():
        loaded = loading.load(without_adapter, training=False)
        loaded.model = place_model(loaded.model, dist)
        weights = loaded.identity(cache / fingerprints.MEMORY_FILE)
        evaluate_loaded(
            configs,
            loaded,
            dist,
            folder,
            cache,
            weights,
            tell=False,
            planned=planned,
        )
        del loaded
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextlib.contextmanager
def preserve_random_state() -> Iterator[None]:
    """Give Python's, numpy's and torch's generators back as they were."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def tell_before_and_after(run_folder: Path, configs: dict[str, SuiteConfig]) -> list[str]:
    """Print a table for each suite that was measured before training and after.

    It has a line a metric: whose rows it is about, its value before and after, and which way is
    good.

    Returns:
        The names of these suites.
    """
    before = run_folder / run_dir.EVALS_BEFORE
    after = run_folder / run_dir.EVALS
    compared = []
    for name, config in configs.items():
        suite = config.suite.upper()
        if not _is_of_same_rows(before, after, suite):
            continue
        Console(highlight=False).print(before_and_after(before, after, config))
        if _is_unchanged(before, after, suite):
            logger.info(
                f"no value moved by more than {SMALL}: this training changed next to "
                "nothing. More steps (trainer.args.num_train_epochs) or a higher "
                "trainer.args.learning_rate do"
            )
        tell_gaps(after, suite)
        compared.append(name)
    return compared


def _is_unchanged(before: Path, after: Path, suite: str) -> bool:
    """Say whether every value that both evaluations have is nearly the same."""
    old = json_files.read_json(before / f"{suite}_SUMMARY.json", "the evaluation")
    new = json_files.read_json(after / f"{suite}_SUMMARY.json", "the evaluation")
    changes = []
    for name in old.keys() & new.keys():
        old_value = old[name]
        new_value = new[name]
        if old_value is not None and new_value is not None:
            changes.append(abs(new_value - old_value))
    return bool(changes) and all(change <= SMALL for change in changes)


def before_and_after(
    before: Path,
    after: Path,
    config: SuiteConfig,
) -> "Table":
    """Build the table of one suite from the files of its two evaluations."""
    suite = config.suite.upper()
    old = json_files.read_json(before / f"{suite}_SUMMARY.json", "the evaluation before training")
    new = json_files.read_json(after / f"{suite}_SUMMARY.json", "the evaluation")
    descriptions = merge_results.read_descriptions(after, suite)

    table = Table(box=None, pad_edge=False)
    table.add_column("role")
    table.add_column("metric")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("wanted")
    # In the order in which the suite asks for them, which keeps a role's metrics together.
    for name in config.list_metrics():
        if name not in old and name not in new:
            continue
        description = descriptions.get(name, {})
        role = description.get("role") or ""
        better = description.get("better") or ""
        decimals = description.get("decimals", DECIMALS)
        table.add_row(
            Text(neutralize(role)),
            Text(neutralize(name)),
            _format(old.get(name), decimals),
            _format(new.get(name), decimals),
            Text(neutralize(better)),
        )
    return table


def _format(value: float | None, decimals: int) -> str:
    """Write a value of the table, or a dash where there is none."""
    if value is None:
        return "–"
    return format_value(value, decimals)


def _is_of_same_rows(before: Path, after: Path, suite: str) -> bool:
    """Say whether both evaluations are there, and of the same rows."""
    for folder in (before, after):
        if not (folder / f"{suite}{EVAL}").exists():
            return False
    rows_before = json_files.read_json(before / f"{suite}{ROWS}", "the rows")
    rows_after = json_files.read_json(after / f"{suite}{ROWS}", "the rows")
    return bool(rows_before == rows_after)
