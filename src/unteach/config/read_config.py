"""The strict reading of a composed tree into the dataclasses of schema.py.

Reading collects every problem (unknown keys, wrong types, unknown names) instead of stopping at the
first.
"""

from collections.abc import Callable
from typing import Any

from unteach import registry
from unteach.config import consistency, synonyms, training_args
from unteach.config.files import FILE_KEYS, RENAMED_FILE_KEYS, Files
from unteach.config.metric_descriptions import MetricDescription, merge_descriptions
from unteach.config.reader import Mistakes, Reader
from unteach.config.schema import (
    PATH,
    STREAMS,
    ComponentConfig,
    Config,
    DataConfig,
    ForgetSet,
    ModelConfig,
    Paths,
    TheirTrainer,
    TrainerConfig,
    Wandb,
    holds_out,
)
from unteach.config.secrets import drop_secrets
from unteach.config.suites import SuiteConfig
from unteach.config.watching import Guard, Profiler, Samples
from unteach.errors import UserError, nearest
from unteach.wording import shown

WATCHERS = {"guard": Guard, "samples": Samples, "profiler": Profiler}
"""Sections of `trainer` that watch a run."""


def read(tree: dict[str, Any], variables: set[str]) -> Config:
    """The composed, resolved tree as a Config, or one UserError with every problem in it.

    `variables` are the top-level names that configuration files declare for their own
    interpolations.
    """
    reader = Reader()
    sections: dict[str, Callable[[Reader, Any], Any]] = {
        "model": read_model,
        "paths": lambda r, v: r.record(Paths, v, "paths"),
        "trainer": _trainer,
        "data": _data,
        "collator": _collator,
        "eval": _suites,
        "wandb": lambda r, v: r.record(Wandb, v, "wandb"),
    }
    plain: dict[str, Any] = {
        "mode": str,
        "task_name": str,
        "seed": int,
        "resume": str,
        "plugins": list[str],
    }
    plain |= {"launch": str | None, "nproc": int | None}
    trainer = tree.get("trainer")
    handler = trainer.get("handler") if isinstance(trainer, dict) else None
    method = (
        registry.method.get(handler)
        if isinstance(handler, str) and handler in registry.method
        else None
    )
    top = known_at_top(reader, {*sections, *plain}, variables, tree, method)
    given = {name: value for name in sections if (value := top.get(name)) not in (None, {})}
    for name in [name for name in given if not isinstance(given[name], dict)]:
        reader.wrong(name, f"must be a mapping, got {shown(given.pop(name))}")
    for name in ("model", "paths", "mode", "task_name", "seed"):
        if name not in top:
            reader.wrong(name, "is required, and was removed")
    built = {name: sections[name](reader, value) for name, value in given.items()}
    built |= {
        name: reader.value(hint, top[name], name) for name, hint in plain.items() if name in top
    }
    if top.get("forget_set") is not None:  # rows refer to it (see data/entities.py)
        reader.record(ForgetSet, top["forget_set"], "forget_set")
    consistency.names_and_seed(reader, built)
    if built.get("wandb") and not consistency.reports_to(built.get("trainer"), "wandb"):
        reader.wrong(
            "wandb", "nothing is sent there: set trainer.args.report_to=wandb, or leave it out"
        )
    consistency.own_rows(reader, built.get("trainer"), built.get("eval") or {}, built.get("data"))
    if built.get("trainer"):
        consistency.measured(
            reader, built["trainer"], built.get("eval") or {}, holds_out(tree.get("data"))
        )
        consistency.streams(reader, built["trainer"], built.get("data"))
        consistency.samples(reader, built["trainer"], built.get("data"))
    if reader.problems:
        raise Mistakes(reader.problems)
    return Config(**built, tree=drop_secrets(tree))


