"""The configuration as dataclasses, and the strict reading of a composed tree into them.

Reading collects every problem (unknown keys, wrong types, unknown names) instead of stopping at the first.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from unteach import registry, training_args
from unteach.errors import UserError, nearest

GIVEN = {"template", "template_args", "tokenizer", "self"}
"""What unteach hands to a dataset or a collator itself; never a key of the configuration."""


@dataclass
class Paths:
    output_dir: str
    cache_dir: str = "saves/.cache"


@dataclass
class TemplateArgs:
    """How a question becomes a prompt. The tags are used where no chat template applies."""

    kind: Literal["auto", "raw", "chat", "qa"] = "auto"
    apply_chat_template: bool | None = None
    system_prompt: str | None = None
    system_prompt_with_special_tokens: str | None = None
    date_string: str | None = None
    user_start_tag: str | None = None
    user_end_tag: str | None = None
    asst_start_tag: str | None = None
    asst_end_tag: str | None = None
    boundary: Literal["apart", "joint"] = "apart"


@dataclass
class ModelConfig:
    model_args: dict[str, Any]
    tokenizer_args: dict[str, Any] = field(default_factory=dict)
    template_args: TemplateArgs = field(default_factory=TemplateArgs)
    model_handler: str = "AutoModelForCausalLM"
    pure_bf16: bool = False


@dataclass
class Part:
    """One dataset of a stream, or a collator: a registered class and its arguments."""

    handler: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig:
    """Streams by name, each of one dataset or several in a row. The anchor's length is an epoch."""

    streams: dict[str, dict[str, Part]]
    anchor: str = "train"


@dataclass
class TrainerConfig:
    handler: str
    method: Any
    args: dict[str, Any]


@dataclass
class SuiteConfig:
    """The metrics of one benchmark: the rows it reads, what each metric is, and which are asked for."""

    suite: str
    rows: dict[str, dict[str, Any]]
    define: dict[str, dict[str, Any]]
    metrics: list[str] | str
    default: list[str] = field(default_factory=list)
    compat: Literal["openunlearning"] | None = None
    batch_size: int = 32
    max_length: int = 512
    generation: dict[str, Any] = field(default_factory=dict)
    retain_logs_path: str | None = None
    forget_split: str | None = None
    holdout_split: str | None = None
    question_key: str = "question"


@dataclass
class Config:
    mode: str
    task_name: str
    seed: int
    paths: Paths
    model: ModelConfig
    trainer: TrainerConfig | None = None
    data: DataConfig | None = None
    collator: Part | None = None
    eval: dict[str, SuiteConfig] = field(default_factory=dict)
    resume: str = "auto"
    tree: dict[str, Any] = field(default_factory=dict)
    """the whole resolved tree as plain values, as it is written into the run's folder"""


