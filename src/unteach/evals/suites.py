"""Suites: which metrics are asked for, what they need, and the files that their values are written to.

<SUITE>_EVAL.json has every value with its examples, <SUITE>_SUMMARY.json the values that were asked for,
<SUITE>_ROWS.json the rows they are of, <SUITE>_TOKENS.json the answers of `tokens` token by token, and
<SUITE>_ABSENT.json why a metric is not there. A metric that came from a
default list is absent with a reason where its data, the retain log or the reference model is; one asked for by name is
an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unteach import registry, runs
from unteach.data.template import Template
from unteach.engines.base import Engine
from unteach.errors import AbsentData, UserError
from unteach.evals import retain, tokens
from unteach.evals.base import Measurement, Metric, ReferenceScores, Result, Retain, Scores, Value
from unteach.evals.measure import Measured, Progress, References, measure
from unteach.evals.retain import RetainLog
from unteach.evals.rows import Asked, Rows
from unteach.schema import SuiteConfig


@dataclass
class Plan:
    """What one suite will do: its metrics in the order of their dependencies, and those that are absent."""

    config: SuiteConfig
    rows: Rows
    asked: list[str]
    retain_log: RetainLog
    metrics: dict[str, Metric] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def measurements(self) -> list[Measurement]:
        """What must be measured, each need once, in an order that is the same in every process."""
        needs = [need for metric in self.metrics.values() for need in metric.needs().values()]
        return list(dict.fromkeys(need for need in needs if isinstance(need, Measurement)))

    def rows_under(self, metric: str) -> Iterator[tuple[str, str, Asked]]:
        """Every column that a metric and those it is made of are measured on: (half of an attack, column, rows)."""
        for argument, need in self.metrics[metric].needs().items():
            if isinstance(need, Measurement):
                yield argument.partition("_")[0], need.of, self.rows.asked(need.of)
            elif isinstance(need, Result):
                yield from self.rows_under(need.of)


def evaluate(
    configs: dict[str, SuiteConfig],
    engine: Engine,
    template: Template,
    progress: Progress,
    folder: Path | None,
    references: References | None = None,
) -> dict[str, dict[str, Value]]:
    """Runs every suite in one plan; writes each suite's files into `folder` (None: this process does not write)."""
    plans = {name: plan(config, template) for name, config in configs.items()}
    measured = measure({name: (p.rows, p.measurements()) for name, p in plans.items()}, engine, references, progress)
    results = {}
    for name, one in plans.items():
        results[name] = compute(one, measured[name], template.eos)
        if folder is not None:
            write(one, results[name], folder)
            write_tokens(one, measured[name], folder)
    return results


def plan(config: SuiteConfig, template: Template) -> Plan:
    """Resolves the asked metrics and everything under them, before any model pass."""
    default, asked = config.metrics in ("all", "default"), config.asked()
    made = Plan(config, Rows(config, template), asked, retain.read(config))
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
        if need.optional and not made.config.retain_logs_path:
            return None
        reason = made.retain_log.lacks(need.of)
        if not reason and need.of in made.metrics:
            made.retain_log.refuse_other_rows(need.of, made.rows_under(need.of))
        return reason
    if isinstance(need, ReferenceScores) and not made.config.reference_model_path:
        return "it compares with a reference model, and no reference_model_path is set"
    try:
        made.rows.asked(need.of)
    except AbsentData as error:
        return f"its rows are absent: {error}"
    return None


def compute(made: Plan, measured: Measured, eos: int) -> dict[str, Value]:
    """The values of a plan's metrics: arithmetic only."""
    values: dict[str, Value] = {}
    for name, metric in made.metrics.items():
        arguments: dict[str, Any] = {}
        for argument, need in metric.needs().items():
            if isinstance(need, Measurement):
                _refuse_infinite(name, need, measured[need])
                arguments[argument] = measured[need]
            elif isinstance(need, Result):
                arguments[argument] = values[need.of]
            else:
                arguments[argument] = made.retain_log.values.get(need.of)
        values[name] = metric.compute(name, **arguments, eos=eos)
    return values


def _refuse_infinite(name: str, need: Measurement, rows: list[Any]) -> None:
    bad = [row.index for row in rows if not row.finite]
    if bad:
        raise UserError(f"{name}: the model's values are not finite at rows {bad[:8]} of {need.of}; it has diverged")


def write(made: Plan, values: dict[str, Value], folder: Path) -> None:
    prefix, rows = made.config.suite.upper(), made.rows
    runs.write_json(folder / f"{prefix}{retain.EVAL}", {name: values[name].to_json() for name in sorted(values)})
    runs.write_json(folder / f"{prefix}_SUMMARY.json", summary(made.asked, values))
    under = {column: asked for name in made.metrics for _, column, asked in made.rows_under(name)}
    told = {column: {"of": a.where, "count": a.count, "digest": a.digest} for column, a in sorted(under.items())}
    runs.write_json(folder / f"{prefix}{retain.ROWS}", told)
    said = {f"rows skipped in {of}": f"{n}: empty answer, or no room for it" for of, n in rows.skipped.items()}
    said |= {f"answers cut in {of}": f"{n}: longer than max_length allows" for of, n in rows.cut.items()}
    absent = folder / f"{prefix}_ABSENT.json"
    if made.absent or said:
        runs.write_json(absent, made.absent | said)
    else:
        absent.unlink(missing_ok=True)


def write_tokens(made: Plan, measured: Measured, folder: Path) -> None:
    """What the model thinks of each token of the column that `tokens` names, where some metric measured it."""
    file, need = folder / f"{made.config.suite.upper()}_TOKENS.json", Scores(made.config.tokens or "")
    if need in measured:
        asked = made.rows.asked(need.of)
        runs.write_json(file, tokens.listed(need.of, asked, measured[need], made.rows.template.tokenizer))
    else:
        file.unlink(missing_ok=True)


def summary(asked: list[str], values: dict[str, Value]) -> dict[str, float | None]:
    """The flat form: the metrics that were asked for, and their values."""
    return {name: values[name].agg for name in sorted(asked) if name in values}