def known_at_top(
    reader: Reader, own: set[str], variables: set[str], tree: dict[str, Any], method: type | None
) -> dict[str, Any]:
    """The keys at the top that are known; what other tools call a key further down is answered with
    that key."""
    allowed = own | variables
    for name in [name for name in tree if name not in allowed]:
        hint = synonyms.hint(str(name), tree[name], str(tree.get("mode")), method)
        # a verb says the mode
        guess = nearest(str(name), allowed - {"mode"}, synonyms.NEAR if hint else 0.6)
        if guess or not hint:
            used = sorted({*own, *(variable for variable in variables if variable in tree)})
            hint = f"did you mean {guess}?" if guess else f"allowed: {', '.join(used)}"
        reader.wrong(str(name), f"no such key; {hint}")
    return {name: value for name, value in tree.items() if name in allowed}


def read_model(reader: Reader, value: dict[str, Any]) -> ModelConfig | None:
    model: ModelConfig | None = reader.record(ModelConfig, value, "model")
    if model is None:
        return None
    try:
        registry.model.get(model.model_handler)
    except UserError as error:
        reader.wrong("model.model_handler", str(error))
    for section, name in (("model_args", "dtype"), ("model_args", PATH), ("tokenizer_args", PATH)):
        reader.value(str | None, getattr(model, section).get(name), f"model.{section}.{name}")
    return model


def _trainer(reader: Reader, value: dict[str, Any]) -> TrainerConfig | None:
    top = reader.known({"handler", "args", "method_args", *WATCHERS}, value, "trainer")
    declared = training_args.fields()
    args = (
        reader.value(dict[str, Any], {} if top.get("args") is None else top["args"], "trainer.args")
        or {}
    )
    allowed = {**training_args.REFUSED, **declared}
    known = reader.known(allowed, args, "trainer.args", training_args.OTHER_NAMES)
    for name, item in known.items():
        if name in training_args.REFUSED:
            reader.wrong(f"trainer.args.{name}", f"not used here: {training_args.REFUSED[name]}")
        elif said := training_args.fault(name, item):
            reader.wrong(f"trainer.args.{name}", said)
    for name, said in training_args.clashes(known):
        reader.wrong(f"trainer.args.{name}", said)
    handler = top.get("handler")
    if not isinstance(handler, str):
        reader.wrong(
            "trainer.handler",
            "is required: the name of a method; `unteach list methods` shows them",
        )
        return None
    try:
        cls = registry.method.get(handler)
    except UserError as error:
        reader.wrong("trainer.handler", str(error))
        return None
    beside = {
        name: reader.record(cls, top[name], f"trainer.{name}")
        for name, cls in WATCHERS.items()
        if top.get(name) is not None
    }
    given = {} if top.get("method_args") is None else top["method_args"]
    if registry.is_trainer(cls):
        given = reader.value(dict[str, Any], given, "trainer.method_args") or {}
        reader.arguments(cls, given, "trainer.method_args")
        return TrainerConfig(handler, TheirTrainer(cls, given), args, **beside)
    return TrainerConfig(handler, reader.record(cls, given, "trainer.method_args"), args, **beside)


def _part(
    reader: Reader, kind: registry.Registry, value: object, path: str
) -> ComponentConfig | None:
    part: ComponentConfig | None = reader.record(ComponentConfig, value, path)
    if part is None:
        return None
    try:
        part.cls = kind.get(part.handler)
        reader.arguments(part.cls, part.args, f"{path}.args")
    except UserError as error:
        reader.wrong(f"{path}.handler", str(error))
    return part


