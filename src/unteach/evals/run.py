"""Suites on a model that is loaded: the engine, the progress shown, the results told."""

import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unteach import console, json_files
from unteach.config.suites import SuiteConfig
from unteach.console import format_duration
from unteach.distributed.process_context import DistContext
from unteach.engines.hf import HFEngine
from unteach.engines.progress import SAY_EVERY
from unteach.evals import merge_results, suites
from unteach.evals.measurement_cache import Store
from unteach.evals.other_models import OtherModels
from unteach.models.loading import LoadedModel
from unteach.wording import counted

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
    planned: dict[str, suites.Plan] | None = None,
) -> dict[str, float]:
    """Runs the suites on a Loaded model over the processes `here`; writes their files into
    `folder`.

    cache, weights: where measurements are kept, and what tells these weights from all others.
    planned: what the suites will do, where that was found out before the model was loaded. Returns
    every value under <suite>_<metric>.
    """
    batch_size = min(
        (suite.batch_size for suite in configs.values() if suite.batch_size), default=None
    )
    store = Store(cache, weights, loaded.compute, dist.rank)
    if store.damaged and dist.is_main:
        console.say(
            f"note: {counted(store.damaged, 'damaged place')} in {store.folder}; what stood there "
            f"is measured again"
        )
    engine = HFEngine(
        loaded.model, loaded.tokenizer, batch_size, dist, store, loaded.template.stops
    )
    with PassProgress(shown=dist.is_main) as progress, loaded.autocast():
        planned = planned or suites.plans(configs, loaded.template, engine.context)
        target = folder if dist.is_main else None
        others = OtherModels(loaded, batch_size, dist, cache, progress)
        values = suites.carry_out(planned, engine, progress, target, others, weights)
    if dist.is_main and tell:
        tell_values(folder, list(configs), named=len(configs) > 1)
    found = {
        f"{suite}_{name}": value.agg
        for suite, metrics in values.items()
        for name, value in metrics.items()
    }
    return {name: value for name, value in found.items() if value is not None}


def tell_values(folder: Path, suite_names: list[str], named: bool) -> None:
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
    width = max((len(name) for name in summary), default=0)
    for name, value in summary.items():
        shown = "–" if value is None else f"{value:.4g}"
        better = descriptions.get(name, {}).get("better")
        aim = f"  ({better})" if better else ""
        console.say(f"  {name:<{width}} = {f'{shown:<9}{aim}'.rstrip()}")


def tell_gaps(folder: Path, suite: str) -> None:
    """Print which metrics of a suite are absent and why, and what became of its rows, a short line
    each."""
    for ending, heading in (("_ABSENT.json", "not measured"), (merge_results.NOTES, "of the rows")):
        file = folder / f"{suite}{ending}"
        if file.exists():
            console.say(f"  {heading} (in full in {file}):")
            for name, reason in json_files.read_json(file, heading).items():
                console.say(
                    f"    {textwrap.shorten(f'{name}: {reason}', LONGEST_REASON, placeholder=' …')}"
                )


class PassProgress:
    """One live line a pass, with how much is done and the time left; plain lines where the output
    cannot be redrawn."""

    def __init__(self, shown: bool):
        self.shown = shown
        self.bars: Any = None

    def __enter__(self) -> "PassProgress":
        if self.shown and console.is_live():
            from rich.progress import Progress

            self.bars = Progress(transient=True, speed_estimate_period=console.EARLIEST_SPEED)
            self.bars.start()
        return self

    def __call__(self, what: str, total: int) -> Callable[[int], None]:
        if self.bars:
            from rich.markup import escape

            # A suite's name is no markup, though it may look like some.
            task = self.bars.add_task(escape(console.neutralize(what)), total=total)
            return lambda done: self.bars.advance(task, done)
        return PassLines(what, total) if self.shown else _say_nothing

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()


class PassLines:
    """Says that a pass begins, how far it is every half minute, and that it ended."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self.began = self.said = time.monotonic()
        console.say(f"{what}: 0 of {total:,}")

    def __call__(self, done: int) -> None:
        self.done += done
        now = time.monotonic()
        if self.done >= self.total:
            console.say(
                f"{self.what}: {self.total:,} of {self.total:,}, took "
                f"{format_duration(now - self.began)}"
            )
        elif now - self.said > SAY_EVERY:
            self.said = now
            left = (self.total - self.done) * (now - self.began) / self.done
            console.say(
                f"{self.what}: {self.done:,} of {self.total:,}, {format_duration(left)} left"
            )


def _say_nothing(done: int) -> None:
    pass