class Reader:
    """Turns plain values into dataclasses and keeps a list of everything that is wrong."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, path: str, what: str) -> None:
        self.problems.append(f"{path}: {what}")

    def record(self, cls: type, value: Any, path: str, drop: tuple[str, ...] = ()) -> Any:
        """Reads a mapping into the dataclass `cls`; None where it could not be built."""
        if not isinstance(value, dict):
            self.wrong(path, f"must be a mapping, got {value!r}")
            return None
        before = len(self.problems)
        hints = typing.get_type_hints(cls)
        declared = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in drop}
        kept = {
            name: self.value(hints[name], item, f"{path}.{name}" if path else name)
            for name, item in self.known(declared, value, path).items()
        }
        for name, declaration in declared.items():
            required = declaration.default is dataclasses.MISSING and declaration.default_factory is dataclasses.MISSING
            if required and name not in value:
                self.wrong(f"{path}.{name}" if path else name, "is required")
        if len(self.problems) > before:
            return None
        try:
            return cls(**kept)
        except UserError as error:
            self.wrong(path, str(error))
            return None

    def known(self, allowed: Any, value: dict[str, Any], path: str) -> dict[str, Any]:
        """The items of `value` whose keys are allowed; the others are reported with the nearest right name."""
        for name in value:
            if name not in allowed:
                guess = nearest(name, allowed)
                hint = f"did you mean {guess}?" if guess else f"allowed: {', '.join(sorted(allowed)) or '(nothing)'}"
                self.wrong(f"{path}.{name}" if path else name, f"no such key; {hint}")
        return {name: item for name, item in value.items() if name in allowed}

    def value(self, hint: Any, value: Any, path: str) -> Any:
        """Reads one value of the annotated type, or reports it."""
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return value
        if dataclasses.is_dataclass(hint):
            return self.record(typing.cast(type, hint), value, path)
        if origin in (typing.Union, types.UnionType):
            return self._union(inner, value, path)
        if origin is Literal:
            if value not in inner:
                self.wrong(path, f"must be one of {', '.join(map(str, inner))}, got {value!r}")
            return value
        if (origin or hint) in (list, tuple) and isinstance(value, list):
            return (origin or hint)(
                self.value(inner[0] if inner else Any, item, f"{path}[{i}]") for i, item in enumerate(value)
            )
        if (origin or hint) is dict and isinstance(value, dict):
            return {k: self.value(inner[1] if inner else Any, item, f"{path}.{k}") for k, item in value.items()}
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, origin or hint) and not (isinstance(value, bool) and hint in (int, float)):
            return value
        self.wrong(path, f"must be {_spelled(hint)}, got {value!r}")
        return None

    def _union(self, options: tuple[Any, ...], value: Any, path: str) -> Any:
        if value is None and type(None) in options:
            return None
        real = [option for option in options if option is not type(None)]
        for option in real:
            attempt = Reader()
            result = attempt.value(option, value, path)
            if not attempt.problems:
                return result
        if len(real) == 1:
            return self.value(real[0], value, path)
        self.wrong(path, f"must be {' or '.join(map(_spelled, real))}, got {value!r}")
        return None

    def arguments(self, cls: type, value: dict[str, Any], path: str) -> None:
        """Checks a mapping against the constructor that it will be handed to."""
        parameters = dict(inspect.signature(cls).parameters)
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        allowed = {name: p for name, p in parameters.items() if name not in GIVEN}
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        for name, item in self.known(allowed, value, path).items():
            self.value(hints.get(name, Any), item, f"{path}.{name}")
        for name, parameter in allowed.items():
            if parameter.default is parameter.empty and name not in value:
                self.wrong(f"{path}.{name}", "is required")


def _spelled(hint: Any) -> str:
    names: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    names |= {list: "a list", dict: "a mapping"}
    return names.get(typing.get_origin(hint) or hint, str(getattr(hint, "__name__", hint)))


def read(tree: dict[str, Any], variables: set[str]) -> Config:
    """The composed, resolved tree as a Config, or one UserError with every problem in it.

    `variables` are the top-level names that configuration files declare for their own interpolations.
    """
    reader = Reader()
    sections: dict[str, Callable[[Reader, Any], Any]] = {
        "model": lambda r, v: r.record(ModelConfig, v, "model"),
        "paths": lambda r, v: r.record(Paths, v, "paths"),
        "trainer": _trainer,
        "data": _data,
        "collator": _collator,
        "eval": _suites,
    }
    plain = {"mode": str, "task_name": str, "seed": int, "resume": str}
    allowed = {*sections, *plain, *variables}
    top = reader.known(allowed, tree, "")
    built = {name: read_section(reader, top[name]) for name, read_section in sections.items() if top.get(name)}
    built |= {name: reader.value(hint, top[name], name) for name, hint in plain.items() if name in top}
    if reader.problems:
        raise UserError(mistakes(reader.problems))
    return Config(**built, tree=tree)


def mistakes(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} mistakes in this configuration:\n" + "\n".join(f"  {problem}" for problem in problems)


def _trainer(reader: Reader, value: dict[str, Any]) -> TrainerConfig | None:
    top = reader.known({"handler", "args", "method_args"}, value, "trainer")
    declared = training_args.fields()
    args: dict[str, Any] = top.get("args") or {}
    for name, item in reader.known({**training_args.REFUSED, **declared}, args, "trainer.args").items():
        if name in training_args.REFUSED:
            reader.wrong(f"trainer.args.{name}", f"not used here: {training_args.REFUSED[name]}")
        elif not training_args.accepts(declared[name], item):
            reader.wrong(f"trainer.args.{name}", f"must be {declared[name]}, got {item!r}")
    handler = top.get("handler")
    if not isinstance(handler, str):
        reader.wrong("trainer.handler", "is required: the name of a method; `unteach list methods` shows them")
        return None
    try:
        cls = registry.method.get(handler)
    except UserError as error:
        reader.wrong("trainer.handler", str(error))
        return None
    method = reader.record(cls, top.get("method_args") or {}, "trainer.method_args")
    return TrainerConfig(handler, method, args)


def _part(reader: Reader, kind: registry.Registry, value: Any, path: str) -> Part | None:
    part: Part | None = reader.record(Part, value, path)
    if part is None:
        return None
    try:
        reader.arguments(kind.get(part.handler), part.args, f"{path}.args")
    except UserError as error:
        reader.wrong(f"{path}.handler", str(error))
    return part


def _data(reader: Reader, value: dict[str, Any]) -> DataConfig:
    streams: dict[str, dict[str, Part]] = {}
    for stream, parts in value.items():
        if stream == "anchor" or parts is None:
            continue
        if not isinstance(parts, dict):
            reader.wrong(f"data.{stream}", f"must be a dataset's name or a mapping of datasets, got {parts!r}")
            continue
        read_parts = {
            name: _part(reader, registry.dataset, part, f"data.{stream}.{name}") for name, part in parts.items()
        }
        streams[stream] = {name: part for name, part in read_parts.items() if part is not None}
    anchor = value.get("anchor") or next(iter(streams), "train")
    if streams and anchor not in streams and not reader.problems:
        reader.wrong("data.anchor", f"{anchor!r} is not a stream of this run; its streams: {', '.join(streams)}")
    return DataConfig(streams, anchor)


def _collator(reader: Reader, value: dict[str, Any]) -> Part | None:
    parts = [_part(reader, registry.collator, part, f"collator.{name}") for name, part in value.items()]
    if len(parts) > 1:
        reader.wrong("collator", f"one collator, got {', '.join(value)}")
    return parts[0]


def _suites(reader: Reader, value: dict[str, Any]) -> dict[str, SuiteConfig]:
    read_suites = {name: reader.record(SuiteConfig, suite, f"eval.{name}") for name, suite in value.items()}
    for name, suite in read_suites.items():
        if suite is None:
            continue
        asked = [suite.metrics] if isinstance(suite.metrics, str) else suite.metrics
        for metric in asked:
            if metric not in suite.define and metric not in ("all", "default"):
                guess = nearest(metric, suite.define)
                hint = f"did you mean {guess}?" if guess else f"allowed: all, {', '.join(sorted(suite.define))}"
                reader.wrong(f"eval.{name}.metrics", f"no metric called {metric!r}; {hint}")
        for metric, definition in suite.define.items():
            path = f"eval.{name}.define.{metric}"
            try:
                cls = registry.metric.get(definition.get("metric", "?"))
            except UserError as error:
                reader.wrong(path, str(error))
                continue
            reader.record(cls, {key: item for key, item in definition.items() if key != "metric"}, path)
    return {name: suite for name, suite in read_suites.items() if suite is not None}