def _data(reader: Reader, value: dict[str, Any]) -> DataConfig | None:
    streams: dict[str, dict[str, ComponentConfig]] = {}
    told = {name: item for name, item in value.items() if name in FILE_KEYS}
    files: Files | None = reader.record(Files, told, "data") if told else None
    if told and files is None:
        return None
    for stream, parts in value.items():
        if stream == "anchor" or stream in told or parts is None:
            continue
        if stream in RENAMED_FILE_KEYS:
            reader.wrong(f"data.{stream}", f"is called data.{RENAMED_FILE_KEYS[stream]} now")
            continue
        if files is not None and (
            files.of(stream) is not None or (stream == "train" and files.train_file)
        ):
            reader.wrong(
                f"data.{stream}",
                f"both a dataset and data.{stream}_file are given; give one (data=files)",
            )
            continue
        if not isinstance(parts, dict):
            guess = nearest(str(stream), (*FILE_KEYS, *STREAMS, "anchor"))
            hint = f"; did you mean data.{guess}?" if guess and guess != stream else ""
            reader.wrong(
                f"data.{stream}",
                f"must be a dataset's name or a mapping of datasets, got {shown(parts)}{hint}",
            )
            continue
        read_parts = {
            name: _part(reader, registry.dataset, part, f"data.{stream}.{name}")
            for name, part in parts.items()
        }
        streams[stream] = {name: part for name, part in read_parts.items() if part is not None}
    anchor = reader.value(str | None, value.get("anchor"), "data.anchor")
    if files is not None:  # whose streams are not known yet
        return DataConfig(streams, anchor or "", files)
    anchor = anchor or next(iter(streams), "train")
    if streams and anchor not in streams and not reader.problems:
        reader.wrong(
            "data.anchor",
            f"{anchor!r} is not a stream of this run; its streams: {', '.join(streams)}",
        )
    return DataConfig(streams, anchor)


def _collator(reader: Reader, value: dict[str, Any]) -> ComponentConfig | None:
    parts = [
        _part(reader, registry.collator, part, f"collator.{name}") for name, part in value.items()
    ]
    if len(parts) > 1:
        reader.wrong("collator", f"one collator, got {', '.join(value)}")
    return parts[0]


def _suites(reader: Reader, value: dict[str, Any]) -> dict[str, SuiteConfig]:
    read_suites = {
        name: reader.record(SuiteConfig, suite, f"eval.{name}") for name, suite in value.items()
    }
    for name, suite in read_suites.items():
        if suite is None:
            continue
        asked = [suite.metrics] if isinstance(suite.metrics, str) else suite.metrics
        if not asked:
            reader.wrong(f"eval.{name}.metrics", "asks for nothing; eval=null measures nothing")
        for metric in asked:
            if metric not in suite.define and metric not in ("all", "default"):
                guess = nearest(metric, suite.define)
                hint = (
                    f"did you mean {guess}?"
                    if guess
                    else f"allowed: all, {', '.join(sorted(suite.define))}"
                )
                reader.wrong(f"eval.{name}.metrics", f"no metric called {metric!r}; {hint}")
        for metric in (metric for metric in suite.describe if metric not in suite.define):
            guess = nearest(metric, suite.define)
            hint = (
                f"did you mean {guess}?" if guess else f"allowed: {', '.join(sorted(suite.define))}"
            )
            reader.wrong(
                f"eval.{name}.describe.{metric}",
                f"this suite defines no metric of that name; {hint}",
            )
        for metric, definition in suite.define.items():
            path = f"eval.{name}.define.{metric}"
            if not isinstance(definition.get("metric"), str):
                reader.wrong(
                    f"{path}.metric",
                    "is required: the name of a metric; `unteach list metrics` shows them",
                )
                continue
            try:
                entry = registry.metric.find_entry(definition["metric"])
            except UserError as error:
                reader.wrong(path, str(error))
                continue
            arguments = {key: item for key, item in definition.items() if key != "metric"}
            reader.record(entry.target, arguments, path)
            if entry.facts:
                _describe_by_class(reader, suite, metric, entry)
    return {name: suite for name, suite in read_suites.items() if suite is not None}


def _describe_by_class(
    reader: Reader, suite: SuiteConfig, metric: str, entry: registry.Entry
) -> None:
    """Add to a suite's description of a metric what the decorator of its class says."""
    by_class = reader.record(MetricDescription, entry.facts, f"@metric({entry.name!r})")
    if by_class is not None:
        by_suite = suite.describe.get(metric, MetricDescription())
        suite.describe[metric] = merge_descriptions(by_class, by_suite)
