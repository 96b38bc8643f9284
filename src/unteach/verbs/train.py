"""`unteach train` and `unteach unlearn`: one run, from its configuration to an evaluated model."""

import contextlib
from pathlib import Path

from unteach import console, logs, owner, run_dir
from unteach.config.schema import TrainConfig
from unteach.data.collators import Collator
from unteach.distributed import process_context
from unteach.distributed.process_context import DistContext
from unteach.errors import Preempted
from unteach.evals.run import tell_values
from unteach.evals.start_values import tell_before_and_after
from unteach.evals.suite_plan import SuitePlan
from unteach.export import merge_adapter
from unteach.export.final_model import save_run_model
from unteach.methods.edit.base import Edit
from unteach.run_dir import RunState
from unteach.training import (
    header,
    outcome,
    parallelism,
    run_state,
    suites,
    tracking,
    validation,
)
from unteach.training.build_args import read_join_options
from unteach.training.build_trainer import build_trainer
from unteach.training.callbacks import Watcher
from unteach.training.components import build_collator
from unteach.training.edit_model import edit_model, setup_edit
from unteach.training.evaluate_final import evaluate_final_model
from unteach.training.fila import begin_by_fila
from unteach.training.land import build_lander, list_trained
from unteach.training.prepare import PreparedRun, prepare_run
from unteach.training.resumable import Resumable
from unteach.training.watching import build_watchers
from unteach.verbs import closing

TRAINING = "stopping after this step, to save it. Ctrl-C again ends now, without saving"
EVALUATING = "stopping after this batch; what is measured is kept. Ctrl-C again ends now"
"""What is said at the first Ctrl-C."""


def run(config: TrainConfig) -> Path:
    """Train as `config` says, evaluate the final model, and give the run's folder.

    The same command again goes on where it was stopped.

    Raises:
        Preempted: where it was asked to stop, with all that was done saved.
    """
    folder = Path(config.paths.output_dir)
    tracking.refuse_missing(config.trainer.args)
    join_options = read_join_options(config)
    with contextlib.ExitStack() as held:
        # One process (group) at a time writes into a run's folder.
        process_context.run_on_main(lambda: held.enter_context(owner.own(folder)), join_options)
        state = process_context.run_on_main(
            lambda: run_state.find_state(config, folder), join_options
        )
        if state is RunState.DONE and run_state.is_evaluated(config):
            run_state.print_finished(folder)
            return folder

        dist = process_context.init_distributed(join_options)
        run_state.prepare_folder(config, folder, state, dist)
        plans = None
        if not (folder / run_dir.FINAL).exists():
            plans = _make_final_model(config, folder, dist)
        if config.eval and config.trainer.args.get("do_eval", True):
            _evaluate(config, folder, dist, plans)
        if dist.is_main:
            run_state.mark_done(config, folder)
            closing.close_training(config, folder)
        dist.barrier()
    return folder


def _make_final_model(config: TrainConfig, folder: Path, dist: DistContext) -> dict[str, SuitePlan]:
    """Train or edit from where the run stands, and write the final model; return the plans of its
    suites.

    The model is freed on return: what is evaluated is loaded from its folder.
    """
    prepared = prepare_run(config, folder, dist)
    # The weights that the run starts from are measured while no trainer holds memory yet.
    with process_context.stop_at_interrupt(EVALUATING):
        suites.measure_before_training(config, prepared.plans, folder, dist)

    collator = build_collator(config, prepared.loaded)
    if isinstance(config.trainer.method, Edit):
        _edit(config, prepared, collator, folder, dist)
    else:
        _train(config, prepared, collator, folder, dist)
    dist.barrier()
    return prepared.plans


def _train(
    config: TrainConfig,
    prepared: PreparedRun,
    collator: Collator,
    folder: Path,
    dist: DistContext,
) -> None:
    """Train, land where the run says so, and write the final model."""
    loaded, streams, anchor = prepared.loaded, prepared.streams, prepared.anchor
    held_out = validation.build_validation(config, loaded, collator, prepared.args, folder, dist)
    watching = build_watchers(config, loaded, streams, anchor, folder, dist)
    does_train = config.trainer.args.get("do_train", True)
    evaluator = None
    if prepared.plans:
        evaluator = suites.build_evaluator(config, loaded, prepared.plans, folder, dist)
    with tracking.open_trackers(config, folder, dist.is_main):
        trainer = build_trainer(
            config,
            loaded,
            streams,
            anchor,
            folder,
            dist,
            args=prepared.args,
            evaluator=evaluator,
            validation=held_out,
            callbacks=watching,
        )
        # Both before anything wraps the model, and the landing's start before FILA fills its
        # adapter, which changes no output: where the run goes on, it is not filled again.
        lander = build_lander(config, loaded, list_trained(loaded.model), folder, dist)
        halves = begin_by_fila(config, prepared, collator, dist)
        for callback in filter(None, [lander, halves]):
            trainer.add_callback(callback)
        if dist.is_main and does_train:
            num_held_out = held_out.num_rows if held_out else 0
            header.print_header(
                config,
                folder,
                loaded,
                streams,
                anchor,
                prepared.args,
                num_held_out,
                prepared.start,
            )
        with process_context.stop_at_interrupt(TRAINING):
            _fit(trainer, prepared.start, watching, does_train)
            if lander:
                lander.land()
            trainer.validate_final_model()
            state_dict = parallelism.gather_full_state_dict(trainer, dist)
            if dist.is_main:
                model = trainer.accelerator.unwrap_model(loaded.model)
                save_run_model(config, folder, model, loaded, state_dict)


def _edit(
    config: TrainConfig,
    prepared: PreparedRun,
    collator: Collator,
    folder: Path,
    dist: DistContext,
) -> None:
    """Edit the model once, and write the final model."""
    method, handler = config.trainer.method, config.trainer.handler
    setup_edit(prepared.loaded, method, handler, prepared.streams, dist.world_size)
    if not logs.is_quiet():
        header.print_lines(
            [
                ("run", f"{config.mode} {folder}"),
                *header.describe_edit_run(config, prepared.loaded, prepared.streams),
            ]
        )
    edit_model(config, prepared, collator, folder, dist, merge_adapter.merge)
    loaded = prepared.loaded
    save_run_model(config, folder, loaded.model, loaded, None)


def _fit(trainer: Resumable, start: Path | None, watching: list[Watcher], does_train: bool) -> None:
    """Train to the end, or until asked to stop, and say how it ended."""
    try:
        if does_train:
            trainer.train_from(start)
    finally:
        for watcher in watching:
            watcher.close()
    state = trainer.state
    if trainer.preempted:
        raise Preempted(
            f"saved step {state.global_step} of {state.max_steps}; the same command goes on"
        )
    if trainer.dist.is_main and does_train:
        for line in outcome.describe_ending(trainer):
            console.say(line)


def _evaluate(
    config: TrainConfig, folder: Path, dist: DistContext, plans: dict[str, SuitePlan] | None
) -> None:
    """Evaluate the final model, and print its values beside those from before training."""
    with process_context.stop_at_interrupt(EVALUATING):
        evaluate_final_model(config, folder, dist, plans)
    if dist.is_main:
        compared = tell_before_and_after(folder, config.eval)
        others = [name for name in config.eval if name not in compared]
        tell_values(folder / run_dir.EVALS, others, named=len(others) > 1)
