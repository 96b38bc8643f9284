"""Suites: which metrics are asked for, what they need, and the files that their values are written
to.

<SUITE>_EVAL.json has every value with its examples, <SUITE>_SUMMARY.json the values that were asked
for, <SUITE>_ROWS.json the rows they are of, <SUITE>_TOKENS.json the answers of `tokens` token by
token, <SUITE>_METRICS.json how its metrics are described (label, role, which way is good),
<SUITE>_ABSENT.json why a metric is not there, <SUITE>_NOTES.json what became of rows (drawn,
skipped, cut), and <SUITE>_BASIS.json which weights and settings the values are of, so that a later
evaluation of the same adds to them. A metric that came from a default list is absent with a reason
where its data, the retain log or the reference model is; one asked for by name is an error. A
metric of a role that the run has no rows of is not asked for at all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from unteach import atomic, json_files, registry
from unteach.config.metric_descriptions import Role
from unteach.config.suites import SuiteConfig
from unteach.data.template import Template
from unteach.distributed import launch_environment
from unteach.engines.base import Engine
from unteach.errors import AbsentData, UserError
from unteach.evals import measurement_plan, merge_results, retain_logs, token_table
from unteach.evals.base import (
    Before,
    Classes,
    GradNorms,
    Logged,
    Measurement,
    Metric,
    ReferenceScores,
    Result,
    Retain,
    Scores,
    Task,
    Texts,
    Value,
)
from unteach.evals.lm_eval import tasks
from unteach.evals.measurement_plan import Measured, Progress
from unteach.evals.own_rows import OwnRows
from unteach.evals.retain_logs import Log
from unteach.evals.rows import Asked, Rows


class Others(measurement_plan.Others, Protocol):
    """Other models than the one that is evaluated, which can be evaluated on whole suites too."""

    def evaluate(
        self, path: str, configs: dict[str, SuiteConfig]
    ) -> dict[str, dict[str, Value]]: ...


TOKENS = "_TOKENS.json"


@dataclass
class Plan:
    """What one suite will do: its metrics in the order of their dependencies, and those that are
    absent."""

    config: SuiteConfig
    rows: Rows
    asked: list[str]
    logs: dict[type[Logged], Log]
    metrics: dict[str, Metric] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def measurements(self) -> list[Measurement]:
        """What must be measured, each need once, in an order that is the same in every process."""
        needs = [need for metric in self.metrics.values() for need in metric.needs().values()]
        return list(dict.fromkeys(need for need in needs if isinstance(need, Measurement)))

    def rows_under(self, metric: str) -> Iterator[tuple[str, str, Asked]]:
        """Every column that a metric and those it is made of are measured on: (half of an attack,
        column, rows)."""
        for argument, need in self.metrics[metric].needs().items():
            if isinstance(need, Measurement) and not isinstance(need, Task):
                yield argument.partition("_")[0], need.of, self.rows.asked(need.of)
            elif isinstance(need, Result):
                yield from self.rows_under(need.of)


def evaluate(
    configs: dict[str, SuiteConfig],
    engine: Engine,
    template: Template,
    progress: Progress,
    folder: Path | None,
    others: Others | None = None,
) -> dict[str, dict[str, Value]]:
    """Runs every suite in one plan; writes each suite's files into `folder` (None: this process
    does not write)."""
    return carry_out(plans(configs, template, engine.context), engine, progress, folder, others)


def plans(
    configs: dict[str, SuiteConfig],
    template: Template,
    context: int | None = None,
    own: Mapping[str, OwnRows] | None = None,
) -> dict[str, Plan]:
    """What all suites will do, before any model pass; raises what is wrong with them. own: the
    run's rows by role."""
    return {name: plan(config, template, context, own) for name, config in configs.items()}


def carry_out(
    plans: dict[str, Plan],
    engine: Engine,
    progress: Progress,
    folder: Path | None,
    others: Others | None = None,
    weights: str = "",
) -> dict[str, dict[str, Value]]:
    """The values of the planned suites; their files, too, where there is a folder.

    weights: what tells the measured weights from all others.
    """
    _await_retain_models(plans, others)
    asking = {name: (one.rows, one.measurements()) for name, one in plans.items()}
    measured = measurement_plan.measure(asking, engine, others, progress)
    results = {}
    for name, one in plans.items():
        results[name] = compute(one, measured[name], one.rows.template.eos)
        if folder is not None:
            is_merged = write(one, results[name], folder, weights)
            write_tokens(one, measured[name], folder, keep=is_merged)
    return results


def _await_retain_models(plans: dict[str, Plan], others: Others | None) -> None:
    """Has the models evaluated that retain_model names, each once for all suites, on what is
    compared with theirs."""
    asking: dict[str, dict[str, SuiteConfig]] = {}
    for name, made in plans.items():
        needs = [need for metric in made.metrics.values() for need in metric.needs().values()]
        wanted = list(dict.fromkeys(need.of for need in needs if isinstance(need, Retain)))
        if made.logs[Retain].awaited and wanted:
            config = replace(made.config, metrics=wanted, retain_model=None)
            asking.setdefault(str(made.config.retain_model), {})[name] = config
    for path, configs in asking.items():
        assert others is not None
        for name, values in others.evaluate(path, configs).items():
            log = plans[name].logs[Retain]
            log.values = {metric: value.to_json() for metric, value in values.items()}
            log.awaited = False


