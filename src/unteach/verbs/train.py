"""`unteach train` and `unteach unlearn`: one run, from its configuration to an evaluated model."""

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, console, fingerprints, json_files, owner, run_dir
from unteach.atomic import atomic_write_folder
from unteach.config import compose, schema
from unteach.config.environment import environment
from unteach.distributed import accelerate_launch
from unteach.errors import Preempted, UserError
from unteach.lazy import transformers
from unteach.run_dir import RunState

if TYPE_CHECKING:
    import transformers
    from transformers import PreTrainedModel

    from unteach.data.streams import Stream
    from unteach.distributed import process_context
    from unteach.distributed.process_context import DistContext
    from unteach.evals.suite_plan import SuitePlan
    from unteach.models.loading import LoadedModel
    from unteach.training.callbacks import Watcher
    from unteach.training.resumable import Resumable

TRAINING = "stopping after this step, to save it. Ctrl-C again ends now, without saving"
EVALUATING = "stopping after this batch; what is measured is kept. Ctrl-C again ends now"
"""What is said at the first Ctrl-C."""


def command(words: list[str], **options: Any) -> None:
    train(*words, **options)


def train(*overrides: str, config_name: str = "train", config_dirs: Iterable[str] = ()) -> Path:
    """Trains what `configs/<config_name>.yaml` and the overrides say; returns the run's folder.

    The Python form of the command: `unteach.train("experiment=finetune/tofu/default",
    "task_name=mine")`.
    """
    environment()
    config = compose.compose(config_name, overrides, config_dirs, starting=True)
    if accelerate_launch.run_in_processes(
        "train", config, overrides, config_name, tuple(config_dirs)
    ):
        return Path(config.paths.output_dir)
    return run(config)


def run(config: schema.Config) -> Path:
    """config -> seed -> model -> data -> method -> train -> save -> evaluate. The same command
    again goes on."""
    if config.trainer is None or config.data is None:
        raise UserError(
            "a training run needs a trainer and data; `unteach eval` evaluates without training"
        )
    from unteach.distributed import process_context
    from unteach.training import tracking

    folder = Path(config.paths.output_dir)
    args = config.trainer.args
    tracking.refuse_missing(args)
    join_options = process_context.JoinOptions(
        bool(args.get("use_cpu")),
        args.get("ddp_backend"),
        args.get("ddp_timeout") or process_context.JoinOptions.timeout,
    )
    with contextlib.ExitStack() as held:
        process_context.run_on_main(lambda: held.enter_context(owner.own(folder)), join_options)
        return _run_owned(config, folder, join_options)


def _run_owned(
    config: schema.Config, folder: Path, join_options: "process_context.JoinOptions"
) -> Path:
    """Carry a run out, into a folder that no other process writes."""
    from unteach.data import user_files
    from unteach.distributed import process_context
    from unteach.training import checkpoint
    from unteach.verbs import closing

    state = process_context.run_on_main(lambda: _stand(config, folder), join_options)
    if state is RunState.DONE and is_evaluated(config):
        print(f"finished before: {folder}; nothing was done again")
        if not (folder / run_dir.FINAL).exists():
            console.say(
                f"note: {folder / run_dir.FINAL} is no longer there; resume=never trains it again"
            )
        return folder

    config, said = user_files.resolve_files(config)
    assert config.trainer is not None
    dist = process_context.init_distributed(join_options)
    if state is RunState.SENT_BACK and dist.is_main:
        checkpoint.go_back(folder, checkpoint.open_named(config.resume))
    dist.barrier()
    if dist.is_main:
        put_away_damaged_model(folder)
    dist.barrier()
    planned = None
    if not (folder / run_dir.FINAL).exists():
        planned = _train(config, folder, dist, said)
    if config.eval and config.trainer.args.get("do_eval", True):
        with process_context.stop_at_interrupt(EVALUATING):
            _evaluate(config, folder, dist, planned)
    if dist.is_main:
        if not config.trainer.args.get("keep_checkpoints"):
            checkpoint.clear_all(folder)
        atomic.remove_stale_temp_files_under(folder)
        atomic.write_json(folder / run_dir.DONE, {"evaluated": _evaluation_of(config)})
        closing.close_training(config, folder)
    dist.barrier()
    return folder


