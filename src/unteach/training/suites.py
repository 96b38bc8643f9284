"""The suites of a run: planned before it trains, carried out on the weights it starts from and as
it stands later."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unteach import console, fingerprints, json_files, run_dir
from unteach.config import schema
from unteach.config.schema import ComponentConfig
from unteach.data.io import sources
from unteach.data.streams import Stream
from unteach.distributed import process_context
from unteach.distributed.process_context import DistContext
from unteach.engines.hf import context_of
from unteach.evals import suites
from unteach.evals.own_rows import OwnRows
from unteach.evals.run import evaluate_loaded
from unteach.evals.start_values import evaluate_before
from unteach.models.loading import LoadedModel
from unteach.training.build_streams import build_rows
from unteach.training.rows import find_context_length, refuse_too_long

logger = logging.getLogger(__name__)
ROLE_STREAMS = {
    "train": ("train",),
    "forget": ("forget",),
    "retain": ("retain",),
    "holdout": ("holdout", "validation"),
}
"""Which streams of a configuration hold the rows of a role; the first that is there."""


def plan_suites(
    config: schema.RunConfig, loaded: LoadedModel, streams: dict[str, Stream] | None = None
) -> tuple[dict[str, suites.Plan], list[str]]:
    """Plan the suites of a run, before any model pass.

    Args:
        config: whose files are resolved.
        loaded: the model, whose weights are not needed.
        streams: those that the run trains on, where they are built already.

    Returns:
        The plans by suite, and what there is to say about rows that are measured alone.
    """
    own, notes = own_rows(config, loaded, streams or {})
    planned = suites.plans(config.eval, loaded.template, context_of(loaded.model), own)
    for name, plan in planned.items():
        for what, (most, count) in plan.rows.drawn.items():
            seed = plan.config.seed
            notes.append(
                f"measures {most:,} of {count:,} {what} rows, drawn by seed {seed} "
                f"(eval.{name}.max_rows)"
            )
    return planned, notes


def own_rows(
    config: schema.RunConfig, loaded: LoadedModel, streams: dict[str, Stream]
) -> tuple[dict[str, OwnRows], list[str]]:
    """The rows of the run by role, for the suites that measure them, and what there is to say about
    them."""
    found: dict[str, OwnRows] = {}
    notes: list[str] = []
    if config.data is None or not config.measures_own_rows():
        return found, notes
    method = config.trainer.method if isinstance(config, schema.TrainConfig) else None
    for role, homes in ROLE_STREAMS.items():
        home = next((name for name in homes if config.data.streams.get(name)), None)
        parts = config.data.measured.get(role) or (config.data.streams[home] if home else None)
        if parts is None:
            continue
        stream = streams.get(home) if home and role not in config.data.measured else None
        if stream is None:
            built, said = build_rows(loaded, role, parts, config.seed)
            # Rows held out, and those that the run trains on, are spoken of where they are built
            # for that.
            notes += said if home is None or method is None or not streams else []
            stream = Stream(role, built)
            refuse_too_long({role: stream}, find_context_length(loaded.model))
        where = ", ".join(_name_source(part) for part in parts.values())
        found[role] = OwnRows(where, stream, range(len(stream)))
    if getattr(method, "ROWS", None) == "signed" and "train" in found:
        found |= _split_by_sign(found.pop("train"))
    return found, notes


def _name_source(part: ComponentConfig) -> str:
    hf_args = part.args.get("hf_args")
    return sources.named(hf_args) if isinstance(hf_args, dict) else part.handler


def _split_by_sign(rows: OwnRows) -> dict[str, OwnRows]:
    """The rows that a signed loss unlearns, and those that it learns beside them."""
    numbers: dict[str, list[int]] = {"forget": [], "retain": []}
    for number in rows.row_numbers:
        is_forgotten = rows.stream.example(number).get("weight", 1.0) < 0
        numbers["forget" if is_forgotten else "retain"].append(number)
    return {role: replace(rows, row_numbers=chosen) for role, chosen in numbers.items() if chosen}


def before_training(
    config: schema.TrainConfig, planned: dict[str, suites.Plan], folder: Path, dist: DistContext
) -> None:
    """Measure the weights that the run starts from, with the suites that ask for it.

    What an earlier call of the same run measured on the same rows is not measured again.
    """
    asking = {name: plan for name, plan in planned.items() if config.eval[name].before}
    if not asking or not config.trainer.args.get("do_eval", True):
        return
    if not config.model.model_args.get(schema.PATH):
        logger.info("nothing is measured before training: this model starts from random weights")
        return
    target = folder / run_dir.EVALS_BEFORE
    # One process looks, so that all go the same way.
    if process_context.run_on_main(
        lambda: all(suites.is_measured(plan, target) for plan in asking.values())
    ):
        return
    configs = {name: config.eval[name] for name in asking}
    if dist.is_main:
        console.say(f"measuring the weights that the run starts from, into {target}")
    evaluate_before(configs, config.model, asking, target, Path(config.paths.cache_dir), dist)


def does_evaluate(config: schema.TrainConfig) -> bool:
    """Whether the run evaluates at all."""
    args = config.trainer.args
    return bool(args.get("do_eval", True)) or args.get("eval_strategy", "no") != "no"


def at_steps(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    plans: dict[str, suites.Plan],
    folder: Path,
    dist: DistContext,
) -> Callable[[int], dict[str, float]]:
    """Runs the suites on the model as it stands at a step; the results go to
    checkpoint-<step>/evals."""
    known = json_files.read_mapping(folder / run_dir.MANIFEST, "the run's manifest")
    began = fingerprints.hash_value([config.tree, known["data"], known["weights"]])
    cache = Path(config.paths.cache_dir)

    def evaluate(step: int) -> dict[str, float]:
        weights = f"{folder.resolve()} step {step} of {began}"
        target = folder / f"checkpoint-{step}" / run_dir.EVALS
        found = evaluate_loaded(
            config.eval, loaded, dist, target, cache, weights, tell=False, planned=plans
        )
        return {f"eval_{name}": value for name, value in found.items()}

    return evaluate
