"""Suites: which metrics are asked for, what they need, and the files that their values are written to.

<SUITE>_EVAL.json has every value with its examples, <SUITE>_SUMMARY.json the values that were asked for, and
<SUITE>_ABSENT.json why a metric is not there. A metric that came from a default list is absent with a reason where its
data or the retain log is; one asked for by name is an error.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unteach import registry, runs
from unteach.data.template import Template
from unteach.engines.base import Engine
from unteach.errors import AbsentData, UserError
from unteach.evals.base import Metric, Result, Retain, Scores, Texts, Value
from unteach.evals.measure import Measured, Progress, Rows, measure
from unteach.schema import SuiteConfig


@dataclass
class Plan:
    """What one suite will do: its metrics in the order of their dependencies, and those that are absent."""

    config: SuiteConfig
    rows: Rows
    asked: list[str]
    metrics: dict[str, Metric] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    retain_log: dict[str, Any] = field(default_factory=dict)

    def needed(self, kind: Any) -> list[Any]:
        """The needs of one kind, each once, in an order that is the same in every process."""
        needs = [need for metric in self.metrics.values() for need in metric.needs().values()]
        return list(dict.fromkeys(need for need in needs if isinstance(need, kind)))


def evaluate(
    configs: dict[str, SuiteConfig], engine: Engine, template: Template, progress: Progress, folder: Path | None
) -> dict[str, dict[str, Value]]:
    """Runs every suite in one plan; writes each suite's files into `folder` (None: this process does not write)."""
    plans = {name: plan(config, template) for name, config in configs.items()}
    needs = {name: (p.rows, p.needed(Scores), p.needed(Texts)) for name, p in plans.items()}
    measured = measure(needs, engine, progress)
    results = {}
    for name, one in plans.items():
        results[name] = compute(one, measured[name], template.eos)
        if folder is not None:
            write(one, results[name], folder)
    return results


def plan(config: SuiteConfig, template: Template) -> Plan:
    """Resolves the asked metrics and everything under them, before any model pass."""
    default = config.metrics in ("all", "default")
    asked = (
        list(config.define)
        if config.metrics == "all"
        else config.default
        if config.metrics == "default"
        else config.metrics
    )
    asked = [asked] if isinstance(asked, str) else list(asked)
    made = Plan(config, Rows(config, template), asked, retain_log=retain_log(config.retain_logs_path))
    for name in asked:
        reason = _add(made, name, ())
        if reason:
            if not default:
                raise UserError(f"eval.{config.suite}.metrics asks for {name}, and {reason}")
            made.absent[name] = reason
    return made


def _add(made: Plan, name: str, above: tuple[str, ...]) -> str | None:
    """Adds a metric after those it needs; gives the reason if it cannot be had."""
    if name in made.metrics or name in made.absent:
        return made.absent.get(name)
    if name in above:
        raise UserError(f"eval.{made.config.suite}.define: {' -> '.join((*above, name))} goes round in a circle")
    if name not in made.config.define:
        raise UserError(f"eval.{made.config.suite}.define: {above[-1]} needs {name!r}, which is not defined")
    metric = build(made.config, name)
    for need in metric.needs().values():
        reason = _absence(made, need, (*above, name))
        if reason:
            return reason
    made.metrics[name] = metric
    return None


def build(config: SuiteConfig, name: str) -> Metric:
    """The metric of that name as the suite defines it, with published quirks under compat."""
    definition = dict(config.define[name])
    cls: Any = registry.metric.get(definition.pop("metric"))
    quirks = cls.QUIRKS if config.compat else {}
    return cls(**{**quirks, **definition})


def _absence(made: Plan, need: Any, above: tuple[str, ...]) -> str | None:
    if isinstance(need, Result):
        reason = _add(made, need.of, above)
        return f"{need.of} is absent: {reason}" if reason and not reason.startswith(need.of) else reason
    if isinstance(need, Retain):
        if need.optional:
            return None
        if not made.config.retain_logs_path:
            return "it compares with a retain model, and no retain_logs_path is set"
        if need.of not in made.retain_log:
            return f"the retain log {made.config.retain_logs_path} has no {need.of}"
        return None
    try:
        made.rows.asked(need.of)
    except AbsentData as error:
        return f"its rows are absent: {error}"
    return None


def retain_log(path: str | None) -> dict[str, Any]:
    """A <SUITE>_EVAL.json of ours or OpenUnlearning's; a run's folder stands for the log in it."""
    if not path:
        return {}
    file = Path(path)
    if file.is_dir():
        found = sorted([*file.glob("*_EVAL.json"), *(file / runs.EVALS).glob("*_EVAL.json")])
        if not found:
            raise UserError(f"retain_logs_path={path}: no *_EVAL.json in this folder; evaluate the retain model first")
        file = found[0]
    log = runs.read_json(file, "retain_logs_path")
    if not isinstance(log, dict):
        raise UserError(f"retain_logs_path={path}: not an evaluation log (a mapping of metrics)")
    return log


def compute(made: Plan, measured: Measured, eos: int) -> dict[str, Value]:
    """The values of a plan's metrics: arithmetic only."""
    values: dict[str, Value] = {}
    for name, metric in made.metrics.items():
        arguments: dict[str, Any] = {}
        for argument, need in metric.needs().items():
            if isinstance(need, Scores):
                arguments[argument] = measured.scores[need]
            elif isinstance(need, Texts):
                arguments[argument] = measured.texts[need]
            elif isinstance(need, Result):
                arguments[argument] = values[need.of]
            else:
                arguments[argument] = made.retain_log.get(need.of)
        values[name] = metric.compute(name, **arguments, eos=eos)
    return values


def write(made: Plan, values: dict[str, Value], folder: Path) -> None:
    prefix = made.config.suite.upper()
    runs.write_json(folder / f"{prefix}_EVAL.json", {name: values[name].to_json() for name in sorted(values)})
    runs.write_json(folder / f"{prefix}_SUMMARY.json", summary(made.asked, values))
    absent = folder / f"{prefix}_ABSENT.json"
    if made.absent or made.rows.skipped:
        skipped = {
            f"rows skipped in {of}": f"{n}: empty answer, or no room for it" for of, n in made.rows.skipped.items()
        }
        runs.write_json(absent, made.absent | skipped)
    else:
        absent.unlink(missing_ok=True)


def summary(asked: list[str], values: dict[str, Value]) -> dict[str, float | None]:
    """The flat form: the metrics that were asked for, and their values."""
    return {name: values[name].agg for name in sorted(asked) if name in values}
