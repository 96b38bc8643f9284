"""`unteach eval`: one model, any number of suites, one plan."""

import contextlib
import logging
from pathlib import Path

from unteach import atomic, fingerprints, owner, run_dir
from unteach.config.schema import EvalConfig
from unteach.config.tree import to_yaml
from unteach.distributed import process_context
from unteach.distributed.process_context import DistContext
from unteach.evals.lm_eval import tasks
from unteach.evals.run import evaluate_loaded, tell_values
from unteach.models import loading
from unteach.models.placement import place_model
from unteach.training import suites
from unteach.verbs import closing

logger = logging.getLogger(__name__)
EVALUATING = "stopping after this batch; what is measured is kept. Ctrl-C again ends now"
"""What is said at the first Ctrl-C."""


def run(config: EvalConfig) -> Path:
    """Measure a model with every suite that is asked for, and give the folder of the results.

    The same command again goes on where it was stopped.
    """
    tasks.refuse_misspelled(config.eval)
    folder = Path(config.paths.output_dir)
    with contextlib.ExitStack() as held:
        # One process (group) at a time writes into a run's folder.
        owned_folder = run_dir.find_owned_folder(folder)
        process_context.run_on_main(lambda: held.enter_context(owner.own(owned_folder)))
        process_context.run_on_main(lambda: run_dir.open_run(folder, config.tree, config.resume))
        dist = process_context.init_distributed()
        _evaluate(config, folder, dist)
        dist.barrier()
    return folder


def _evaluate(config: EvalConfig, folder: Path, dist: DistContext) -> None:
    """Plan all suites before the weights are loaded, then measure."""
    plans, notes = suites.plan_suites(config, loading.load_empty(config.model))
    notes_of_files = config.data.notes if config.data else ()
    for note in (*notes_of_files, *notes):
        logger.info(note)
    loaded = loading.load(config.model, training=False)
    loaded.model = place_model(loaded.model, dist)
    if dist.is_main:
        _write_record(config, folder, dist)

    cache = Path(config.paths.cache_dir)
    weights = loaded.identity(cache / fingerprints.MEMORY_FILE)
    with process_context.stop_at_interrupt(EVALUATING):
        evaluate_loaded(
            config.eval, loaded, dist, folder, cache, weights, tell=False, planned=plans
        )
    if dist.is_main:
        atomic.remove_stale_temp_files(folder)
        atomic.write_json(folder / run_dir.DONE, {})
        tell_values(folder, list(config.eval), named=len(config.eval) > 1)
        closing.close_evaluation(folder)


def _write_record(config: EvalConfig, folder: Path, dist: DistContext) -> None:
    """Write what was evaluated, and with what, into the results' folder."""
    atomic.write_text(folder / run_dir.CONFIG, to_yaml(config.tree))
    manifest = fingerprints.build_manifest(
        config.seed, command=config.command, world=dist.world_size, mode=dist.mode
    )
    atomic.write_json(folder / run_dir.MANIFEST, manifest)
