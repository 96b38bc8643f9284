"""`unteach train` and `unteach unlearn`: one run, from its configuration to an evaluated model."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach import compose, runs, schema
from unteach.errors import UserError


def train(*overrides: str, config_name: str = "train", config_dirs: Iterable[str] = ()) -> Path:
    """Trains what `configs/<config_name>.yaml` and the overrides say; returns the run's folder.

    The Python form of the command: `unteach.train("experiment=finetune/tofu/default", "task_name=mine")`.
    """
    compose.environment()
    return run(compose.compose(config_name, overrides, config_dirs))


def run(config: schema.Config) -> Path:
    """config -> seed -> model -> data -> method -> train -> save -> evaluate."""
    if config.trainer is None or config.data is None:
        raise UserError("a training run needs a trainer and data; `unteach eval` evaluates without training")
    folder = Path(config.paths.output_dir)
    state = runs.open_run(folder, config.tree, config.resume)
    evaluated = {"eval": config.tree.get("eval"), "retain_logs_path": config.tree.get("retain_logs_path")}
    if state == "done" and runs.read_json(folder / runs.DONE, "the run's marker").get("evaluated") == evaluated:
        print(f"finished before: {folder}")
        return folder

    from unteach.engines import processes

    here = processes.start()
    loaded = _trained(config, folder, here) if not (folder / runs.FINAL).exists() else _reloaded(config, folder, here)

    if config.eval and config.trainer.args.get("do_eval", True):
        from unteach.evals.run import evaluate_loaded

        evaluate_loaded(config.eval, loaded, here, folder / runs.EVALS)
    if here.first:
        runs.write_json(folder / runs.DONE, {"evaluated": evaluated})
        print(f"model: {folder / runs.FINAL}")
        print(f"results: {folder / runs.EVALS if config.eval else folder / runs.METRICS}")
    here.wait()
    return folder


def _trained(config: schema.Config, folder: Path, here: Any) -> Any:
    """Builds everything, trains, and writes the model; returns it as loaded for evaluation."""
    import transformers

    from unteach.evals.run import evaluate_loaded
    from unteach.models import loading
    from unteach.seeds import subseed
    from unteach.training import build
    from unteach.training.callbacks import MetricsFile, Progress
    from unteach.training.trainer import Trainer

    assert config.trainer is not None and config.data is not None
    transformers.set_seed(subseed(config.seed, "init") % 2**32)
    loaded = loading.load(config.model, training=True, texts=lambda: build.training_texts(config))

    method = config.trainer.method
    streams, said = build.build_streams(config, method, loaded)
    anchor = config.data.anchor if config.data.anchor in streams else next(iter(streams))
    collator = build.build_collator(config, loaded)
    args = build.training_arguments(config, loaded.compute, len(streams[anchor]), folder)
    if here.first:
        for sentence in said:
            print(f"note: {sentence}")
        (folder / runs.METRICS).unlink(missing_ok=True)
        runs.write_text(folder / runs.CONFIG, compose.to_yaml(config.tree))
        facts = {"data": build.fingerprints(streams), "weights": build.weights_fingerprint(config), "world": here.world}
        runs.write_json(folder / runs.MANIFEST, runs.manifest(config.seed, **facts))

    reference = build.build_reference(config, method, loaded, streams, collator, args, folder, here.gather)
    progress = Progress(config.task_name)

    def evaluator(step: int) -> dict[str, float]:
        found = evaluate_loaded(config.eval, loaded, here, folder / f"checkpoint-{step}" / runs.EVALS, tell=False)
        return {f"eval_{name}": value for name, value in found.items()}

    trainer = Trainer(
        loaded.model, args, method, streams, anchor, collator, reference,
        evaluator=evaluator if config.eval else None,
        callbacks=[MetricsFile(folder / runs.METRICS), progress],
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    try:
        if config.trainer.args.get("do_train", True):
            trainer.train()
    finally:
        progress.close()
    if here.first:
        build.save_final(trainer.accelerator.unwrap_model(loaded.model), loaded, folder)
    here.wait()
    return loaded


def _reloaded(config: schema.Config, folder: Path, here: Any) -> Any:
    """The run's own final model, for an evaluation that is still to be made."""
    from unteach.models import loading
    from unteach.models.handlers import PATH

    args = {**config.model.model_args, PATH: str(folder / runs.FINAL)}
    config.model.model_args, config.model.tokenizer_args = args, {}
    loaded = loading.load(config.model, training=False)
    loaded.model.to(here.device)
    return loaded
