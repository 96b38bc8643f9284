"""`unteach train` and `unteach unlearn`: one run, from its configuration to an evaluated model."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach import runs
from unteach.config import compose, schema
from unteach.config.environment import environment
from unteach.errors import Preempted, UserError
from unteach.launch import accelerated


def command(words: list[str], **options: Any) -> None:
    train(*words, **options)


def train(*overrides: str, config_name: str = "train", config_dirs: Iterable[str] = ()) -> Path:
    """Trains what `configs/<config_name>.yaml` and the overrides say; returns the run's folder.

    The Python form of the command: `unteach.train("experiment=finetune/tofu/default", "task_name=mine")`.
    """
    environment()
    config = compose.compose(config_name, overrides, config_dirs, starting=True)
    if accelerated.started("train", config, overrides, config_name, tuple(config_dirs)):
        return Path(config.paths.output_dir)
    return run(config)


def run(config: schema.Config) -> Path:
    """config -> seed -> model -> data -> method -> train -> save -> evaluate. The same command again goes on."""
    if config.trainer is None or config.data is None:
        raise UserError("a training run needs a trainer and data; `unteach eval` evaluates without training")
    from unteach.data import files
    from unteach.engines import processes

    folder = Path(config.paths.output_dir)
    args = config.trainer.args
    joining = processes.Joining(
        bool(args.get("use_cpu")), args.get("ddp_backend"), args.get("ddp_timeout") or processes.Joining.timeout
    )
    state = processes.once(lambda: runs.open_run(folder, config.tree, config.resume), joining)
    evaluated = {"eval": config.tree.get("eval"), "retain_logs_path": config.tree.get("retain_logs_path")}
    if state == "done" and runs.read_json(folder / runs.DONE, "the run's marker").get("evaluated") == evaluated:
        print(f"finished before: {folder}")
        return folder

    from unteach.training import checkpoint

    config, said = files.settle(config)
    assert config.trainer is not None
    here = processes.start(joining)
    if state == "back" and here.first:
        checkpoint.go_back(folder, checkpoint.chosen(config.resume))
    here.wait()
    if not (folder / runs.FINAL).exists():
        _train(config, folder, here, said)
    if config.eval and config.trainer.args.get("do_eval", True):
        _evaluate(config, folder, here)
    if here.first:
        if not config.trainer.args.get("keep_checkpoints"):
            checkpoint.clear_all(folder)
        runs.write_json(folder / runs.DONE, {"evaluated": evaluated})
        print(f"model: {folder / runs.FINAL}")
        results = runs.EVALS if (folder / runs.EVALS).exists() else runs.METRICS
        print(f"results: {folder / results}")
    here.wait()
    return folder


def _train(config: schema.Config, folder: Path, here: Any, of_files: list[str]) -> None:
    """Builds everything, trains from where the run stands, and writes the final model."""
    import transformers

    from unteach.engines import processes
    from unteach.engines.sharded import placed_by_device_map
    from unteach.models import loading
    from unteach.seeds import subseed
    from unteach.training import build, checkpoint, evaluating, spread, validation
    from unteach.training.tracking import tracked
    from unteach.training.watching import watchers

    assert config.trainer is not None and config.data is not None
    transformers.set_seed(subseed(config.seed, "init") % 2**32)
    head = build.head_of(config)
    loaded = loading.load(config.model, training=True, texts=lambda: build.training_texts(config), head=head)

    streams, said = build.build_streams(config, loaded, here)
    planned = evaluating.planned(config, loaded)
    anchor = build.anchor_of(config, streams)
    args = build.training_arguments(config, loaded.compute, len(streams[anchor]), folder)
    start, skipped = checkpoint.start_of(folder, config.resume)
    if start:
        processes.once(lambda: spread.refuse_another_spread(start, args, here.mode))
    placed_by_device_map(loaded.model, here)
    if here.first:
        for sentence in [*of_files, *said, *skipped]:
            print(f"note: {sentence}")
        build.open_folder(config, folder, loaded, streams, here, checkpoint.step_of(start))
    here.wait()

    collator = build.build_collator(config, loaded)
    held_out = validation.of_run(config, loaded, collator, args, folder, here)
    watching = watchers(config, loaded, streams, anchor, folder, here)
    evaluator = evaluating.at_steps(config, loaded, planned, folder, here) if planned else None
    with tracked(config, folder, here.first):
        trainer = build.build_trainer(
            config, loaded, streams, anchor, folder, here,
            args=args, evaluator=evaluator, validation=held_out, callbacks=watching,
        )  # fmt: skip
        try:
            if config.trainer.args.get("do_train", True):
                trainer.train_from(start)
        finally:
            for watcher in watching:
                watcher.close()
        if trainer.preempted:
            raise Preempted(f"stopped at step {trainer.state.global_step}; run the same command again to go on")
        validation.at_the_end(trainer, folder)
    state = spread.whole_state(trainer, here.mode)
    if here.first:
        build.save_final(trainer.accelerator.unwrap_model(loaded.model), loaded, folder, config.trainer.method, state)
    here.wait()


def _evaluate(config: schema.Config, folder: Path, here: Any) -> None:
    """Evaluates the model as it was saved, exactly as `unteach eval` would."""
    from dataclasses import replace

    from unteach.engines.sharded import place
    from unteach.evals.run import evaluate_loaded
    from unteach.models import loading
    from unteach.models.hub import PATH, SOURCE

    args = {k: v for k, v in config.model.model_args.items() if k not in SOURCE} | {PATH: str(folder / runs.FINAL)}
    loaded = loading.load(replace(config.model, model_args=args, tokenizer_args={}, peft_args=None), training=False)
    loaded.model = place(loaded.model, here)
    cache = Path(config.paths.cache_dir)
    weights = loaded.identity(cache / runs.FINGERPRINTS)
    evaluate_loaded(config.eval, loaded, here, folder / runs.EVALS, cache, weights)