def _stand(config: schema.Config, folder: Path) -> RunState:
    """How the run's folder stands: a finished run is made of the rows and weights that are there
    now."""
    from unteach.training import checkpoint

    state = run_dir.open_run(folder, config.tree, config.resume)
    if state is RunState.DONE:
        run_dir.refuse_changed_inputs(
            folder, Path(config.paths.cache_dir) / fingerprints.MEMORY_FILE
        )
    final = folder / run_dir.FINAL
    if state is RunState.DONE and final.exists() and checkpoint.find_model_fault(final):
        (folder / run_dir.DONE).unlink()
        return RunState.BEGUN
    return state


def put_away_damaged_model(folder: Path) -> None:
    """Move a final model aside that is empty or damaged, as after a copy that was cut off; the run
    makes it again."""
    from unteach.training import checkpoint

    final = folder / run_dir.FINAL
    if not final.exists() or (reason := checkpoint.find_model_fault(final)) is None:
        return
    if any(final.iterdir()):
        console.say(
            f"note: {final}: {reason}; moved to {run_dir.move_aside(final)}, and made again"
        )
    else:
        final.rmdir()


def is_evaluated(config: schema.Config) -> bool:
    """Say whether the run's folder is finished, by the evaluation that is asked for now."""
    marker = Path(config.paths.output_dir) / run_dir.DONE
    return marker.exists() and json_files.read_mapping(marker, "the run's marker").get(
        "evaluated"
    ) == _evaluation_of(config)


def _evaluation_of(config: schema.Config) -> dict[str, Any]:
    return {
        "eval": config.tree.get("eval"),
        "retain_logs_path": config.tree.get("retain_logs_path"),
    }


@dataclass
class _Prepared:
    """All that a run trains with. start: the checkpoint that it goes on from; planned: its
    suites."""

    loaded: "LoadedModel"
    streams: "dict[str, Stream]"
    anchor: str
    args: "transformers.TrainingArguments"
    start: Path | None
    planned: "dict[str, SuitePlan]"


def _train(
    config: schema.Config, folder: Path, dist: "DistContext", of_files: list[str]
) -> "dict[str, SuitePlan]":
    """Builds everything, trains from where the run stands, and writes the final model; returns the
    plans of suites."""
    from unteach.distributed import process_context
    from unteach.training import header, parallelism, suites, validation
    from unteach.training.build_trainer import build_trainer
    from unteach.training.components import build_collator
    from unteach.training.tracking import open_trackers
    from unteach.training.watching import build_watchers

    assert config.trainer is not None
    ready = _prepare(config, folder, dist, of_files)
    loaded = ready.loaded
    streams = ready.streams
    anchor = ready.anchor
    args = ready.args
    planned = ready.planned
    # The weights that the run starts from are measured while no trainer holds memory yet.
    with process_context.stop_at_interrupt(EVALUATING):
        notes = suites.measure_before_training(config, planned, folder, dist)
    _print_notes(notes, dist)

    collator = build_collator(config, loaded)
    held_out = validation.build_validation(config, loaded, collator, args, folder, dist)
    watching = build_watchers(config, loaded, streams, anchor, folder, dist)
    evaluator = suites.build_evaluator(config, loaded, planned, folder, dist) if planned else None
    does_train = config.trainer.args.get("do_train", True)
    with open_trackers(config, folder, dist.is_main):
        trainer = build_trainer(
            config,
            loaded,
            streams,
            anchor,
            folder,
            dist,
            args=args,
            evaluator=evaluator,
            validation=held_out,
            callbacks=watching,
        )
        if dist.is_main and does_train:
            num_held_out = held_out.num_rows if held_out else 0
            header.print_header(
                config, folder, loaded, streams, anchor, args, num_held_out, ready.start
            )
        with process_context.stop_at_interrupt(TRAINING):
            _fit(trainer, ready.start, watching, does_train)
            trainer.validate_final_model()
            state = parallelism.gather_full_state_dict(trainer, dist)
            if dist.is_main:
                model = trainer.accelerator.unwrap_model(loaded.model)
                _save(config, folder, model, loaded, state)
    dist.barrier()
    return planned


