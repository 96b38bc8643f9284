"""The suites of a run: planned before it trains, carried out on the model as it stands at a step."""

from collections.abc import Callable
from pathlib import Path

from unteach import runs
from unteach.config import schema
from unteach.engines.hf import context_of
from unteach.engines.processes import Processes
from unteach.evals import suites
from unteach.evals.run import evaluate_loaded
from unteach.models.loading import Loaded


def planned(config: schema.Config, loaded: Loaded) -> dict[str, suites.Plan]:
    """What the suites will do; raises what they lack. Nothing where the run never evaluates."""
    assert config.trainer is not None
    args = config.trainer.args
    if not args.get("do_eval", True) and args.get("eval_strategy", "no") == "no":
        return {}
    return suites.plans(config.eval, loaded.template, context_of(loaded.model))


def at_steps(
    config: schema.Config, loaded: Loaded, plans: dict[str, suites.Plan], folder: Path, here: Processes
) -> Callable[[int], dict[str, float]]:
    """Runs the suites on the model as it stands at a step; the results go to checkpoint-<step>/evals."""
    known = runs.read_json(folder / runs.MANIFEST, "the run's manifest")
    began = runs.digest([config.tree, known["data"], known["weights"]])
    cache = Path(config.paths.cache_dir)

    def evaluate(step: int) -> dict[str, float]:
        weights = f"{folder.resolve()} step {step} of {began}"
        target = folder / f"checkpoint-{step}" / runs.EVALS
        found = evaluate_loaded(config.eval, loaded, here, target, cache, weights, tell=False, planned=plans)
        return {f"eval_{name}": value for name, value in found.items()}

    return evaluate
