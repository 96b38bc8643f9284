"""Suites on a model that is loaded: the engine, the progress shown, the results told."""

from pathlib import Path
from typing import Any

from unteach import runs
from unteach.config.suites import SuiteConfig
from unteach.engines.hf import HFEngine
from unteach.evals import suites
from unteach.evals.cache import Store
from unteach.evals.others import OtherModels


def evaluate_loaded(
    configs: dict[str, SuiteConfig],
    loaded: Any,
    here: Any,
    folder: Path,
    cache: Path,
    weights: str,
    tell: bool = True,
    planned: dict[str, suites.Plan] | None = None,
) -> dict[str, float]:
    """Runs the suites on a Loaded model over the processes `here`; writes their files into `folder`.

    cache, weights: where measurements are kept, and what tells these weights from all others. planned: what the suites
    will do, where that was found out before the model was loaded. Returns every value under <suite>_<metric>.
    """
    batch_size = min((suite.batch_size for suite in configs.values() if suite.batch_size), default=None)
    store = Store(cache, weights, loaded.compute, here.rank)
    if store.damaged and here.first:
        print(f"note: {store.damaged} damaged places in {store.folder}; what stood there is measured again")
    engine = HFEngine(loaded.model, loaded.tokenizer, batch_size, here, store, loaded.template.stops)
    with PassProgress(shown=here.first) as progress, loaded.autocast():
        planned = planned or suites.plans(configs, loaded.template, engine.context)
        target, others = folder if here.first else None, OtherModels(loaded, batch_size, here, cache, progress)
        values = suites.carry_out(planned, engine, progress, target, others)
    if here.first and tell:
        tell_values(folder, list(configs), named=len(configs) > 1)
    found = {f"{suite}_{name}": value.agg for suite, metrics in values.items() for name, value in metrics.items()}
    return {name: value for name, value in found.items() if value is not None}


def tell_values(folder: Path, suite_names: list[str], named: bool) -> None:
    """Print the values of suites from their files. named: with the suite's name above them."""
    for name in suite_names:
        if named:
            print(f"{name}:")
        _tell(folder, name.upper())


def _tell(folder: Path, suite: str) -> None:
    summary = runs.read_json(folder / f"{suite}_SUMMARY.json", "the summary")
    width = max((len(name) for name in summary), default=0)
    for name, value in summary.items():
        print(f"  {name:<{width}}  {'–' if value is None else f'{value:.4g}'}")
    tell_gaps(folder, suite)


def tell_gaps(folder: Path, suite: str) -> None:
    """Print which metrics of a suite are absent and why, and what became of its rows."""
    for kind, what in (("_ABSENT.json", "the absent metrics"), (suites.NOTES, "the notes")):
        file = folder / f"{suite}{kind}"
        if file.exists():
            for name, reason in runs.read_json(file, what).items():
                print(f"  {name}: {reason}")


class PassProgress:
    """One line a pass, with how much is done and the time left."""

    def __init__(self, shown: bool):
        self.shown = shown

    def __enter__(self) -> "PassProgress":
        from rich.progress import Progress

        self.bars = Progress(transient=True, disable=not self.shown)
        self.bars.start()
        return self

    def __call__(self, what: str, total: int) -> Any:
        task = self.bars.add_task(what, total=total)
        return lambda done: self.bars.advance(task, done)

    def __exit__(self, *_: object) -> None:
        self.bars.stop()