def _save(
    config: schema.Config,
    folder: Path,
    model: "PreTrainedModel",
    loaded: "LoadedModel",
    state: dict[str, Any] | None,
) -> None:
    """Writes the final model; where its adapter is to be merged, the adapter first and then the two
    as one model."""
    from unteach.export import save, trained
    from unteach.training import checkpoint
    from unteach.training.save import METHOD, save_final_model

    assert config.trainer is not None
    method = config.trainer.method
    if not config.model.merge_adapter:
        save_final_model(model, loaded, folder / run_dir.FINAL, method, state)
        return
    adapter = folder / run_dir.ADAPTER
    shutil.rmtree(adapter, ignore_errors=True)  # of a process that was killed between the two
    save_final_model(model, loaded, adapter, method, state)
    with atomic_write_folder(folder / run_dir.FINAL) as temporary:
        save.write(trained.find_source(str(adapter)), save.ExportOptions(), temporary)
        if (adapter / METHOD).exists():
            shutil.copy(adapter / METHOD, temporary)
        checkpoint.complete(temporary)


def _prepare(
    config: schema.Config, folder: Path, dist: "DistContext", of_files: list[str]
) -> _Prepared:
    """Loads the model, builds the streams, plans the suites, and opens the run's folder."""

    from unteach.distributed import process_context
    from unteach.models import loading
    from unteach.models.placement import is_placed_by_device_map
    from unteach.seeds import subseed
    from unteach.training import checkpoint, parallelism, suites
    from unteach.training.build_args import build_training_args
    from unteach.training.build_model import build_head, read_training_texts
    from unteach.training.build_streams import build_streams, choose_anchor
    from unteach.training.open_folder import open_folder

    transformers.set_seed(subseed(config.seed, "init") % 2**32)
    head = build_head(config)
    loaded = loading.load(
        config.model, training=True, texts=lambda: read_training_texts(config), head=head
    )
    if config.model.merge_adapter and loaded.adapter is None:
        raise UserError(
            "model.merge_adapter: no adapter trains here: set model.peft_args, or leave it out"
        )

    streams, notes = build_streams(config, loaded, dist)
    planned: dict[str, SuitePlan] = {}
    if suites.does_evaluate(config):
        planned, of_rows = suites.plan_suites(config, loaded, streams)
        notes += of_rows
    anchor = choose_anchor(config, streams)
    args = build_training_args(config, loaded.compute, len(streams[anchor]), folder)
    start, skipped = checkpoint.find_start(folder, config.resume)
    if start:
        process_context.run_on_main(
            lambda: parallelism.refuse_other_parallelism(start, args, dist.mode)
        )
    is_placed_by_device_map(loaded.model, dist)
    _print_notes([*of_files, *notes, *skipped], dist)
    if dist.is_main:
        open_folder(config, folder, loaded, streams, dist, checkpoint.parse_step(start))
    dist.barrier()
    return _Prepared(loaded, streams, anchor, args, start, planned)


def _print_notes(notes: list[str], dist: "DistContext") -> None:
    for sentence in notes if dist.is_main else ():
        console.say(f"note: {sentence}")


def _fit(
    trainer: "Resumable", start: Path | None, watching: "list[Watcher]", does_train: bool
) -> None:
    """Trains, and says why it ended. Raises Preempted where it was asked to stop, with all that was
    done saved."""
    from unteach.training import outcome

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
    config: schema.Config, folder: Path, dist: "DistContext", planned: "dict[str, SuitePlan] | None"
) -> None:
    """Evaluates the model as it was saved, exactly as `unteach eval` would.

    planned: the plans of the suites, where this process made them before it trained.
    """

    from unteach.evals.run import evaluate_loaded, tell_values
    from unteach.evals.start_values import tell_before_and_after
    from unteach.models import loading
    from unteach.models.hub import PATH, SOURCE
    from unteach.models.placement import place_model
    from unteach.training import suites

    args = {k: v for k, v in config.model.model_args.items() if k not in SOURCE} | {
        PATH: str(folder / run_dir.FINAL)
    }
    settings = replace(config.model, model_args=args, tokenizer_args={}, peft_args=None)
    if config.model.merge_adapter:
        settings = replace(settings, base_path=None)
    loaded = loading.load(settings, training=False)
    loaded.model = place_model(loaded.model, dist)
    cache = Path(config.paths.cache_dir)
    weights = loaded.identity(cache / fingerprints.MEMORY_FILE)
    if planned is None:
        planned, _ = suites.plan_suites(config, loaded)
    evaluate_loaded(
        config.eval,
        loaded,
        dist,
        folder / run_dir.EVALS,
        cache,
        weights,
        tell=False,
        planned=planned,
    )
    if dist.is_main:
        compared = tell_before_and_after(folder, config.eval)
        others = [name for name in config.eval if name not in compared]
        tell_values(folder / run_dir.EVALS, others, named=len(others) > 1)
