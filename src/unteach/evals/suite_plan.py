"""What a suite will do, resolved before any model pass: its metrics, what they need, and which of
them are absent.

A metric that came from a default list is absent with a reason where its data, the retain log or the
reference model is; one asked for by name is an error. A metric of a role that the run has no rows
of is not asked for at all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unteach import registry
from unteach.config.suites import SuiteConfig
from unteach.data.template import Template
from unteach.distributed import launch_environment
from unteach.errors import AbsentData, UserError
from unteach.evals import retain_logs
from unteach.evals.base import (
    Before,
    Classes,
    GradNorms,
    Logged,
    Measurement,
    Metric,
    Need,
    ReferenceScores,
    Result,
    Retain,
    Task,
    Texts,
)
from unteach.evals.lm_eval import tasks
from unteach.evals.own_rows import OwnRows
from unteach.evals.retain_logs import ColumnUnderMetric, Log
from unteach.evals.rows import EvalRows


@dataclass
class SuitePlan:
    """Hold what one suite will do.

    Attributes:
        config: the suite's configuration.
        rows: the rows that its metrics read.
        metric_names: the metrics that are asked for.
        logs: of other models, by the kind of need that reads them.
        metrics: those asked for and those under them, in the order of their dependencies.
        absent: why a metric of a default list is not there, by name.
    """

    config: SuiteConfig
    rows: EvalRows
    metric_names: list[str]
    logs: dict[type[Logged], Log]
    metrics: dict[str, Metric] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def list_needs(self) -> list[Need]:
        """List each need of the metrics once, in an order that is the same in every process."""
        needs: dict[Need, None] = {}
        for metric in self.metrics.values():
            needs.update(dict.fromkeys(metric.needs().values()))
        return list(needs)

    def list_measurements(self) -> list[Measurement]:
        """List what must be measured."""
        return [need for need in self.list_needs() if isinstance(need, Measurement)]

    def list_columns_under(self, metric_name: str) -> Iterator[ColumnUnderMetric]:
        """List every column that a metric, and those it is made of, are measured on."""
        for argument, need in self.metrics[metric_name].needs().items():
            if isinstance(need, Result):
                yield from self.list_columns_under(need.metric)
            elif isinstance(need, Measurement) and not isinstance(need, Task):
                half = argument.partition("_")[0]
                yield ColumnUnderMetric(half, need.column, self.rows.load_column(need.column))


def plan_all(
    configs: dict[str, SuiteConfig],
    template: Template,
    context: int | None = None,
    own: Mapping[str, OwnRows] | None = None,
) -> dict[str, SuitePlan]:
    """Plan suites, by name; the arguments are those of `plan_suite`."""
    plans = {}
    for name, config in configs.items():
        plans[name] = plan_suite(config, template, context, own)
    return plans


def plan_suite(
    config: SuiteConfig,
    template: Template,
    context: int | None = None,
    own: Mapping[str, OwnRows] | None = None,
) -> SuitePlan:
    """Resolve the metrics that a suite asks for and everything under them.

    Args:
        config: of the suite.
        template: turns rows into tokens.
        context: tokens that the model reads.
        own: the run's own rows by role; of a default list, only the metrics of these roles are
            asked for.

    Raises:
        UserError: a metric that was asked for by name cannot be had, or none of a default list.
    """
    is_default = config.metrics in ("all", "default")
    metric_names = config.list_metrics()
    if is_default:
        metric_names = _drop_metrics_of_absent_roles(config, metric_names, own or {})
    logs: dict[type[Logged], Log] = {
        Retain: retain_logs.read_log(config),
        Before: retain_logs.read_log(config, "before_logs_path"),
    }
    rows_of_run = own if config.reads_own_rows() else None
    rows = EvalRows(config, template, context, rows_of_run)
    plan = SuitePlan(config, rows, metric_names, logs)
    for name in metric_names:
        reason = _add_metric(plan, name, above=())
        if reason and not is_default:
            raise UserError(f"eval.{config.suite}.metrics asks for {name}, and {reason}")
        if reason:
            plan.absent[name] = reason
    _refuse_empty_plan(plan)
    return plan


def _drop_metrics_of_absent_roles(
    config: SuiteConfig,
    metric_names: list[str],
    own: Mapping[str, OwnRows],
) -> list[str]:
    """Drop the metrics that read rows of a role which the run does not have."""
    absent_rows = set()
    for rows_name, rows_config in config.rows.items():
        if rows_config.role is not None and rows_config.role not in own:
            absent_rows.add(rows_name)
    if not absent_rows:
        return metric_names
    kept = []
    for name in metric_names:
        rows_under = _find_rows_under(config, name, above=())
        if absent_rows.isdisjoint(rows_under):
            kept.append(name)
    if not kept:
        raise UserError(
            f"eval.{config.suite}: measures the run's own rows, and this run has none of them: "
            "set data.forget_file, data.retain_file, data.train_file or data.holdout_file "
            "(data=files)"
        )
    return kept


def _find_rows_under(
    config: SuiteConfig,
    name: str,
    above: tuple[str, ...],
) -> set[str]:
    """Find the names of the rows that a metric, and those it is made of, are measured on."""
    if name not in config.define or name in above:
        return set()
    rows_names: set[str] = set()
    for need in build_metric(config, name).needs().values():
        if isinstance(need, Result):
            rows_names |= _find_rows_under(config, need.metric, (*above, name))
        elif isinstance(need, Measurement) and not isinstance(need, Task):
            rows_names.add(need.column.partition(".")[0])
    return rows_names


def _refuse_empty_plan(plan: SuitePlan) -> None:
    """Raise UserError where not one metric of a default list can be had: the suite would end
    without a value."""
    # Metrics that others are computed from may be there although nothing asked for is.
    if plan.absent and not any(name in plan.metrics for name in plan.metric_names):
        reasons = list(dict.fromkeys(plan.absent.values()))
        raise UserError(
            f"eval.{plan.config.suite}: not one of its {len(plan.metric_names)} metrics can be "
            "measured: " + "; ".join(reasons[:2])
        )


def build_metric(config: SuiteConfig, name: str) -> Metric:
    """Build a metric as the suite defines it, with published quirks under compat."""
    definition = dict(config.define[name])
    metric_class: Any = registry.metric.get(definition.pop("metric"))
    arguments = dict(metric_class.QUIRKS) if config.compat else {}
    arguments.update(definition)
    metric: Metric = metric_class(**arguments)
    return metric


def _add_metric(
    plan: SuitePlan,
    name: str,
    above: tuple[str, ...],
) -> str | None:
    """Add a metric to the plan, after those it needs.

    Args:
        plan: what is added to.
        name: of the metric.
        above: the metrics that need this one, outermost first.

    Returns:
        Why the metric cannot be had; None if it can.
    """
    if name in plan.metrics or name in plan.absent:
        return plan.absent.get(name)
    where = f"eval.{plan.config.suite}.define"
    if name in above:
        raise UserError(f"{where}: {' -> '.join((*above, name))} goes round in a circle")
    if name not in plan.config.define:
        raise UserError(f"{where}: {above[-1]} needs {name!r}, which is not defined")
    metric = build_metric(plan.config, name)
    for need in metric.needs().values():
        reason = _explain_absence(plan, need, (*above, name))
        if reason:
            return reason
    plan.metrics[name] = metric
    return None


def _explain_absence(
    plan: SuitePlan,
    need: Need,
    above: tuple[str, ...],
) -> str | None:
    """Say why a need cannot be met; None if it can."""
    if isinstance(need, Result):
        reason = _add_metric(plan, need.metric, above)
        if reason and not reason.startswith(need.metric):
            return f"{need.metric} is absent: {reason}"
        return reason
    if isinstance(need, Logged):
        return _explain_absence_in_log(plan, need)
    if isinstance(need, Task):
        tasks.refuse_unknown(need.name, plan.config)
        return None
    if isinstance(need, GradNorms) and launch_environment.is_sharded():
        return (
            "it needs the gradients of all weights in one process, and this run shards them: "
            "evaluate without launch"
        )
    if isinstance(need, Classes) and not plan.config.classifier_path:
        return f"it asks a classifier, and no eval.{plan.config.suite}.classifier_path is set"
    if isinstance(need, ReferenceScores) and not plan.config.reference_model_path:
        return "it compares with a reference model, and no reference_model_path is set"
    try:
        plan.rows.load_column(need.column)
    except AbsentData as error:
        return f"its rows are absent: {error}"
    is_own = plan.rows.get_config(need.column).role is not None
    if isinstance(need, Texts) and is_own and not plan.rows.has_questions(need.column):
        return "its rows are plain text, and nothing is asked that could be answered"
    return None


def _explain_absence_in_log(plan: SuitePlan, need: Logged) -> str | None:
    """Say why a log cannot be compared with; raise UserError where it is of other rows."""
    log = plan.logs[type(need)]
    if need.optional and not log.path:
        return None
    reason = log.explain_absence(need.metric)
    if not reason and need.metric in plan.metrics:
        log.refuse_other_rows(need.metric, plan.list_columns_under(need.metric))
    return reason
