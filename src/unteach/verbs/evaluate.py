"""`unteach eval`: one model, any number of suites, one plan."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach import atomic, console, fingerprints, owner, run_dir
from unteach.config import compose, schema
from unteach.config.environment import environment
from unteach.distributed import accelerate_launch
from unteach.errors import UserError


def command(words: list[str], **options: Any) -> None:
    evaluate(*words, **options)


def evaluate(*overrides: str, config_name: str = "eval", config_dirs: Iterable[str] = ()) -> Path:
    """Evaluates what `configs/eval.yaml` and the overrides say; returns the folder with the
    results."""
    environment()
    config = compose.compose(config_name, overrides, config_dirs, starting=True)
    if accelerate_launch.run_in_processes(
        "eval", config, overrides, config_name, tuple(config_dirs)
    ):
        return Path(config.paths.output_dir)
    return run(config)


def run(config: schema.Config) -> Path:
    """config -> plan -> model -> passes -> values."""
    if not config.eval:
        raise UserError("an evaluation needs a suite: set eval=tofu (see `unteach list suites`)")
    if config.model.merge_adapter:
        raise UserError(f"model.merge_adapter: {schema.NOT_SAVED}")
    from unteach.distributed import process_context
    from unteach.evals.lm_eval import tasks

    tasks.refuse_misspelled(config.eval)
    folder = Path(config.paths.output_dir)
    with contextlib.ExitStack() as held:
        process_context.run_on_main(
            lambda: held.enter_context(owner.own(run_dir.find_owned_folder(folder)))
        )
        process_context.run_on_main(lambda: run_dir.open_run(folder, config.tree, config.resume))
        return _run_owned(config, folder)


def _run_owned(config: schema.Config, folder: Path) -> Path:
    """Carry an evaluation out, into a folder that no other process writes."""
    from unteach.data import user_files
    from unteach.distributed import process_context
    from unteach.evals.run import evaluate_loaded, tell_values
    from unteach.models import loading
    from unteach.models.placement import place_model
    from unteach.training import suites
    from unteach.verbs import closing

    config, said = user_files.resolve_files(config)
    dist = process_context.init_distributed()
    planned, of_rows = suites.plan_suites(config, loading.load_empty(config.model))
    if dist.is_main:
        for sentence in [*said, *of_rows]:
            console.say(f"note: {sentence}")
    loaded = loading.load(config.model, training=False)
    loaded.model = place_model(loaded.model, dist)
    if dist.is_main:
        atomic.write_text(folder / run_dir.CONFIG, compose.to_yaml(config.tree))
        made_by = fingerprints.build_manifest(
            config.seed, command=config.command, world=dist.world_size, mode=dist.mode
        )
        atomic.write_json(folder / run_dir.MANIFEST, made_by)
    cache = Path(config.paths.cache_dir)
    weights = loaded.identity(cache / fingerprints.MEMORY_FILE)
    with process_context.stop_at_interrupt(
        "stopping after this batch; what is measured is kept. Ctrl-C again ends now"
    ):
        evaluate_loaded(
            config.eval, loaded, dist, folder, cache, weights, tell=False, planned=planned
        )
    if dist.is_main:
        atomic.remove_stale_temp_files(folder)
        atomic.write_json(folder / run_dir.DONE, {})
        tell_values(folder, list(config.eval), named=len(config.eval) > 1)
        closing.close_evaluation(folder)
    dist.barrier()
    return folder
