"""`unteach eval`: one model, any number of suites, one plan."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach import runs
from unteach.config import compose, schema
from unteach.config.environment import environment
from unteach.errors import UserError
from unteach.launch import accelerated


def command(words: list[str], **options: Any) -> None:
    evaluate(*words, **options)


def evaluate(*overrides: str, config_name: str = "eval", config_dirs: Iterable[str] = ()) -> Path:
    """Evaluates what `configs/eval.yaml` and the overrides say; returns the folder with the results."""
    environment()
    config = compose.compose(config_name, overrides, config_dirs, starting=True)
    if accelerated.started("eval", config, overrides, config_name, tuple(config_dirs)):
        return Path(config.paths.output_dir)
    return run(config)


def run(config: schema.Config) -> Path:
    """config -> plan -> model -> passes -> values."""
    if not config.eval:
        raise UserError("an evaluation needs a suite: set eval=tofu (see `unteach list suites`)")
    from unteach.engines import processes
    from unteach.evals import harness

    harness.refuse_misspelled(config.eval)
    folder = Path(config.paths.output_dir)
    processes.once(lambda: runs.open_run(folder, config.tree, config.resume))

    from unteach.engines.hf import context_of
    from unteach.engines.sharded import place
    from unteach.evals import suites
    from unteach.evals.run import evaluate_loaded
    from unteach.models import loading

    here = processes.start()
    empty = loading.load_empty(config.model)
    planned = suites.plans(config.eval, empty.template, context_of(empty.model))
    loaded = loading.load(config.model, training=False)
    loaded.model = place(loaded.model, here)
    if here.first:
        runs.write_text(folder / runs.CONFIG, compose.to_yaml(config.tree))
        runs.write_json(folder / runs.MANIFEST, runs.manifest(config.seed, world=here.world, mode=here.mode))
    cache = Path(config.paths.cache_dir)
    weights = loaded.identity(cache / runs.FINGERPRINTS)
    evaluate_loaded(config.eval, loaded, here, folder, cache, weights, planned=planned)
    if here.first:
        runs.write_json(folder / runs.DONE, {})
        print(f"results: {folder}")
    here.wait()
    return folder