def plan(
    config: SuiteConfig,
    template: Template,
    context: int | None = None,
    own: Mapping[str, OwnRows] | None = None,
) -> Plan:
    """Resolves the asked metrics and everything under them, before any model pass.

    context: tokens the model reads. own: the run's rows by role; of a default list, only the
    metrics of these roles are asked for.
    """
    default, asked = config.metrics in ("all", "default"), config.asked()
    lacking: set[str] = set()
    if default:
        lacking = {
            name
            for name, rows in config.rows.items()
            if rows.role is not None and rows.role not in (own or {})
        }
    if lacking:
        asked = [name for name in asked if not lacking & _rows_read(config, name, set())]
        if not asked:
            raise UserError(
                f"eval.{config.suite}: measures the run's own rows, and this run has none of them: "
                "set data.forget_file, data.retain_file, data.train_file or data.holdout_file "
                "(data=files)"
            )
    logs: dict[type[Logged], Log] = {
        Retain: retain_logs.read(config),
        Before: retain_logs.read(config, "before_logs_path"),
    }
    rows = Rows(config, template, context, own if config.reads_own_rows() else None)
    made = Plan(config, rows, asked, logs)
    for name in asked:
        reason = _add(made, name, ())
        if reason:
            if not default:
                raise UserError(f"eval.{config.suite}.metrics asks for {name}, and {reason}")
            made.absent[name] = reason
    _refuse_empty_plan(made)
    return made


def _refuse_empty_plan(made: Plan) -> None:
    """Raise UserError where not one metric of a default list can be had: the suite would end
    without a value."""
    if made.absent and not made.metrics:
        reasons = list(dict.fromkeys(made.absent.values()))
        raise UserError(
            f"eval.{made.config.suite}: not one of its {len(made.asked)} metrics can be measured: "
            + "; ".join(reasons[:2])
        )


def _rows_read(config: SuiteConfig, name: str, above: set[str]) -> set[str]:
    """The names of the rows that a metric and those it is made of are measured on."""
    if name not in config.define or name in above:
        return set()
    found: set[str] = set()
    for need in build(config, name).needs().values():
        if isinstance(need, Result):
            found |= _rows_read(config, need.of, above | {name})
        elif isinstance(need, Measurement) and not isinstance(need, Task):
            found.add(need.of.partition(".")[0])
    return found


def _add(made: Plan, name: str, above: tuple[str, ...]) -> str | None:
    """Adds a metric after those it needs; gives the reason if it cannot be had."""
    if name in made.metrics or name in made.absent:
        return made.absent.get(name)
    if name in above:
        raise UserError(
            f"eval.{made.config.suite}.define: {' -> '.join((*above, name))} goes round in a circle"
        )
    if name not in made.config.define:
        raise UserError(
            f"eval.{made.config.suite}.define: {above[-1]} needs {name!r}, which is not defined"
        )
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
        return (
            f"{need.of} is absent: {reason}"
            if reason and not reason.startswith(need.of)
            else reason
        )
    if isinstance(need, Logged):
        log = made.logs[type(need)]
        if need.optional and not log.path:
            return None
        reason = log.lacks(need.of)
        if not reason and need.of in made.metrics:
            log.refuse_other_rows(need.of, made.rows_under(need.of))
        return reason
    if isinstance(need, Task):
        tasks.refuse_unknown(need.name, made.config)
        return None
    if isinstance(need, GradNorms) and launch_environment.sharded():
        return (
            "it needs the gradients of all weights in one process, and this run shards them: "
            "evaluate without launch"
        )
    if isinstance(need, Classes) and not made.config.classifier_path:
        return f"it asks a classifier, and no eval.{made.config.suite}.classifier_path is set"
    if isinstance(need, ReferenceScores) and not made.config.reference_model_path:
        return "it compares with a reference model, and no reference_model_path is set"
    try:
        made.rows.asked(need.of)
    except AbsentData as error:
        return f"its rows are absent: {error}"
    is_own = made.rows.settings(need.of).role is not None
    if isinstance(need, Texts) and is_own and not made.rows.has_questions(need.of):
        return "its rows are plain text, and nothing is asked that could be answered"
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
                arguments[argument] = made.logs[type(need)].values.get(need.of)
        values[name] = metric.compute(name, **arguments, eos=eos)
    return values


def _refuse_infinite(name: str, need: Measurement, rows: list[Any]) -> None:
    bad = [row.index for row in rows if not row.finite]
    if bad and not isinstance(need, Task):
        raise UserError(
            f"{name}: the model's values are not finite at rows {bad[:8]} of {need.of}; it has "
            f"diverged"
        )


