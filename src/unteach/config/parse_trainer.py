"""Parse the section `trainer` of a composed tree: a method, its arguments, what watches the run."""

from typing import Any

from unteach import registry
from unteach.config import training_args
from unteach.config.dual_optim import DualOptim
from unteach.config.reader import Reader
from unteach.config.schema import TheirTrainer, TrainerConfig
from unteach.config.watching import Guard, Land, Profiler, Samples
from unteach.errors import UserError
from unteach.wording import quote_value

RECORDS = {
    "guard": Guard,
    "samples": Samples,
    "profiler": Profiler,
    "land": Land,
    "dual_optim": DualOptim,
}
"""Sections of `trainer` that are one record each."""


WRAPPERS = {
    "surgery": registry.surgery,
    "perturb": registry.perturbation,
}
"""Sections of `trainer` that stand round a method, and what is registered for each."""


def parse_trainer(reader: Reader, value: dict[str, Any]) -> TrainerConfig | None:
    """Parse the section; None where it names no method."""
    allowed = {"handler", "args", "method_args", *RECORDS, *WRAPPERS}
    top = reader.known(allowed, value, "trainer")
    args = _parse_args(reader, top.get("args"))
    cls = _find_method(reader, top.get("handler"))
    if cls is None:
        return None
    records: dict[str, Any] = {}
    for name, section in RECORDS.items():
        if top.get(name) is not None:
            records[name] = reader.record(section, top[name], f"trainer.{name}")
    wrappers: dict[str, Any] = {}
    for name, kind in WRAPPERS.items():
        if top.get(name) is not None:
            wrappers[name] = parse_wrapper(reader, kind, top[name], f"trainer.{name}")
    method_args = top.get("method_args")
    if method_args is None:
        method_args = {}
    if registry.is_trainer(cls):
        method = _parse_their_trainer(reader, cls, method_args)
    else:
        method = reader.record(cls, method_args, "trainer.method_args")
    return TrainerConfig(
        handler=top["handler"],
        method=method,
        args=args,
        **records,
        **wrappers,
    )


def parse_wrapper(reader: Reader, kind: registry.Registry, value: object, path: str) -> object:
    """Parse what stands round a method: a name, or a mapping of `name` and the class's fields."""
    settings = {"name": value} if isinstance(value, str) else value
    if not isinstance(settings, dict):
        reader.wrong(
            path, f"must be a name or a mapping of name and fields, got {quote_value(value)}"
        )
        return None
    name = settings.get("name")
    if not isinstance(name, str):
        reader.wrong(f"{path}.name", f"is required: the name of a {kind.kind}")
        return None
    try:
        cls = kind.get(name)
    except UserError as error:
        reader.wrong(path, str(error))
        return None
    fields = {key: item for key, item in settings.items() if key != "name"}
    return reader.record(cls, fields, path)


def _parse_args(reader: Reader, value: object) -> dict[str, Any]:
    """Parse trainer.args: fields of TrainingArguments, and our own beside them."""
    if value is None:
        value = {}
    args: dict[str, Any] = reader.value(dict[str, Any], value, "trainer.args") or {}
    refused = training_args.REFUSED
    known = reader.known(
        {**refused, **training_args.declared_fields()},
        args,
        "trainer.args",
        training_args.OTHER_NAMES,
    )
    for name, item in known.items():
        if name in refused:
            reader.wrong(f"trainer.args.{name}", f"not used here: {refused[name]}")
        elif fault := training_args.find_fault(name, item):
            reader.wrong(f"trainer.args.{name}", fault)
    for name, clash in training_args.find_clashes(known):
        reader.wrong(f"trainer.args.{name}", clash)
    return args


def _find_method(reader: Reader, handler: object) -> type | None:
    """Find the class of the method; None, and reported, where there is none of that name."""
    if not isinstance(handler, str):
        reader.wrong(
            "trainer.handler",
            "is required: the name of a method; `unteach list methods` shows them",
        )
        return None
    try:
        return registry.method.get(handler)
    except UserError as error:
        reader.wrong("trainer.handler", str(error))
        return None


def _parse_their_trainer(reader: Reader, cls: type, value: object) -> TheirTrainer:
    """Parse the arguments of a plugin's subclass of transformers.Trainer."""
    arguments: dict[str, Any] = reader.value(dict[str, Any], value, "trainer.method_args") or {}
    reader.arguments(cls, arguments, "trainer.method_args")
    return TheirTrainer(cls, arguments)
