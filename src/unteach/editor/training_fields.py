"""JSON schemas of `trainer.args` and `model.peft_args`: fields of libraries, by their sources."""

import ast
import inspect
import re

from unteach.config import training_args
from unteach.config.component_fields import docstrings_under
from unteach.config.groups import CONFIGS
from unteach.editor.meanings import read_library_arguments
from unteach.editor.shapes import Schema, any_of, mapping, scalar, sequence
from unteach.strict_yaml import read_yaml

SCALARS = {"int", "float", "str", "None", "Optional", "Union"}
BARE = {"int", "float", "bool", "None", "Optional", "Union"}


def describe_training_args() -> Schema:
    """Describe `trainer.args`: what TrainingArguments has, our own fields, and old names."""
    base = read_yaml(CONFIGS / "base_trainer.yaml")["layers"]["base"]["args"]
    documented = read_library_arguments("transformers.training_args", "TrainingArguments")
    own_meanings = _read_own_meanings()
    properties = {}
    for name, annotation in training_args.declared_fields().items():
        if name in training_args.REFUSED and name not in training_args.DONE_ANYWAY:
            continue
        schema = describe_field(name, annotation)
        if name in documented:
            schema["description"] = documented[name].meaning
            schema["default"] = documented[name].default
        if name in training_args.OWN:
            schema["description"] = own_meanings[name]
            schema["default"] = None
        if name in base:
            schema["default"] = base[name]
        if name == "seed":  # the run's own, which variables.yaml has
            schema.pop("default")
        properties[name] = schema
    for name, now in training_args.RENAMED.items():
        properties[name] = {"deprecationMessage": f"is called {now} now"}
    for name, reason in training_args.DROPPED.items():
        properties[name] = {"deprecationMessage": f"has no effect any more: {reason}"}
    text = "transformers.TrainingArguments, and fields of unteach's own."
    return mapping(properties, description=text)


def _read_own_meanings() -> dict[str, str]:
    """Read what our own fields mean, from the docstring of all: a part each, the last of two."""
    docstrings = docstrings_under(ast.parse(inspect.getsource(training_args)).body)
    parts = docstrings["OWN"].partition(": ")[2].split("; ")
    names = list(training_args.OWN)
    last = parts[-1]
    return dict(zip(names, [*parts, *[last] * len(names)], strict=False))


def describe_field(name: str, annotation: str) -> Schema:
    """Describe one field by its annotation, as training_args.find_fault judges its values."""
    if name in training_args.DONE_ANYWAY:
        value, reason = training_args.DONE_ANYWAY[name]
        return {"enum": [value], "deprecationMessage": f"is done anyway: {reason}"}
    if name == training_args.SAVE_AT_STEPS:
        return any_of([sequence({"type": "integer", "minimum": 1}), {"type": "null"}])
    kinds = set(re.findall(r"\w+", annotation))
    allowed = _list_allowed(name, annotation)
    types = _list_types(kinds)
    schema: Schema
    if allowed:
        # `no` without quotes is false to YAML, and taken for what it says
        words = [*allowed, False] if name.endswith("_strategy") and "no" in allowed else allowed
        rest = [kind for kind in types if kind not in ("string", "array", "boolean")]
        lists = [sequence({"enum": allowed})] if "array" in types else []
        schema = any_of([{"enum": words}, *lists, scalar(*rest)])
    else:
        schema = scalar(*types)
    if name in training_args.LEAST:
        schema["minimum"] = training_args.LEAST[name]
    if name in training_args.ABOVE_ZERO:
        schema["exclusiveMinimum"] = 0
    if name in training_args.BELOW_ONE:
        schema["exclusiveMaximum"] = 1
    return schema


def _list_allowed(name: str, annotation: str) -> list[str]:
    """List the words that a field takes; none where it takes any."""
    if name == "report_to":
        return training_args.trackers()
    allowed = []
    for enum in annotation.split(" | "):
        allowed += training_args.enums().get(enum, [])
    return allowed


def _list_types(kinds: set[str]) -> list[str]:
    """List the kinds of JSON values that fit an annotation, as training_args.accepts does."""
    types = []
    if kinds & {"None", "Optional"}:
        types.append("null")
    if "bool" in kinds or not kinds <= SCALARS:
        types.append("boolean")
    if "float" in kinds:
        types.append("number")
    elif "int" in kinds:
        types.append("integer")
    if not kinds <= BARE:
        types.append("string")
    if kinds & {"dict", "list", "Dict", "List"}:
        types += ["object", "array"]
    return types


def describe_peft_args() -> Schema:
    """Describe `model.peft_args`: the fields that peft.LoraConfig documents; its own check of the
    names comes when the model is loaded."""
    properties: dict[str, Schema] = {}
    for name, argument in read_library_arguments("peft.tuners.lora.config", "LoraConfig").items():
        properties[name] = {"description": argument.meaning}
    properties["target_modules"]["examples"] = ["all-linear"]
    text = "peft.LoraConfig's own names: only an adapter trains."
    schema = mapping(properties, rest={}, description=text)
    return any_of([schema, {"type": "null"}])
