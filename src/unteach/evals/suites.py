"""Suites carried out: the passes that all of them need, then the arithmetic of their metrics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from unteach.config.suites import SuiteConfig
from unteach.data.template import Template
from unteach.engines.base import Engine
from unteach.errors import UserError
from unteach.evals import measurement_plan, suite_files, suite_plan
from unteach.evals.base import MeasuredRow, Measurement, Progress, Result, Retain, Task, Value
from unteach.evals.measurement_plan import AuxiliaryModels, Measured, SuiteNeeds
from unteach.evals.suite_plan import SuitePlan


def evaluate(
    configs: dict[str, SuiteConfig],
    engine: Engine,
    template: Template,
    progress: Progress,
    folder: Path | None,
    auxiliary_models: AuxiliaryModels | None = None,
) -> dict[str, dict[str, Value]]:
    """Plan suites and carry them out; the arguments are those of `carry_out`."""
    plans = suite_plan.plan_all(configs, template, engine.context)
    return carry_out(plans, engine, progress, folder, auxiliary_models)


def carry_out(
    plans: dict[str, SuitePlan],
    engine: Engine,
    progress: Progress,
    folder: Path | None,
    auxiliary_models: AuxiliaryModels | None = None,
    weights: str = "",
) -> dict[str, dict[str, Value]]:
    """Measure what the planned suites need, all of them together, and compute their values.

    Args:
        plans: by suite.
        engine: runs the model that is evaluated.
        progress: shows each pass.
        folder: gets the suites' files; None: this process does not write.
        auxiliary_models: run other models, such as a reference.
        weights: what tells the measured weights from all others.

    Returns:
        The values by suite and metric.
    """
    # Their logs come first: they are part of what the plans compare with.
    _evaluate_retain_models(plans, auxiliary_models)
    suite_needs = {}
    for name, plan in plans.items():
        suite_needs[name] = SuiteNeeds(plan.rows, plan.list_measurements())
    measured = measurement_plan.measure(suite_needs, engine, auxiliary_models, progress)
    values = {}
    for name, plan in plans.items():
        values[name] = compute_values(plan, measured[name], plan.rows.template.eos)
        if folder is not None:
            suite_files.write(plan, values[name], measured[name], folder, weights)
    return values


def _evaluate_retain_models(
    plans: dict[str, SuitePlan], auxiliary_models: AuxiliaryModels | None
) -> None:
    """Evaluate the models that retain_model names, each once for all suites, on what is compared
    with theirs."""
    configs_by_path: dict[str, dict[str, SuiteConfig]] = {}
    for name, plan in plans.items():
        compared: dict[str, None] = {}
        for need in plan.list_needs():
            if isinstance(need, Retain):
                compared[need.metric] = None
        if plan.logs[Retain].is_awaited and compared:
            path = str(plan.config.retain_model)
            config = replace(
                plan.config,
                metrics=list(compared),
                retain_model=None,
            )
            configs_by_path.setdefault(path, {})[name] = config

    for path, configs in configs_by_path.items():
        assert auxiliary_models is not None
        for name, values in auxiliary_models.evaluate(path, configs).items():
            log = plans[name].logs[Retain]
            log.values = {metric: value.to_json() for metric, value in values.items()}
            log.is_awaited = False


def compute_values(
    plan: SuitePlan,
    measured: Measured,
    eos: int,
) -> dict[str, Value]:
    """Compute the values of a plan's metrics: arithmetic only.

    Args:
        plan: its metrics stand after those that they need.
        measured: what each need measured.
        eos: the id of the end-of-sequence token.
    """
    values: dict[str, Value] = {}
    for name, metric in plan.metrics.items():
        arguments: dict[str, Any] = {}
        for argument, need in metric.needs().items():
            if isinstance(need, Measurement):
                _refuse_not_finite(name, need, measured[need])
                arguments[argument] = measured[need]
            elif isinstance(need, Result):
                arguments[argument] = values[need.metric]
            else:
                arguments[argument] = plan.logs[type(need)].values.get(need.metric)
        values[name] = metric.compute(name, **arguments, eos=eos)
    return values


def _refuse_not_finite(
    name: str,
    need: Measurement,
    rows: list[MeasuredRow],
) -> None:
    bad_rows = [row.index for row in rows if not row.is_finite]
    if bad_rows and not isinstance(need, Task):
        raise UserError(
            f"{name}: the model's values are not finite at rows {bad_rows[:8]} of {need.column}; "
            "it has diverged"
        )
