"""Read plain values into dataclasses, strictly: every problem (unknown keys, wrong types) is
collected, none stops it.

Why this is no library: docs/decisions/config-reader.md.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from unteach.errors import UserError, find_nearest
from unteach.wording import quote_value

PROVIDED = {"template", "template_args", "tokenizer", "self"}
"""What unteach hands to a dataset or a collator itself; never a key of the configuration."""
TYPE_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


@functools.cache
def _get_hints(cls: type) -> dict[str, Any]:
    """Get the types of a class's fields, which Python works out anew each time."""
    return typing.get_type_hints(cls)


class Reader:
    """Turns plain values into dataclasses and keeps a list of everything that is wrong."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, path: str, what: str) -> None:
        """Report a problem at a dotted key."""
        self.problems.append(f"{path}: {what}" if path else what)

    def record(
        self,
        cls: type,
        value: object,
        path: str,
        drop: tuple[str, ...] = (),
    ) -> Any:
        """Read a mapping into the dataclass `cls`; None where it could not be built.

        Args:
            cls: a dataclass; nested ones are read too.
            value: plain values.
            path: the dotted key where the mapping stands, empty at the top.
            drop: fields that may not be given here.
        """
        if not isinstance(value, dict):
            self.wrong(path, f"must be a mapping, got {quote_value(value)}")
            return None
        num_before = len(self.problems)
        hints = _get_hints(cls)
        declared = {field.name: field for field in dataclasses.fields(cls) if field.init}
        for name in drop:
            del declared[name]
        kept = {}
        known = self.known(declared, value, path)
        for name, item in known.items():
            key = join_key(path, name)
            kept[name] = self.value(hints[name], item, key)
        for name, field in declared.items():
            if _is_required(field) and name not in value:
                self.wrong(join_key(path, name), "is required")
        if len(self.problems) > num_before:
            return None
        try:
            return cls(**kept)
        except UserError as error:
            self.wrong(path, str(error))
            return None

    def known(
        self,
        allowed: Collection[str],
        value: dict[str, Any],
        path: str,
        other_names: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Select the items whose keys are allowed; report the others with the nearest right name.

        Args:
            allowed: the names that there are.
            value: a mapping.
            path: the dotted key where it stands.
            other_names: what other tools call some of the keys.
        """
        known_items = {}
        for name, item in value.items():
            if name in allowed:
                known_items[name] = item
                continue
            right_name = other_names.get(str(name)) if other_names else None
            hint = suggest(str(name), allowed)
            if right_name:
                hint = f"did you mean {right_name}?"
            key = join_key(path, str(name))
            self.wrong(key, f"no such key; {hint}")
        return known_items

    def value(self, hint: object, value: object, path: str) -> Any:
        """Read one value of the annotated type, or report it."""
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        kind: Any = origin or hint
        if hint is Any:
            return value
        if dataclasses.is_dataclass(hint):
            return self.record(typing.cast(type, hint), value, path)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments, value, path)
        if origin is Literal:
            return self._choice(arguments, value, path)
        if kind in (list, tuple) and isinstance(value, list):
            item_hint = arguments[0] if arguments else Any
            items = []
            for index, item in enumerate(value):
                items.append(self.value(item_hint, item, f"{path}[{index}]"))
            return kind(items)
        if kind is dict and isinstance(value, dict):
            return self._mapping(arguments, value, path)
        return self._scalar(kind, value, path)

    def _scalar(self, kind: Any, value: object, path: str) -> object:
        """Read a value that must be an instance of a class, or report it."""
        is_bool = isinstance(value, bool)
        if kind is float and isinstance(value, int) and not is_bool:
            return self._number(value, path)
        is_truth_for_number = is_bool and kind in (int, float)
        if isinstance(value, kind) and not is_truth_for_number:
            if isinstance(value, float) and not math.isfinite(value):
                self.wrong(path, f"must be a finite number, got {value}")
            return value
        mend = ""
        if kind is str and isinstance(value, int | float):
            mend = f"; as text, it is written \"{path}='{str(value).lower()}'\""
        expected = describe_type(kind)
        self.wrong(path, f"must be {expected}, got {quote_value(value)}{mend}")
        return None

    def _choice(
        self,
        allowed: tuple[object, ...],
        value: object,
        path: str,
    ) -> object:
        """Read one of the values of a Literal."""
        for choice in allowed:
            # 1 equals true, and is no choice where true is one
            if value == choice and type(value) is type(choice):
                return value
        names = ", ".join(map(str, allowed))
        self.wrong(path, f"must be one of {names}, got {quote_value(value)}")
        return value

    def _mapping(
        self,
        arguments: tuple[Any, ...],
        value: dict[Any, Any],
        path: str,
    ) -> dict[Any, Any]:
        """Read a mapping whose keys and values have the annotated types."""
        key_hint, item_hint = arguments or (Any, Any)
        items = {}
        for key, item in value.items():
            if key_hint is str and not isinstance(key, str):
                self.wrong(path, f"its keys must be text, got {quote_value(key)}")
            items[key] = self.value(item_hint, item, f"{path}.{key}")
        return items

    def _number(self, value: int, path: str) -> float | None:
        """Read a whole number where any number may stand."""
        try:
            return float(value)
        except OverflowError:
            self.wrong(path, f"must be a number below 1e308, got {quote_value(value)}")
            return None

    def _union(self, options: tuple[Any, ...], value: object, path: str) -> Any:
        """Read a value as the first of several types that takes it."""
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
        types_in_words = " or ".join(map(describe_type, real))
        self.wrong(path, f"must be {types_in_words}, got {quote_value(value)}")
        return None

    def arguments(self, cls: type, value: dict[str, Any], path: str) -> None:
        """Check a mapping against the constructor that it will be handed to."""
        allowed = {}
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                return
            if name not in PROVIDED:
                allowed[name] = parameter
        hints = {}
        if dataclasses.is_dataclass(cls):
            hints = _get_hints(cls)
        known = self.known(allowed, value, path)
        for name, item in known.items():
            hint = hints.get(name, Any)
            self.value(hint, item, join_key(path, name))
        for name, parameter in allowed.items():
            if parameter.default is parameter.empty and name not in value:
                self.wrong(join_key(path, name), "is required")


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field has no default of either kind."""
    if field.default is not dataclasses.MISSING:
        return False
    return field.default_factory is dataclasses.MISSING


def join_key(path: str, name: str) -> str:
    """Join a dotted key and the name of what stands in it."""
    return f"{path}.{name}" if path else name


def suggest(name: str, allowed: Collection[str]) -> str:
    """Say what a wrong name most likely means, or what is allowed."""
    guess = find_nearest(name, allowed)
    if guess:
        return f"did you mean {guess}?"
    names = ", ".join(sorted(allowed)) or "(nothing)"
    return f"allowed: {names}"


def describe_type(hint: object) -> str:
    """Write a type in plain words."""
    kind: Any = typing.get_origin(hint) or hint
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    return str(getattr(hint, "__name__", hint))


def join_problems(problems: list[str]) -> str:
    """Write everything that is wrong with a configuration as one message."""
    if len(problems) == 1:
        return problems[0]
    lines = [f"{len(problems)} mistakes in this configuration:"]
    for problem in problems:
        lines.append(f"  {problem}")
    return "\n".join(lines)


class ConfigErrors(UserError):
    """Everything that is wrong with a configuration, a sentence each."""

    def __init__(self, problems: list[str]):
        super().__init__(join_problems(problems))
        self.problems = problems


@contextlib.contextmanager
def collect_problems(problems: list[str]) -> Iterator[None]:
    """Within it, add what is refused to `problems`, so that the next stage looks for more."""
    try:
        yield
    except ConfigErrors as error:
        problems += error.problems
    except UserError as error:
        problems.append(str(error))
