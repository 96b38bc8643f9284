"""JSON schemas of what is named and has fields of its own: methods, wrappers, metrics, datasets,
collators, attacks."""

import dataclasses
import inspect
from collections.abc import Iterable
from pathlib import Path

from unteach import registry
from unteach.config.component_fields import as_yaml
from unteach.config.component_fields import list_fields as list_arguments
from unteach.config.groups import CONFIGS, list_options
from unteach.config.reader import PROVIDED
from unteach.editor.shapes import (
    OPEN,
    Definitions,
    Schema,
    any_of,
    choice,
    mapping,
    nullable,
    scalar,
    when,
)
from unteach.strict_yaml import read_yaml


def list_classes(kind: registry.Registry) -> dict[str, type]:
    """List the classes of a kind by name."""
    return {entry.name: entry.target for entry in kind.entries()}


def define_classes(definitions: Definitions, kind: registry.Registry) -> dict[str, Schema]:
    """Define the fields of every class of a kind; give the references by name.

    A class that takes any argument, or a trainer of a plugin, is left out.
    """
    references = {}
    for entry in kind.entries():
        cls = entry.target
        name = f"{kind.kind}.{entry.name}"
        if dataclasses.is_dataclass(cls):
            reference = definitions.refer_class(cls, name)
        else:
            parameters = inspect.signature(cls).parameters.values()
            if any(one.kind is one.VAR_KEYWORD for one in parameters):
                continue
            properties: dict[str, Schema] = {field.name: {} for field in list_arguments(cls)}
            reference = definitions.refer(name, mapping(properties))
        schema = definitions.schemas[name]
        about = [schema.get("description") or entry.line]
        about += [f"{fact}: {value}" for fact, value in entry.facts.items() if fact == "paper"]
        schema["description"] = " ".join(about)
        references[entry.name] = reference
    return references


def list_field_names(definitions: Definitions, reference: Schema) -> list[str]:
    """List the keys of a mapping that is defined."""
    return list(definitions.schemas[reference["$ref"].rpartition("/")[2]]["properties"])


def join_fields(definitions: Definitions, references: dict[str, Schema]) -> dict[str, Schema]:
    """Join the fields of several classes: where classes differ in one, it takes what any takes."""
    variants: dict[str, list[Schema]] = {}
    owners: dict[str, list[str]] = {}
    for name, reference in references.items():
        pointer = reference["$ref"]
        for field in list_field_names(definitions, reference):
            schema = definitions.schemas[pointer.rpartition("/")[2]]["properties"][field]
            default = schema.get("default")
            bare = {word: schema[word] for word in schema if word not in ("description", "default")}
            variants.setdefault(field, []).append(bare)
            said = name if default is None else f"{name} [{as_yaml(default)}]"
            owners.setdefault(field, []).append(said)
    joined = {}
    for field, schemas in variants.items():
        schema = any_of(schemas)
        if len(schema["anyOf"]) == 1:
            schema = dict(schema["anyOf"][0])
        joined[field] = {**schema, "description": f"of {', '.join(owners[field])}"}
    return joined


def describe_named(definitions: Definitions, kind: registry.Registry, key: str) -> Schema:
    """Describe a mapping in which one key names a class of a kind and the others are its fields."""
    references = define_classes(definitions, kind)
    conditions = []
    for name, reference in references.items():
        properties: dict[str, Schema] = {key: {}}
        for field in list_field_names(definitions, reference):
            properties[field] = {"$ref": f"{reference['$ref']}/properties/{field}"}
        closed = {
            "properties": properties,
            "patternProperties": {r"^[^.]+\.": {}},
            "additionalProperties": False,
        }
        conditions.append(when(key, [name], closed))
    about = {"description": f"The name of a {kind.kind}.{OPEN}"}
    return mapping(
        {key: {**choice(references, is_open=True), **about}},
        rest={},
        allOf=conditions,
    )


def describe_wrapper(definitions: Definitions, kind: registry.Registry) -> Schema:
    """Describe what stands round a method: null, a name, or a mapping of name and fields."""
    named = describe_named(definitions, kind, "name")
    names = choice(list_classes(kind), is_open=True)
    return any_of([names, named, {"type": "null"}])


def describe_component(definitions: Definitions, kind: registry.Registry) -> Schema:
    """Describe a dataset or a collator: `handler` and `args`."""
    references = define_classes(definitions, kind)
    conditions = []
    for name, reference in references.items():
        conditions.append(when("handler", [name], {"properties": {"args": reference}}))
        definition = definitions.schemas[reference["$ref"].rpartition("/")[2]]
        for given in sorted(PROVIDED - {"self"}):
            definition["properties"][given] = {}
    handler = choice(references, is_open=True)
    handler["description"] = f"The class of a {kind.kind}.{OPEN}"
    args = mapping({}, rest={}, description="The arguments of the class.")
    return mapping({"handler": handler, "args": args}, allOf=conditions)


def describe_attacks(definitions: Definitions, fields_of: dict[str, Schema]) -> Schema:
    """Describe `audit.attacks`: attacks by name, each null or its fields."""
    properties = {}
    other = {"type": "object", "required": ["attack"]}
    for name, reference in fields_of.items():
        definitions.schemas[reference["$ref"].rpartition("/")[2]]["properties"]["attack"] = {}
        properties[name] = any_of([reference, {"type": "null"}, other])
    text = f"Attacks by name, each with its fields; null takes one out.{OPEN}"
    return mapping(properties, rest=nullable({"type": "object"}), description=text)


def list_handlers(homes: Iterable[str]) -> dict[str, list[str]]:
    """List the names that `trainer=` takes, by the method that each stands for."""
    names: dict[str, list[str]] = {name: [name] for name in list_classes(registry.method)}
    for name in list_options("trainer", homes):
        for home in (*map(str, homes), str(CONFIGS)):
            file = f"{home}/trainer/{name}.yaml"
            try:
                handler = read_yaml(Path(file)).get("handler")
            except (ValueError, AttributeError):
                continue
            others = [known for known, members in names.items() if name in members]
            for known in others:
                names[known].remove(name)
            names.setdefault(str(handler), []).append(name)
            break
    return names


def describe_value(default: object) -> Schema:
    """Describe a value of which only the default is known: numbers are checked, texts are not."""
    if isinstance(default, bool):
        return scalar("boolean")
    if isinstance(default, int):
        return scalar("integer")
    if isinstance(default, float):
        return scalar("number")
    return {}
