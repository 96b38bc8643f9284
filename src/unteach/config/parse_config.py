"""Parse a composed tree of a training run or an evaluation into the dataclasses of schema.py.

Every problem (unknown keys, wrong types, unknown names, sections that do not fit) is collected;
none stops it.
"""

from collections.abc import Callable
from typing import Any

from unteach import registry
from unteach.config import audits, consistency, method_consistency, synonyms
from unteach.config.fila import check_fila
from unteach.config.metric_descriptions import MetricDescription, merge_descriptions
from unteach.config.parse_data import parse_collator, parse_data
from unteach.config.parse_trainer import parse_trainer
from unteach.config.reader import ConfigErrors, Reader, suggest
from unteach.config.schema import (
    PATH,
    AuditConfig,
    EvalConfig,
    ForgetSet,
    ModelConfig,
    Paths,
    RunConfig,
    TrainConfig,
    Wandb,
    has_held_out_rows,
)
from unteach.config.secrets import drop_secrets
from unteach.config.suites import SuiteConfig
from unteach.errors import UserError, find_nearest
from unteach.wording import quote_value

VALUES: dict[str, Any] = {
    "mode": str,
    "task_name": str,
    "seed": int,
    "resume": str,
    "plugins": list[str],
    "launch": str | None,
    "nproc": int | None,
}
"""Keys at the top that are no sections, and their types."""
OF_AUDITS = ("backend", "backend_args")
"""Keys at the top that only an audit has."""
REQUIRED = ("model", "paths", "mode", "task_name", "seed")
REQUIRED_OF_SUITE = {"suite", "metrics"}
"""Keys of which any suite that is asked for has at least one."""
CONFIGS: dict[str, type[RunConfig]] = {"eval": EvalConfig, "audit": AuditConfig}
"""What a configuration is by its mode, where it does not train."""


def parse_run_config(
    tree: dict[str, Any],
    variables: set[str],
    command: str = "",
) -> RunConfig:
    """Parse the composed, resolved tree.

    Args:
        tree: plain values.
        variables: top-level names that configuration files declare for their own interpolations.
        command: the command line that composes it, without secrets.

    Returns:
        An EvalConfig or an AuditConfig where the mode says so, otherwise a TrainConfig.

    Raises:
        UserError: with every problem in it.
    """
    reader = Reader()
    is_audit = tree.get("mode") == "audit"
    top = select_known(
        reader,
        {*SECTIONS, *VALUES, *(OF_AUDITS if is_audit else ())},
        variables,
        tree,
        _find_method(tree),
    )
    sections = _select_sections(reader, top)
    for name in REQUIRED:
        if name not in top:
            reader.wrong(name, "is required, and was removed")
    built = {}
    for name, value in sections.items():
        parse_section = SECTIONS[name]
        built[name] = parse_section(reader, value)
    for name, hint in VALUES.items():
        if name in top:
            built[name] = reader.value(hint, top[name], name)
    if is_audit:
        backend_args = top.get("backend_args")
        backend = audits.parse_backend(reader, top.get("backend"), backend_args)
        runs_here = getattr(backend, "LOCAL", False)
        built["engine" if runs_here else "backend"] = backend
    if top.get("forget_set") is not None:  # rows refer to it (see data/entities.py)
        reader.record(ForgetSet, top["forget_set"], "forget_set")
    _check_sections(reader, tree, built)
    if reader.problems:
        raise ConfigErrors(reader.problems)
    cls = CONFIGS.get(built["mode"], TrainConfig)
    return cls(**built, tree=drop_secrets(tree), command=command)


def _find_method(tree: dict[str, Any]) -> type | None:
    """Find the class of the run's method, where the tree names one that there is."""
    trainer = tree.get("trainer")
    if not isinstance(trainer, dict):
        return None
    handler = trainer.get("handler")
    if not isinstance(handler, str) or handler not in registry.method:
        return None
    return registry.method.get(handler)


