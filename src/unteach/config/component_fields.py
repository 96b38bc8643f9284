"""The fields of a registered class as users set them: name, what it takes, default, meaning.

`unteach list NAME` and docs/reference.md read them here.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import typing
from dataclasses import dataclass
from typing import Any

import yaml

from unteach.config.reader import PROVIDED

WORDS = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    dict: "mapping",
    list: "list",
    Any: "anything",
    inspect.Parameter.empty: "anything",
}


@dataclass(frozen=True)
class FieldInfo:
    """One field.

    Attributes:
        takes: what it takes, in plain words.
        default: as YAML has it; None where the field must be given.
        meaning: "" where its class does not say.
    """

    name: str
    takes: str
    default: str | None
    meaning: str


def list_fields(cls: type) -> list[FieldInfo]:
    """List the fields of a dataclass, or the arguments of a constructor that the configuration
    gives."""
    if not dataclasses.is_dataclass(cls):
        return _list_arguments(cls)
    hints = _read_hints(cls)
    meanings = read_meanings(cls)
    infos = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        info = FieldInfo(
            name=field.name,
            takes=spell_type(hints[field.name]),
            default=None if default is dataclasses.MISSING else as_yaml(default),
            meaning=meanings.get(field.name, ""),
        )
        infos.append(info)
    return infos


def _list_arguments(cls: type) -> list[FieldInfo]:
    """List the arguments of a constructor, but for those that a run itself gives."""
    infos = []
    for name, parameter in inspect.signature(cls).parameters.items():
        is_open = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name in PROVIDED or is_open:
            continue
        is_required = parameter.default is parameter.empty
        info = FieldInfo(
            name=name,
            takes=spell_type(parameter.annotation),
            default=None if is_required else as_yaml(parameter.default),
            meaning="",
        )
        infos.append(info)
    return infos


def _read_hints(cls: type) -> dict[str, Any]:
    """Read the types of a class's fields; what a plugin imports for type checkers only stays as it
    is written."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return {field.name: field.type for field in dataclasses.fields(cls)}


def read_meanings(cls: type) -> dict[str, str]:
    """Read what each field means, by its name: its help, or the docstring under it, in the class
    and those it derives from."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        own = base.__dict__.get("__dataclass_fields__")
        if own is None:
            continue
        for name, field in own.items():
            text = field.metadata.get("help")
            if text:
                meanings[name] = text
        meanings.update(_read_docstrings(base))
    return meanings


@functools.cache
def _read_docstrings(cls: type) -> dict[str, str]:
    """Read the docstrings under the fields of a class, without those that it derives from."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        statement = ast.parse(source).body[0]
    except (OSError, SyntaxError):  # a class without a file
        return {}
    if not isinstance(statement, ast.ClassDef):
        return {}
    return docstrings_under(statement.body)


def docstrings_under(body: list[ast.stmt]) -> dict[str, str]:
    """Read the docstring under each assignment, by the name that is assigned to."""
    docstrings = {}
    for statement, below in itertools.pairwise(body):
        target: ast.expr | None = None
        if isinstance(statement, ast.AnnAssign):
            target = statement.target
        elif isinstance(statement, ast.Assign):
            target = statement.targets[0]
        if not isinstance(target, ast.Name) or not isinstance(below, ast.Expr):
            continue
        if isinstance(below.value, ast.Constant):
            text = str(below.value.value)
            docstrings[target.id] = " ".join(text.split())
    return docstrings


def spell_type(hint: Any, quote: str = "") -> str:
    """Write a type in plain words.

    Args:
        hint: what stands behind a field's colon: a class, a union, a Literal, a text.
        quote: put around the words that a Literal allows.
    """
    origin = typing.get_origin(hint)
    inner = typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(f"{quote}{word}{quote}" for word in inner)
    if type(None) in inner:
        rest = tuple(member for member in inner if member is not type(None))
        spelled = spell_type(typing.Union[rest], quote)  # noqa: UP007
        return f"{spelled} or null"
    if origin in (list, tuple):
        return f"list of {spell_type(inner[0], quote)}"
    if origin is dict:
        return "mapping"
    if inner:
        return " or ".join(spell_type(member, quote) for member in inner)
    if isinstance(hint, str):
        return hint
    name = getattr(hint, "__name__", hint)
    return WORDS.get(hint) or f"mapping ({name})"


def as_yaml(value: object) -> str:
    """Write a value as the command line takes it."""
    if dataclasses.is_dataclass(value):
        return "{}"
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, str):
        if "\n" in value:
            return f"{value.splitlines()[0]} …"
        return value or '""'
    try:
        text = yaml.safe_dump(
            value,
            default_flow_style=True,
            width=10_000,
        )
    except yaml.YAMLError:
        return str(value)
    return text.strip().removesuffix("...").strip()
