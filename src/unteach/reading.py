"""The strict reading of a composed tree into the dataclasses of schema.py.

Reading collects every problem (unknown keys, wrong types, unknown names) instead of stopping at the first.
"""

import dataclasses
import fnmatch
import inspect
import math
import reprlib
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

from unteach import registry, training_args
from unteach.errors import UserError, nearest
from unteach.schema import (
    BESIDE,
    FILE_KEYS,
    RENAMED_FILE_KEYS,
    Config,
    DataConfig,
    Files,
    ForgetSet,
    Guard,
    ModelConfig,
    Part,
    Paths,
    Profiler,
    Samples,
    SuiteConfig,
    TheirTrainer,
    TrainerConfig,
    Wandb,
    holds_out,
)

GIVEN = {"template", "template_args", "tokenizer", "self"}
"""What unteach hands to a dataset or a collator itself; never a key of the configuration."""
PATH = "pretrained_model_name_or_path"
WATCHERS = {"guard": Guard, "samples": Samples, "profiler": Profiler}
"""Sections of `trainer` that watch a run."""
STREAMS = ("train", "validation", "forget", "retain", "alternate")


class Reader:
    """Turns plain values into dataclasses and keeps a list of everything that is wrong."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, path: str, what: str) -> None:
        self.problems.append(f"{path}: {what}" if path else what)

    def record(self, cls: type, value: Any, path: str, drop: tuple[str, ...] = ()) -> Any:
        """Reads a mapping into the dataclass `cls`; None where it could not be built."""
        if not isinstance(value, dict):
            self.wrong(path, f"must be a mapping, got {_shown(value)}")
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
                guess = nearest(str(name), allowed)
                hint = f"did you mean {guess}?" if guess else f"allowed: {', '.join(sorted(allowed)) or '(nothing)'}"
                self.wrong(f"{path}.{name}" if path else str(name), f"no such key; {hint}")
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
            if not any(value == one and type(value) is type(one) for one in inner):
                self.wrong(path, f"must be one of {', '.join(map(str, inner))}, got {_shown(value)}")
            return value
        if (origin or hint) in (list, tuple) and isinstance(value, list):
            return (origin or hint)(
                self.value(inner[0] if inner else Any, item, f"{path}[{i}]") for i, item in enumerate(value)
            )
        if (origin or hint) is dict and isinstance(value, dict):
            for key in (key for key in value if inner and inner[0] is str and not isinstance(key, str)):
                self.wrong(path, f"its keys must be text, got {_shown(key)}")
            return {k: self.value(inner[1] if inner else Any, item, f"{path}.{k}") for k, item in value.items()}
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, origin or hint) and not (isinstance(value, bool) and hint in (int, float)):
            if isinstance(value, float) and not math.isfinite(value):
                self.wrong(path, f"must be a finite number, got {value}")
            return value
        quoted = hint is str and isinstance(value, int | float)
        mend = f"; as text, it is written \"{path}='{str(value).lower()}'\"" if quoted else ""
        self.wrong(path, f"must be {_spelled(hint)}, got {_shown(value)}{mend}")
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
        self.wrong(path, f"must be {' or '.join(map(_spelled, real))}, got {_shown(value)}")
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


def _shown(value: Any) -> str:
    return reprlib.repr(value)


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
        "model": read_model,
        "paths": lambda r, v: r.record(Paths, v, "paths"),
        "trainer": _trainer,
        "data": _data,
        "collator": _collator,
        "eval": _suites,
        "wandb": lambda r, v: r.record(Wandb, v, "wandb"),
    }
    plain: dict[str, Any] = {"mode": str, "task_name": str, "seed": int, "resume": str, "plugins": list[str]}
    plain |= {"launch": str | None, "nproc": int | None}
    top = reader.known({*sections, *plain, *variables}, tree, "")
    given = {name: value for name in sections if (value := top.get(name)) not in (None, {})}
    for name in [name for name in given if not isinstance(given[name], dict)]:
        reader.wrong(name, f"must be a mapping, got {_shown(given.pop(name))}")
    for name in ("model", "paths", "mode", "task_name", "seed"):
        if name not in top:
            reader.wrong(name, "is required, and was removed")
    built = {name: sections[name](reader, value) for name, value in given.items()}
    built |= {name: reader.value(hint, top[name], name) for name, hint in plain.items() if name in top}
    if top.get("forget_set") is not None:  # rows refer to it (see data/entities.py)
        reader.record(ForgetSet, top["forget_set"], "forget_set")
    _names_and_seed(reader, built)
    if built.get("wandb") and not _reports_to(built.get("trainer"), "wandb"):
        reader.wrong("wandb", "nothing is sent there: set trainer.args.report_to=wandb, or leave it out")
    if built.get("trainer"):
        _measured(reader, built["trainer"], built.get("eval") or {}, holds_out(tree.get("data")))
        _streams(reader, built["trainer"], built.get("data"))
        _samples(reader, built["trainer"], built.get("data"))
    if reader.problems:
        raise UserError(mistakes(reader.problems))
    return Config(**built, tree=tree)


def _names_and_seed(reader: Reader, built: dict[str, Any]) -> None:
    """What names a folder must name one of its own, a seed must fit every generator, nproc must have its launch."""
    name, paths, seed = built.get("task_name"), built.get("paths"), built.get("seed")
    if isinstance(name, str) and (not name.isprintable() or any(part in ("", ".", "..") for part in name.split("/"))):
        reader.wrong("task_name", f"names the run's folder saves/<mode>/<task_name>; {name!r} cannot")
    if paths and not (paths.output_dir.strip() and paths.output_dir.isprintable()):
        reader.wrong("paths.output_dir", f"must name a folder, got {paths.output_dir!r}")
    nproc = built.get("nproc")
    if nproc is not None and built.get("launch") is None:
        reader.wrong("nproc", "says how many processes launch starts: set launch too (`unteach list launch`)")
    elif isinstance(nproc, int) and nproc < 1:
        reader.wrong("nproc", f"must be 1 or more, got {nproc}")
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        reader.wrong("seed", f"must be from 0 to {2**32 - 1}, got {seed}")


def _reports_to(trainer: TrainerConfig | None, tracker: str) -> bool:
    asked = trainer.args.get("report_to") if trainer else None
    return bool({tracker, "all"} & {*(asked if isinstance(asked, list) else [asked])})


def _streams(reader: Reader, trainer: TrainerConfig, data: DataConfig | None) -> None:
    """A method that lacks a stream cannot run, and a stream that nothing knows is a name misspelled.

    A stream may stand beside others in the rows of one (schema.BESIDE).
    """
    wanted = trainer.method.streams() if trainer.method else ()
    if data is None or not wanted:
        return
    there = {name for name, parts in data.streams.items() if parts}
    there |= _of_files(data.files)
    given = ", ".join(sorted(there)) or "none"
    for name in dict.fromkeys(BESIDE.get(name, name) for name in wanted if name not in there):
        if name not in there:
            reader.wrong(
                f"data.{name}",
                f"trainer.handler={trainer.handler} trains on the stream {name!r}; this run has {given}. "
                f"Set data.{name}=DATASET (see `unteach list datasets`)",
            )
    reader.known({*STREAMS, *wanted}, data.streams, "data")


def _samples(reader: Reader, trainer: TrainerConfig, data: DataConfig | None) -> None:
    """Samples are of rows that the run trains on, and made at moments that it has."""
    samples = trainer.samples
    if samples is None or data is None:
        return
    trained = (trainer.method.streams() if trainer.method else ()) or tuple(data.streams)
    if samples.stream is not None and samples.stream not in trained:
        reader.wrong("trainer.samples.stream", f"must be one of {', '.join(trained)}, got {samples.stream}")
    if getattr(trainer.method, "ROWS", None) in ("classes", "numbers"):
        reader.wrong("trainer.samples", f"{trainer.handler} trains a classifier, which generates no text")
    if samples.every is None and trainer.args.get("eval_strategy", "no") == "no":
        reader.wrong("trainer.samples.every", "is required where no suite runs: the steps from one look to the next")


def _of_files(files: Files | None) -> set[str]:
    """The streams that files give; rows to forget, and to retain, may stand in train_file."""
    if files is None:
        return set()
    given = {stream for stream in STREAMS if files.of(stream) is not None}
    return given | ({"forget", "retain"} if "train" in given else set())


def _measured(reader: Reader, trainer: TrainerConfig, suites: dict[str, SuiteConfig], held_out: bool) -> None:
    """What is measured while training must fit the method; keeping the best and stopping early go by it."""
    method, handler = trainer.method, trainer.handler
    measured = [f"{name}_{metric}" for name, suite in suites.items() for metric in suite.asked()]
    if isinstance(method, TheirTrainer):
        if held_out:
            reader.wrong("data.validation", f"{handler} says its own loss; rows held out are measured by a method's")
    elif method is not None:
        measured += ["loss", *(method.measured() if method.learns() else ("perplexity",))] if held_out else []
        if method.ROWS in ("classes", "numbers"):
            asks = {"eval": suites, "trainer.guard": trainer.guard, "trainer.samples": trainer.samples}
            for name in (name for name, given in asks.items() if given):
                reader.wrong(name, f"asks a language model, and trainer.handler={handler} trains none; leave it out "
                                   "(data.validation measures a classifier)")  # fmt: skip
    _best(reader, trainer.args, measured)


def _best(reader: Reader, args: dict[str, Any], measured: list[str]) -> None:
    """Keeping the best and stopping early go by a metric that is measured while training."""
    best, needed = args.get("metric_for_best_model"), []
    needed += ["load_best_model_at_end"] if args.get("load_best_model_at_end") else []
    needed += ["save_strategy"] if args.get("save_strategy") == "best" else []
    needed += ["early_stopping_patience"] if args.get("early_stopping_patience") is not None else []
    if best is None and needed:
        hint = "one of what eval measures, or loss where rows are held out"
        reader.wrong(f"trainer.args.{needed[0]}", f"needs metric_for_best_model, {hint}")
    if best is None:
        return
    if not measured or args.get("eval_strategy", "no") == "no":
        reader.wrong(
            "trainer.args.metric_for_best_model",
            "nothing is measured while training: set eval_strategy, and eval or data.validation",
        )
    elif isinstance(best, str) and not any(fnmatch.fnmatchcase(best.removeprefix("eval_"), one) for one in measured):
        guess = nearest(best, measured)
        hint = f"did you mean {guess}?" if guess else f"it may be {', '.join(measured)}"
        reader.wrong("trainer.args.metric_for_best_model", f"{best!r} is not measured; {hint}")


def mistakes(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} mistakes in this configuration:\n" + "\n".join(f"  {problem}" for problem in problems)


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
    args = reader.value(dict[str, Any], {} if top.get("args") is None else top["args"], "trainer.args") or {}
    known = reader.known({**training_args.REFUSED, **declared}, args, "trainer.args")
    for name, item in known.items():
        if name in training_args.REFUSED:
            reader.wrong(f"trainer.args.{name}", f"not used here: {training_args.REFUSED[name]}")
        elif said := training_args.fault(name, item):
            reader.wrong(f"trainer.args.{name}", said)
    for name, said in training_args.clashes(known):
        reader.wrong(f"trainer.args.{name}", said)
    handler = top.get("handler")
    if not isinstance(handler, str):
        reader.wrong("trainer.handler", "is required: the name of a method; `unteach list methods` shows them")
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


def _part(reader: Reader, kind: registry.Registry, value: Any, path: str) -> Part | None:
    part: Part | None = reader.record(Part, value, path)
    if part is None:
        return None
    try:
        part.cls = kind.get(part.handler)
        reader.arguments(part.cls, part.args, f"{path}.args")
    except UserError as error:
        reader.wrong(f"{path}.handler", str(error))
    return part


def _data(reader: Reader, value: dict[str, Any]) -> DataConfig | None:
    streams: dict[str, dict[str, Part]] = {}
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
        if files is not None and (files.of(stream) is not None or (stream == "train" and files.train_file)):
            reader.wrong(f"data.{stream}", f"both a dataset and data.{stream}_file are given; give one (data=files)")
            continue
        if not isinstance(parts, dict):
            guess = nearest(str(stream), (*FILE_KEYS, *STREAMS, "anchor"))
            hint = f"; did you mean data.{guess}?" if guess and guess != stream else ""
            reader.wrong(f"data.{stream}", f"must be a dataset's name or a mapping of datasets, got {parts!r}{hint}")
            continue
        read_parts = {
            name: _part(reader, registry.dataset, part, f"data.{stream}.{name}") for name, part in parts.items()
        }
        streams[stream] = {name: part for name, part in read_parts.items() if part is not None}
    anchor = reader.value(str | None, value.get("anchor"), "data.anchor")
    if files is not None:  # whose streams are not known yet
        return DataConfig(streams, anchor or "", files)
    anchor = anchor or next(iter(streams), "train")
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
        if not asked:
            reader.wrong(f"eval.{name}.metrics", "asks for nothing; eval=null measures nothing")
        for metric in asked:
            if metric not in suite.define and metric not in ("all", "default"):
                guess = nearest(metric, suite.define)
                hint = f"did you mean {guess}?" if guess else f"allowed: all, {', '.join(sorted(suite.define))}"
                reader.wrong(f"eval.{name}.metrics", f"no metric called {metric!r}; {hint}")
        for metric, definition in suite.define.items():
            path = f"eval.{name}.define.{metric}"
            if not isinstance(definition.get("metric"), str):
                reader.wrong(f"{path}.metric", "is required: the name of a metric; `unteach list metrics` shows them")
                continue
            try:
                cls = registry.metric.get(definition["metric"])
            except UserError as error:
                reader.wrong(path, str(error))
                continue
            reader.record(cls, {key: item for key, item in definition.items() if key != "metric"}, path)
    return {name: suite for name, suite in read_suites.items() if suite is not None}