def _select_sections(reader: Reader, top: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Select the sections that say something; what is no mapping is reported."""
    sections = {}
    for name in SECTIONS:
        value = top.get(name)
        if isinstance(value, dict) and value:
            sections[name] = value
        elif value not in (None, {}):
            reader.wrong(name, f"must be a mapping, got {quote_value(value)}")
    return sections


def _check_sections(
    reader: Reader,
    tree: dict[str, Any],
    built: dict[str, Any],
) -> None:
    """Report sections that do not fit one another."""
    trainer = built.get("trainer")
    data = built.get("data")
    suites = built.get("eval") or {}
    consistency.check_names_and_seed(reader, built)
    if built.get("wandb") and not consistency.reports_to(trainer, "wandb"):
        reader.wrong(
            "wandb",
            "nothing is sent there: set trainer.args.report_to=wandb, or leave it out",
        )
    if built.get("mode") != "audit":
        consistency.check_own_rows(reader, trainer, suites, data)
    if built.get("mode") in CONFIGS:
        if tree.get("trainer"):
            reader.wrong("trainer", f"mode={built['mode']} trains nothing; leave it out")
        if built["mode"] == "audit":
            consistency.check_audited(reader, built.get("audit"), data)
        return
    if trainer:
        has_held_out = has_held_out_rows(tree.get("data"))
        consistency.check_measured(reader, trainer, suites, has_held_out)
        consistency.check_streams(reader, trainer, data)
        consistency.check_samples(reader, trainer, data)
        model, launch = built.get("model"), built.get("launch")
        method_consistency.check_edit(reader, trainer, model, has_held_out, launch)
        check_fila(reader, trainer, model, launch)
        method_consistency.check_landing(reader, trainer, launch)
        method_consistency.check_decoding(reader, trainer, built)
        method_consistency.check_wrappers(reader, trainer, tree)
        method_consistency.check_dual_optim(reader, trainer, tree)
    if not tree.get("trainer") or not tree.get("data"):
        reader.problems.append(
            "a training run needs a trainer and data; `unteach eval` evaluates without training"
        )


def select_known(
    reader: Reader,
    own: set[str],
    variables: set[str],
    tree: dict[str, Any],
    method: type | None,
) -> dict[str, Any]:
    """Select the keys at the top that are known; what other tools call a key further down is
    answered with that key."""
    allowed = own | variables
    for name in tree:
        if name in allowed:
            continue
        mode = str(tree.get("mode"))
        hint = synonyms.suggest(str(name), tree[name], mode, method)
        least_likeness = synonyms.NEAR if hint else 0.6
        # a verb says the mode
        guess = find_nearest(str(name), allowed - {"mode"}, least_likeness)
        if guess:
            hint = f"did you mean {guess}?"
        elif not hint:
            used = own | (variables & tree.keys())
            names = ", ".join(sorted(used))
            hint = f"allowed: {names}"
        reader.wrong(str(name), f"no such key; {hint}")
    return {name: value for name, value in tree.items() if name in allowed}


def parse_model(reader: Reader, value: dict[str, Any]) -> ModelConfig | None:
    """Parse the section `model`."""
    model: ModelConfig | None = reader.record(ModelConfig, value, "model")
    if model is None:
        return None
    try:
        registry.model.get(model.model_handler)
    except UserError as error:
        reader.wrong("model.model_handler", str(error))
    texts = {
        "model.model_args.dtype": model.model_args.get("dtype"),
        f"model.model_args.{PATH}": model.model_args.get(PATH),
        f"model.tokenizer_args.{PATH}": model.tokenizer_args.get(PATH),
    }
    for key, text in texts.items():
        reader.value(str | None, text, key)
    return model


def _parse_paths(reader: Reader, value: dict[str, Any]) -> Paths | None:
    """Parse the section `paths`."""
    paths: Paths | None = reader.record(Paths, value, "paths")
    return paths


def _parse_wandb(reader: Reader, value: dict[str, Any]) -> Wandb | None:
    """Parse the section `wandb`."""
    wandb: Wandb | None = reader.record(Wandb, value, "wandb")
    return wandb


def _parse_suites(reader: Reader, value: dict[str, Any]) -> dict[str, SuiteConfig]:
    """Parse the section `eval`: suites by name."""
    suites = {}
    for name, section in value.items():
        if isinstance(section, dict) and section and not REQUIRED_OF_SUITE & section.keys():
            keys = ", ".join(f"eval.{name}.{key}" for key in section)
            reader.wrong(
                f"eval.{name}",
                f"this run has no suite of that name to set {keys} of; add "
                f"eval={name} (several are eval=[A,B]), or leave it out",
            )
            continue
        suite: SuiteConfig | None = reader.record(SuiteConfig, section, f"eval.{name}")
        if suite is not None:
            suites[name] = suite
            _check_metrics(reader, f"eval.{name}", suite)
    return suites


def _check_metrics(reader: Reader, path: str, suite: SuiteConfig) -> None:
    """Report metrics of a suite that are asked for or described and not defined, and definitions
    that cannot be."""
    metrics = suite.metrics
    if isinstance(metrics, str):
        metrics = [metrics]
    if not metrics:
        reader.wrong(f"{path}.metrics", "asks for nothing; eval=null measures nothing")
    for metric in metrics:
        if metric not in suite.define and metric not in ("all", "default"):
            guess = find_nearest(metric, suite.define)
            hint = f"did you mean {guess}?"
            if not guess:
                allowed = ", ".join(sorted(suite.define))
                hint = f"allowed: all, {allowed}"
            reader.wrong(f"{path}.metrics", f"no metric called {metric!r}; {hint}")
    for metric in suite.describe:
        if metric not in suite.define:
            reader.wrong(
                f"{path}.describe.{metric}",
                f"this suite defines no metric of that name; {suggest(metric, suite.define)}",
            )
    for metric, definition in suite.define.items():
        entry = _check_definition(reader, f"{path}.define.{metric}", definition)
        if entry is not None and entry.facts:
            _describe_by_class(reader, suite, metric, entry)


def _check_definition(
    reader: Reader,
    path: str,
    definition: dict[str, Any],
) -> registry.Entry | None:
    """Report a metric's definition that names no metric, or gives it what it does not take; give
    the metric that it names."""
    if not isinstance(definition.get("metric"), str):
        reader.wrong(
            f"{path}.metric",
            "is required: the name of a metric; `unteach list metrics` shows them",
        )
        return None
    try:
        entry = registry.metric.find_entry(definition["metric"])
    except UserError as error:
        reader.wrong(path, str(error))
        return None
    fields = {key: item for key, item in definition.items() if key != "metric"}
    reader.record(entry.target, fields, path)
    return entry


def _describe_by_class(
    reader: Reader,
    suite: SuiteConfig,
    metric: str,
    entry: registry.Entry,
) -> None:
    """Add to a suite's description of a metric what the decorator of its class says."""
    by_class = reader.record(MetricDescription, entry.facts, f"@metric({entry.name!r})")
    if by_class is not None:
        by_suite = suite.describe.get(metric, MetricDescription())
        suite.describe[metric] = merge_descriptions(by_class, by_suite)


SECTIONS: dict[str, Callable[[Reader, dict[str, Any]], Any]] = {
    "model": parse_model,
    "paths": _parse_paths,
    "trainer": parse_trainer,
    "data": parse_data,
    "collator": parse_collator,
    "eval": _parse_suites,
    "audit": audits.parse_audit,
    "wandb": _parse_wandb,
}
"""What parses each section."""
