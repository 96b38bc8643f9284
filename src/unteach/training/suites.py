"""Plan the suites of a run before it trains, and measure with them the weights that it starts from
and those of later steps."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unteach import console, fingerprints, json_files, run_dir
from unteach.config import schema
from unteach.config.schema import DatasetConfig
from unteach.data.io import sources
from unteach.data.streams import Stream
from unteach.distributed import process_context
from unteach.distributed.process_context import DistContext
from unteach.engines.text_engine import get_context_length
from unteach.evals import suite_files, suite_plan
from unteach.evals.own_rows import OwnRows
from unteach.evals.run import evaluate_loaded
from unteach.evals.start_values import evaluate_before
from unteach.evals.suite_plan import SuitePlan
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
"""The streams of a configuration that may hold the rows of a role; the first that it has does."""


def plan_suites(
    config: schema.RunConfig, loaded: LoadedModel, streams: dict[str, Stream] | None = None
) -> tuple[dict[str, SuitePlan], list[str]]:
    """Plan the suites of a run, before any model pass.

    Args:
        config: a run's, with the files of `data` resolved.
        loaded: the model, whose weights are not needed.
        streams: those that the run trains on, where they are built already.

    Returns:
        The plans by suite, and notes about rows that are only measured.
    """
    own_rows, notes = find_own_rows(config, loaded, streams or {})
    planned = suite_plan.plan_all(
        config.eval, loaded.template, get_context_length(loaded.model), own_rows
    )
    for name, plan in planned.items():
        for row_set, (num_measured, num_rows) in plan.rows.subset_sizes.items():
            notes.append(
                f"measures {num_measured:,} of {num_rows:,} {row_set} rows, drawn by seed "
                f"{plan.config.seed} (eval.{name}.max_rows)"
            )
    return planned, notes


def find_own_rows(
    config: schema.RunConfig, loaded: LoadedModel, streams: dict[str, Stream]
) -> tuple[dict[str, OwnRows], list[str]]:
    """Find the rows of the run by role, for the suites that measure them.

    Returns:
        The rows by role, and notes about rows that cannot be used.
    """
    rows_by_role: dict[str, OwnRows] = {}
    notes: list[str] = []
    data = config.data
    if data is None or not config.measures_own_rows():
        return rows_by_role, notes
    for role, stream_names in ROLE_STREAMS.items():
        stream_name = next((name for name in stream_names if data.streams.get(name)), None)
        parts = data.measured.get(role)
        # Rows of files that are only measured have no stream that the run has built.
        stream = None
        if not parts and stream_name is not None:
            parts = data.streams[stream_name]
            stream = streams.get(stream_name)
        if not parts:
            continue
        if stream is None:
            datasets, notes_of_rows = build_rows(loaded, role, parts, config.seed)
            # A run that trains has its streams built, and notes about its own rows (those held out
            # too) are printed there.
            is_part_of_training = isinstance(config, schema.TrainConfig) and bool(streams)
            if stream_name is None or not is_part_of_training:
                notes += notes_of_rows
            stream = Stream(role, datasets)
            refuse_too_long({role: stream}, find_context_length(loaded.model))
        source = ", ".join(_name_source(part) for part in parts.values())
        rows_by_role[role] = OwnRows(source, stream, range(len(stream)))

    method = config.trainer.method if isinstance(config, schema.TrainConfig) else None
    if getattr(method, "ROWS", None) == "signed" and "train" in rows_by_role:
        rows_by_role.update(_split_by_sign(rows_by_role.pop("train")))
    return rows_by_role, notes


def _name_source(part: DatasetConfig) -> str:
    hf_args = part.args.get("hf_args")
    return sources.describe_source(hf_args) if isinstance(hf_args, dict) else part.handler


def _split_by_sign(rows: OwnRows) -> dict[str, OwnRows]:
    """Split the rows of a signed loss into those that it unlearns and those that it learns."""
    row_numbers: dict[str, list[int]] = {"forget": [], "retain": []}
    for row_number in rows.row_numbers:
        is_forgotten = rows.stream.example(row_number).get("weight", 1.0) < 0
        row_numbers["forget" if is_forgotten else "retain"].append(row_number)
    return {role: replace(rows, row_numbers=own) for role, own in row_numbers.items() if own}


def measure_before_training(
    config: schema.TrainConfig, planned: dict[str, SuitePlan], run_folder: Path, dist: DistContext
) -> None:
    """Measure the weights that the run starts from, with the suites that ask for it.

    What an earlier call of the same run measured on the same rows is not measured again.
    """
    before = {name: plan for name, plan in planned.items() if config.eval[name].before}
    if not before or not config.trainer.args.get("do_eval", True):
        return
    if not config.model.model_args.get(schema.PATH):
        logger.info("nothing is measured before training: this model starts from random weights")
        return

    target_dir = run_folder / run_dir.EVALS_BEFORE

    def is_measured() -> bool:
        return all(suite_files.is_measured(plan, target_dir) for plan in before.values())

    # The main process alone looks at the files, so that all processes decide alike.
    if process_context.run_on_main(is_measured):
        return
    if dist.is_main:
        console.say(f"measuring the weights that the run starts from, into {target_dir}")
    suite_configs = {name: config.eval[name] for name in before}
    cache_dir = Path(config.paths.cache_dir)
    evaluate_before(suite_configs, config.model, before, target_dir, cache_dir, dist)


def does_evaluate(config: schema.TrainConfig) -> bool:
    """Say whether the run evaluates at all."""
    args = config.trainer.args
    return bool(args.get("do_eval", True)) or args.get("eval_strategy", "no") != "no"


def build_evaluator(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    plans: dict[str, SuitePlan],
    run_folder: Path,
    dist: DistContext,
) -> Callable[[int], dict[str, float]]:
    """Build the function that runs the suites on the model as it is after a step.

    Its results go to `checkpoint-<step>/evals`; it returns the values by `eval_<suite>_<metric>`.
    """
    manifest = json_files.read_mapping(run_folder / run_dir.MANIFEST, "the run's manifest")
    # With the step, this tells the weights of the live model from all others in the cache.
    run_hash = fingerprints.hash_value([config.tree, manifest["data"], manifest["weights"]])
    cache_dir = Path(config.paths.cache_dir)

    def evaluate(step: int) -> dict[str, float]:
        weights = f"{run_folder.resolve()} step {step} of {run_hash}"
        target_dir = run_folder / f"checkpoint-{step}" / run_dir.EVALS
        values = evaluate_loaded(
            config.eval, loaded, dist, target_dir, cache_dir, weights, tell=False, planned=plans
        )
        return {f"eval_{name}": value for name, value in values.items()}

    return evaluate
