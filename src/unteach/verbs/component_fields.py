"""The fields of a registered class as users set them: name, what it takes, default, meaning.

`unteach list NAME` and docs/reference.md read them here.
"""

import ast
import dataclasses
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
    """One field. default: as YAML has it; None where the field must be given."""

    name: str
    takes: str
    default: str | None
    meaning: str


def fields_of(cls: Any) -> list[FieldInfo]:
    """The fields of a dataclass, or the arguments of a constructor that the configuration gives."""
    if not dataclasses.is_dataclass(cls):
        return _arguments_of(cls)
    hints, meanings = _hints(cls), meanings_of(cls)
    found = []
    for one in dataclasses.fields(cls):
        if not one.init:
            continue
        default = (
            one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
        )
        written = None if default is dataclasses.MISSING else as_yaml(default)
        found.append(
            FieldInfo(one.name, spell_type(hints[one.name]), written, meanings.get(one.name, ""))
        )
    return found


def _arguments_of(cls: Any) -> list[FieldInfo]:
    found = []
    for name, one in inspect.signature(cls).parameters.items():
        if name in PROVIDED or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        default = None if one.default is one.empty else as_yaml(one.default)
        found.append(FieldInfo(name, spell_type(one.annotation), default, ""))
    return found


def _hints(cls: Any) -> dict[str, Any]:
    """The types of a class's fields; what a plugin imports for type checkers only stays as it is
    written."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return {one.name: one.type for one in dataclasses.fields(cls)}


def meanings_of(cls: Any) -> dict[str, str]:
    """Field -> its help, or the docstring under it, in the class and those it derives from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "__dataclass_fields__" not in base.__dict__:
            continue
        helps = {one.name: one.metadata.get("help") for one in base.__dataclass_fields__.values()}
        found |= {name: text for name, text in helps.items() if text}
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, SyntaxError):  # a class without a file
            continue
        found |= docstrings_under(body.body) if isinstance(body, ast.ClassDef) else {}
    return found


def docstrings_under(body: list[ast.stmt]) -> dict[str, str]:
    """Name -> the docstring under its assignment."""
    found = {}
    for line, below in itertools.pairwise(body):
        target: ast.expr | None = None
        if isinstance(line, ast.AnnAssign):
            target = line.target
        elif isinstance(line, ast.Assign):
            target = line.targets[0]
        if (
            isinstance(target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[target.id] = " ".join(str(below.value.value).split())
    return found


def spell_type(hint: Any, quote: str = "") -> str:
    """A type in plain words. quote: put around the words that a Literal allows."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(f"{quote}{one}{quote}" for one in inner)
    if inner and type(None) in inner:
        rest = tuple(one for one in inner if one is not type(None))
        return f"{spell_type(typing.Union[rest], quote)} or null"  # noqa: UP007
    if origin in (list, tuple):
        return f"list of {spell_type(inner[0], quote)}"
    if origin is dict:
        return "mapping"
    if inner:
        return " or ".join(spell_type(one, quote) for one in inner)
    if isinstance(hint, str):
        return hint
    return WORDS.get(hint) or f"mapping ({getattr(hint, '__name__', hint)})"


def as_yaml(value: object) -> str:
    """A value as the command line takes it."""
    if dataclasses.is_dataclass(value):
        return "{}"
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, str):
        return f"{value.splitlines()[0]} …" if "\n" in value else value or '""'
    try:
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    except yaml.YAMLError:
        return str(value)
    return text.strip().removesuffix("...").strip()
