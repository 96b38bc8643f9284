"""Dotted keys: what a run's file, a study and a command line write in one word."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from unteach.editor.shapes import Definitions, Schema

PREFIX = "#/$defs/"
ANY_NAME = r"[^.]+"


@dataclass
class FlatKeys:
    """The keys of nested mappings, dotted.

    Attributes:
        properties: by the key.
        patterns: of keys in which a name is the user's, by their regular expression.
    """

    properties: dict[str, Schema] = field(default_factory=dict)
    patterns: dict[str, Schema] = field(default_factory=dict)


def flatten(properties: dict[str, Schema], definitions: Definitions) -> FlatKeys:
    """List every key of these mappings, and of those within them."""
    flat = FlatKeys()
    for name, schema in properties.items():
        flat.properties[name] = schema
        _add_below(flat, name, re.escape(name), schema, definitions)
    return flat


def _add_below(
    flat: FlatKeys,
    path: str | None,
    pattern: str,
    schema: Schema,
    definitions: Definitions,
    has_patterns: bool = True,
) -> None:
    """Add the keys below one.

    Args:
        flat: what is added to.
        path: the dotted key; None where a part of it is any name.
        pattern: the regular expression of the key.
        schema: what the key takes.
        definitions: what it refers to.
        has_patterns: whether keys with any name are added; not where a pattern above has them.
    """
    for pointer, node in list_mappings(schema, definitions):
        rest = node.get("additionalProperties")
        has_own = has_patterns and not (rest and any(list_mappings(rest, definitions)))
        for name, child in node.get("properties", {}).items():
            reference = {"$ref": f"{pointer}/properties/{name}"} if pointer else child
            below = f"{pattern}\\.{re.escape(name)}"
            if path is None:
                flat.patterns[f"^{below}$"] = reference
                _add_below(flat, None, below, child, definitions)
                continue
            flat.properties[f"{path}.{name}"] = reference
            _add_below(flat, f"{path}.{name}", below, child, definitions, has_own)
        if not has_patterns:
            continue
        if rest == {}:  # whatever stands below it is handed on
            flat.patterns[f"^{pattern}\\."] = {}
        elif rest:
            below = f"{pattern}\\.{ANY_NAME}"
            flat.patterns[f"^{below}$"] = rest
            _add_below(flat, None, below, rest, definitions)


def list_mappings(schema: Schema, definitions: Definitions) -> Iterator[tuple[str, Schema]]:
    """List the mappings that a schema may be, each with the pointer to it, "" where it has none."""
    if "$ref" in schema:
        target = look_up(schema["$ref"], definitions)
        if _is_mapping(target):
            yield schema["$ref"], target
        else:
            yield from list_mappings(target, definitions)
        return
    if _is_mapping(schema):
        yield "", schema
    for member in schema.get("anyOf", ()):
        yield from list_mappings(member, definitions)


def _is_mapping(schema: Schema) -> bool:
    """Whether a schema describes a mapping."""
    return "properties" in schema or "additionalProperties" in schema


def look_up(pointer: str, definitions: Definitions) -> Schema:
    """Give the schema that a reference points to."""
    node: object = definitions.schemas
    for part in pointer.removeprefix(PREFIX).split("/"):
        assert isinstance(node, dict)
        node = node[part]
    assert isinstance(node, dict)
    return node


def resolve(schema: Schema, definitions: Definitions) -> Schema:
    """Put what a schema refers to in its place; its own words are stronger."""
    own = dict(schema)
    while "$ref" in own:
        pointer = own.pop("$ref")
        own = {**look_up(pointer, definitions), **own}
    return own