def write(made: Plan, values: dict[str, Value], folder: Path, weights: str = "") -> bool:
    """Write the files of a suite's values; gives whether earlier values of the same weights are
    kept in them."""
    contents: merge_results.Contents = {
        retain_logs.EVAL: {name: values[name].to_json() for name in sorted(values)},
        merge_results.SUMMARY: summary(made.asked, values),
        retain_logs.ROWS: rows_measured(made),
        merge_results.METRICS: list_descriptions(made),
        merge_results.NOTES: notes(made),
        merge_results.ABSENT: made.absent,
    }
    basis = merge_results.basis_of(made.config, weights)
    return merge_results.write_merged(contents, basis, made.config.suite.upper(), folder)


def rows_measured(made: Plan) -> dict[str, dict[str, Any]]:
    """The rows that the metrics are measured on, by column: where they are from, how many, and a
    digest of them."""
    under = {column: asked for name in made.metrics for _, column, asked in made.rows_under(name)}
    return {
        column: {"of": a.where, "count": a.count, "digest": a.digest}
        for column, a in sorted(under.items())
    }


def is_measured(made: Plan, folder: Path) -> bool:
    """Whether a folder has the values of all that is planned, on the same rows, and every file of
    them."""
    prefix = made.config.suite.upper()
    files = [
        folder / f"{prefix}{kind}"
        for kind in (retain_logs.EVAL, retain_logs.ROWS, merge_results.BASIS)
    ]
    if Scores(made.config.tokens or "") in made.measurements():
        files.append(folder / f"{prefix}{TOKENS}")  # the last that is written
    if not all(file.exists() for file in files):
        return False
    values, rows = (
        json_files.read_json(file, "the evaluation before training") for file in files[:2]
    )
    return set(made.metrics) <= set(values) and rows == rows_measured(made)


def list_descriptions(made: Plan) -> dict[str, dict[str, Any]]:
    """Give what a suite and the classes of its metrics say of them, measured now or not.

    Where a run learns, better answers to rows that it never saw are welcome; only unlearning should
    leave them alone.
    """
    only_learns = "train" in made.rows.own and "forget" not in made.rows.own
    descriptions = {}
    for name, description in made.config.describe.items():
        role = description.role or _infer_role(made, name)
        better = description.better
        if only_learns and role == "holdout" and better == "near before":
            better = "higher"
        entry = asdict(replace(description, role=role, better=better))
        descriptions[name] = {key: value for key, value in entry.items() if value is not None}
    return descriptions


def _infer_role(made: Plan, name: str) -> Role | None:
    """Give the role of the rows that a metric is measured on, where all have the same."""
    if name not in made.metrics:
        return None
    columns = {column for _, column, _ in made.rows_under(name)}
    roles = {made.rows.settings(column).role for column in columns}
    return roles.pop() if len(roles) == 1 else None


def notes(made: Plan) -> dict[str, str]:
    """What became of the rows: drawn, skipped, cut, and how many of each."""
    rows, suite = made.rows, made.config.suite
    said = {
        f"rows measured of {name}": f"{most:,} of {count:,}, drawn by seed {made.config.seed} "
        f"(eval.{suite}.max_rows)"
        for name, (most, count) in rows.drawn.items()
    }
    said |= {
        f"rows skipped in {of}": f"{n}: empty answer, or no room for it"
        for of, n in rows.skipped.items()
    }
    long = "longer than max_length allows, or than the model reads"
    said |= {f"answers cut in {of}": f"{n}: {long}" for of, n in rows.cut.items()}
    joined = (
        "the tokenizer joins the end of the prompt and the beginning of the answer; scored "
        "from the token after"
    )
    said |= {f"boundaries moved in {of}": f"{n}: {joined}" for of, n in rows.joined.items()}
    return said | {
        f"continuations cut in {of}": f"{n}: the model's context ends before"
        for of, n in _short(made)
    }


def _short(made: Plan) -> Iterator[tuple[str, int]]:
    """The columns with prompts after which the context has no room for all new tokens, and how many
    they are."""
    for need in made.measurements():
        if isinstance(need, Texts):
            room = made.rows.context - made.rows.generation(need.of)["max_new_tokens"]
            if count := sum(len(prompt) > room for prompt in made.rows.asked(need.of).prompts):
                yield need.of, count


def write_tokens(made: Plan, measured: Measured, folder: Path, keep: bool = False) -> None:
    """What the model thinks of each token of the column that `tokens` names, where some metric
    measured it.

    keep: an earlier file stays where nothing measured it now.
    """
    file, need = folder / f"{made.config.suite.upper()}{TOKENS}", Scores(made.config.tokens or "")
    if need in measured:
        asked = made.rows.asked(need.of)
        atomic.write_json(
            file, token_table.listed(need.of, asked, measured[need], made.rows.template.tokenizer)
        )
    elif not keep:
        file.unlink(missing_ok=True)


def summary(asked: list[str], values: dict[str, Value]) -> dict[str, float | None]:
    """The flat form: the metrics that were asked for, and their values."""
    return {name: values[name].agg for name in sorted(asked) if name in values}
