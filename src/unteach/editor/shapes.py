"""JSON schemas of values: what a type of a dataclass's field accepts, as config/reader.py reads it.

Wherever a value may stand, so may a reference to another key, `${…}`, which only the run resolves.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from unteach.editor.meanings import read_field_meanings, read_first_paragraph

Schema = dict[str, Any]
REFERENCE = r"\$\{|^\?\?\?$"
"""A text that stands for a value which is known later: `${key}`, or `???`, a value to be given."""
KINDS: dict[object, str] = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "string",
    types.NoneType: "null",
}
WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "object": "a mapping",
    "array": "a list",
}
OPEN = " Plugins and files of yours may add names."


class Definitions:
    """The `$defs` of a schema, one for each dataclass that it names."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def refer(self, name: str, schema: Schema) -> Schema:
        """Define a schema under a name, and give the reference to it."""
        self.schemas[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def refer_class(self, cls: type, name: str = "") -> Schema:
        """Define the mapping that is read as a dataclass, once, and give the reference to it."""
        name = name or cls.__name__
        if name not in self.schemas:
            self.schemas[name] = {}  # its place, as it may hold itself
            self.schemas[name] = self.describe_class(cls)
        return {"$ref": f"#/$defs/{name}"}

    def describe_class(self, cls: type) -> Schema:
        """Describe the mapping that is read as a dataclass."""
        schema = mapping(self.list_fields(cls))
        if paragraph := read_first_paragraph(cls):
            schema["description"] = paragraph
        return schema

    def list_fields(self, cls: type) -> dict[str, Schema]:
        """Describe each field of a dataclass that a configuration sets."""
        hints = typing.get_type_hints(cls)
        meanings = read_field_meanings(cls)
        properties = {}
        for field in dataclasses.fields(cls):
            if not field.init:
                continue
            schema = dict(self.describe_type(hints[field.name]))
            if field.name in meanings:
                schema["description"] = meanings[field.name]
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            if is_plain(default):
                schema["default"] = list(default) if isinstance(default, tuple) else default
            properties[field.name] = schema
        return properties

    def describe_type(self, hint: object) -> Schema:
        """Describe the values of a type."""
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            return self.refer_class(typing.cast(type, hint))
        if hint in KINDS:
            return scalar(KINDS[hint])
        if origin is Literal:
            return choice(arguments)
        if origin in (typing.Union, types.UnionType):
            return self._describe_union(arguments)
        if hint in (list, tuple) or origin in (list, tuple):
            return sequence(self.describe_type(arguments[0]) if arguments else {})
        if hint is dict or origin is dict:
            return mapping({}, rest=self.describe_type(arguments[1]) if arguments else {})
        return {}

    def _describe_union(self, members: tuple[object, ...]) -> Schema:
        """Describe the values of several types: one list of types where none has a form."""
        if all(member in KINDS for member in members):
            return scalar(*(KINDS[member] for member in members))
        described = [self.describe_type(member) for member in members]
        if {} in described:
            return {}
        return any_of(described)


def is_plain(value: object) -> bool:
    """Whether a value can stand in a JSON file, and is not empty."""
    if isinstance(value, list | tuple | dict):
        return bool(value) and not dataclasses.is_dataclass(value)
    return value is None or isinstance(value, str | int | float)


def scalar(*kinds: str) -> Schema:
    """Describe a value of these kinds of JSON."""
    # null first: yaml-language-server takes a default for text where text comes first
    kinds = tuple(sorted(kinds, key=lambda kind: kind != "null"))
    if "string" in kinds:
        return {"type": kinds[0] if len(kinds) == 1 else list(kinds)}
    said = " or ".join(WORDS[kind] for kind in reversed(kinds))
    return {
        "type": [*kinds, "string"],
        "pattern": REFERENCE,
        "patternErrorMessage": f"must be {said}, or ${{KEY}}",
    }


def choice(values: Iterable[object], is_open: bool = False) -> Schema:
    """Describe one of a few values; where it `is_open`, they are only suggested."""
    text = {"type": "string"} if is_open else {"type": "string", "pattern": REFERENCE}
    return {"anyOf": [{"enum": list(values)}, text]}


def sequence(items: Schema) -> Schema:
    """Describe a list."""
    schema = scalar("array")
    return {**schema, "items": items} if items else schema


def mapping(
    properties: Mapping[str, Schema],
    rest: Schema | Literal[False] = False,
    **more: object,
) -> Schema:
    """Describe a mapping.

    Args:
        properties: its keys.
        rest: what any other key takes; False where there is no other. A key with a dot, which says
            a key within a key, is always let pass.
        more: other words of the schema.
    """
    schema = scalar("object")
    schema["properties"] = dict(properties)
    if rest is False:
        schema["patternProperties"] = {r"^[^.]+\.": {}}
    schema["additionalProperties"] = rest
    return {**schema, **more}


def any_of(schemas: Iterable[Schema]) -> Schema:
    """Describe what any of several schemas does."""
    members: list[Schema] = []
    for schema in schemas:
        members += schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]
    unique: list[Schema] = []
    for member in members:
        if member not in unique:
            unique.append(member)
    return {"anyOf": unique}


def nullable(schema: Schema) -> Schema:
    """Describe a value that may be null too."""
    return any_of([schema, {"type": "null"}])


def when(key: str, names: Iterable[str], then: Schema) -> Schema:
    """Say what else holds where a key has one of these names."""
    test = {"properties": {key: {"enum": sorted(names)}}, "required": [key]}
    return {"if": test, "then": then}
