"""How the folder of a training run stands before it starts, and what is done about it."""

import logging
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files, run_dir
from unteach.config.schema import RunConfig, TrainConfig
from unteach.distributed.process_context import DistContext
from unteach.run_dir import RunState
from unteach.training import checkpoint

logger = logging.getLogger(__name__)


def find_state(config: TrainConfig, folder: Path) -> RunState:
    """Find how the run's folder stands: a finished run is made of the rows and weights that are
    there now.

    Raises:
        UserError: where it is another run's, or its rows or weights have changed.
    """
    state = run_dir.open_run(folder, config.tree, config.resume)
    if state is not RunState.DONE:
        return state
    memory = Path(config.paths.cache_dir) / fingerprints.MEMORY_FILE
    run_dir.refuse_changed_inputs(folder, memory)
    final = folder / run_dir.FINAL
    if final.exists() and checkpoint.find_model_fault(final):
        (folder / run_dir.DONE).unlink()
        return RunState.BEGUN
    return state


def is_evaluated(config: TrainConfig) -> bool:
    """Say whether the run's folder is finished, by the evaluation that is asked for now."""
    marker = Path(config.paths.output_dir) / run_dir.DONE
    if not marker.exists():
        return False
    finished = json_files.read_mapping(marker, "the run's marker")
    return finished.get("evaluated") == _describe_evaluation(config)


def print_finished(folder: Path) -> None:
    """Print that a run was finished before, and log where its model is gone since."""
    print(f"finished before: {folder}; nothing was done again")
    final = folder / run_dir.FINAL
    if not final.exists():
        logger.info(f"{final} is no longer there; resume=never trains it again")


def mark_done(config: TrainConfig, folder: Path) -> None:
    """Mark a run as finished, and sweep what only a run under way needs."""
    if not config.trainer.args.get("keep_checkpoints"):
        checkpoint.clear_all(folder)
    atomic.remove_stale_temp_files_under(folder)
    atomic.write_json(folder / run_dir.DONE, {"evaluated": _describe_evaluation(config)})


def _describe_evaluation(config: RunConfig) -> dict[str, Any]:
    return {
        "eval": config.tree.get("eval"),
        "retain_logs_path": config.tree.get("retain_logs_path"),
    }


def prepare_folder(config: TrainConfig, folder: Path, state: RunState, dist: DistContext) -> None:
    """Go back to the checkpoint that the user chose, and put a damaged final model away."""
    if state is RunState.SENT_BACK and dist.is_main:
        checkpoint.go_back(folder, checkpoint.open_named(config.resume))
    dist.barrier()
    if dist.is_main:
        put_away_damaged_model(folder)
    dist.barrier()


def put_away_damaged_model(folder: Path) -> None:
    """Move a final model aside that is empty or damaged, as after a copy that was cut off; the run
    makes it again."""
    final = folder / run_dir.FINAL
    if not final.exists() or (fault := checkpoint.find_model_fault(final)) is None:
        return
    if any(final.iterdir()):
        logger.info(f"{final}: {fault}; moved to {run_dir.move_aside(final)}, and made again")
    else:
        final.rmdir()
