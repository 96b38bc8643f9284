"""The evaluation of the model that a run ends with."""

from dataclasses import replace
from pathlib import Path

from unteach import fingerprints, run_dir
from unteach.config.schema import ModelConfig, TrainConfig
from unteach.distributed.process_context import DistContext
from unteach.evals.run import evaluate_loaded
from unteach.evals.suite_plan import SuitePlan
from unteach.models import loading
from unteach.models.hub import PATH, SOURCE
from unteach.models.placement import place_model
from unteach.training import suites


def evaluate_final_model(
    config: TrainConfig, folder: Path, dist: DistContext, plans: dict[str, SuitePlan] | None
) -> None:
    """Evaluate the model as it was saved, exactly as `unteach eval` would.

    plans: of the suites, where this process made them before it trained.
    """
    loaded = loading.load(_describe_final_model(config.model, folder), training=False)
    loaded.model = place_model(loaded.model, dist)
    cache = Path(config.paths.cache_dir)
    weights = loaded.identity(cache / fingerprints.MEMORY_FILE)
    if plans is None:
        plans, _ = suites.plan_suites(config, loaded)
    target = folder / run_dir.EVALS
    evaluate_loaded(config.eval, loaded, dist, target, cache, weights, tell=False, planned=plans)


def _describe_final_model(model: ModelConfig, folder: Path) -> ModelConfig:
    """Describe the saved model: what says where the first one came from is left out."""
    args = {name: value for name, value in model.model_args.items() if name not in SOURCE}
    args[PATH] = str(folder / run_dir.FINAL)
    base_path = None if model.merge_adapter else model.base_path
    return replace(model, model_args=args, tokenizer_args={}, peft_args=None, base_path=base_path)
