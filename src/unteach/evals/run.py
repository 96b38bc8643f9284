"""Suites on a model that is loaded: the engine, its progress, the printed results."""

import logging
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import Progress

from unteach import console, json_files, logs
from unteach.config.suites import SuiteConfig
from unteach.console import format_duration
from unteach.distributed.process_context import DistContext
from unteach.engines.hf import HFEngine
from unteach.engines.progress import SAY_EVERY
from unteach.evals import merge_results, suite_plan, suites
from unteach.evals.measurement_cache import Store
from unteach.evals.other_models import OtherModels
from unteach.evals.suite_plan import SuitePlan
from unteach.models.loading import LoadedModel
from unteach.wording import format_count

if TYPE_CHECKING:
    import rich.progress

logger = logging.getLogger(__name__)

LONGEST_REASON = 100
"""Letters of a line that says why a metric is absent."""


def evaluate_loaded(
    configs: dict[str, SuiteConfig],
    loaded: LoadedModel,
    dist: DistContext,
    folder: Path,
    cache: Path,
    weights: str,
    tell: bool = True,
    planned: dict[str, SuitePlan] | None = None,
) -> dict[str, float]:
    """Run suites on a loaded model over the processes of this run, and write their files.

    Args:
        configs: by suite.
        loaded: the model.
        dist: the processes, which share the passes.
        folder: gets the files.
        cache: where measurements are kept.
        weights: what tells these weights from all others.
        tell: print the values at the end.
        planned: what the suites will do, where that was resolved before the model was loaded.

    Returns:
        Every value under <suite>_<metric>.
    """
    batch_sizes = [suite.batch_size for suite in configs.values() if suite.batch_size]
    batch_size = min(batch_sizes, default=None)
    store = Store(cache, weights, loaded.compute, dist.rank)
    if store.damaged and dist.is_main:
        logger.info(
            f"{format_count(store.damaged, 'damaged place')} in {store.folder}; what stood there "
            f"is measured again"
        )
    engine = HFEngine(
        loaded.model,
        loaded.tokenizer,
        batch_size,
        dist,
        store,
        stops=loaded.template.stops,
    )
    with PassProgress(shown=dist.is_main) as progress, loaded.autocast():
        plans = planned or suite_plan.plan_all(configs, loaded.template, engine.context)
        other_models = OtherModels(loaded, batch_size, dist, cache, progress)
        target = folder if dist.is_main else None
        values = suites.carry_out(plans, engine, progress, target, other_models, weights)
    if dist.is_main and tell:
        tell_values(folder, list(configs), named=len(configs) > 1)
    flat = {}
    for suite, metrics in values.items():
        for name, value in metrics.items():
            if value.agg is not None:
                flat[f"{suite}_{name}"] = value.agg
    return flat


def tell_values(
    folder: Path,
    suite_names: list[str],
    named: bool,
) -> None:
    """Print the values of suites from their files, each with the way that is good; after them, in a
    line each, what is absent and why.

    Args:
        named: whether each suite's name stands above its values.
    """
    for name in suite_names:
        if named:
            console.say(f"{name}:")
        _print_values(folder, name.upper())
        tell_gaps(folder, name.upper())


def _print_values(folder: Path, suite: str) -> None:
    summary = json_files.read_json(folder / f"{suite}_SUMMARY.json", "the summary")
    descriptions = merge_results.read_descriptions(folder, suite)
    width = max(map(len, summary), default=0)
    for name, value in summary.items():
        number = "–" if value is None else f"{value:.4g}"
        better = descriptions.get(name, {}).get("better")
        aim = f"  ({better})" if better else ""
        line = f"  {name:<{width}} = {number:<9}{aim}"
        console.say(line.rstrip())


def tell_gaps(folder: Path, suite: str) -> None:
    """Print which metrics of a suite are absent and why, and what became of its rows, a short line
    each."""
    headings = {"_ABSENT.json": "not measured", merge_results.NOTES: "of the rows"}
    for ending, heading in headings.items():
        file = folder / f"{suite}{ending}"
        if not file.exists():
            continue
        console.say(f"  {heading} (in full in {file}):")
        for name, reason in json_files.read_json(file, heading).items():
            line = textwrap.shorten(f"{name}: {reason}", LONGEST_REASON, placeholder=" …")
            console.say(f"    {line}")


class PassProgress:
    """Show one live line a pass, with how much is done and the time left; plain lines where the
    output cannot be redrawn."""

    def __init__(self, shown: bool):
        self.shown = shown and not logs.is_quiet()
        self.bars: rich.progress.Progress | None = None

    def __enter__(self) -> "PassProgress":
        if self.shown and console.is_live():
            period = console.EARLIEST_SPEED
            self.bars = Progress(transient=True, speed_estimate_period=period)
            self.bars.start()
        return self

    def __call__(self, what: str, total: int) -> Callable[[int], None]:
        if not self.shown:
            return _show_nothing
        bars = self.bars
        if bars is None:
            return PassLines(what, total)
        # A suite's name is no markup, though it may look like some.
        task = bars.add_task(escape(console.neutralize(what)), total=total)
        return lambda num_done: bars.advance(task, num_done)

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()


class PassLines:
    """Print that a pass begins, how far it is every half minute, and that it ended."""

    def __init__(self, what: str, total: int):
        self.what = what
        self.total = total
        self.num_done = 0
        self.started_at = time.monotonic()
        self.printed_at = self.started_at
        console.say(f"{what}: 0 of {total:,}")

    def __call__(self, num_done: int) -> None:
        """Count items that are done, and print a line where it is time for one."""
        self.num_done += num_done
        now = time.monotonic()
        seconds = now - self.started_at
        if self.num_done >= self.total:
            took = format_duration(seconds)
            console.say(f"{self.what}: {self.total:,} of {self.total:,}, took {took}")
        elif now - self.printed_at > SAY_EVERY:
            self.printed_at = now
            num_left = self.total - self.num_done
            left = format_duration(num_left * seconds / self.num_done)
            console.say(f"{self.what}: {self.num_done:,} of {self.total:,}, {left} left")


def _show_nothing(num_done: int) -> None:
    pass
