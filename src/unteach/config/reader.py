"""Plain values into dataclasses, strictly: every problem (unknown keys, wrong types) is collected,
none stops it."""

import contextlib
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from unteach.errors import UserError, nearest
from unteach.wording import shown

GIVEN = {"template", "template_args", "tokenizer", "self"}
"""What unteach hands to a dataset or a collator itself; never a key of the configuration."""


class Reader:
    """Turns plain values into dataclasses and keeps a list of everything that is wrong."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, path: str, what: str) -> None:
        self.problems.append(f"{path}: {what}" if path else what)

    def record(self, cls: type, value: object, path: str, drop: tuple[str, ...] = ()) -> Any:
        """Reads a mapping into the dataclass `cls`; None where it could not be built."""
        if not isinstance(value, dict):
            self.wrong(path, f"must be a mapping, got {shown(value)}")
            return None
        before = len(self.problems)
        hints = typing.get_type_hints(cls)
        declared = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in drop}
        kept = {
            name: self.value(hints[name], item, f"{path}.{name}" if path else name)
            for name, item in self.known(declared, value, path).items()
        }
        for name, declaration in declared.items():
            required = (
                declaration.default is dataclasses.MISSING
                and declaration.default_factory is dataclasses.MISSING
            )
            if required and name not in value:
                self.wrong(f"{path}.{name}" if path else name, "is required")
        if len(self.problems) > before:
            return None
        try:
            return cls(**kept)
        except UserError as error:
            self.wrong(path, str(error))
            return None

    def known(
        self,
        allowed: Any,
        value: dict[str, Any],
        path: str,
        other_names: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The items of `value` whose keys are allowed; the others are reported with the nearest
        right name.

        other_names: what other tools call some of the keys.
        """
        for name in value:
            if name not in allowed:
                guess = (other_names or {}).get(str(name)) or nearest(str(name), allowed)
                hint = (
                    f"did you mean {guess}?"
                    if guess
                    else f"allowed: {', '.join(sorted(allowed)) or '(nothing)'}"
                )
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
                self.wrong(path, f"must be one of {', '.join(map(str, inner))}, got {shown(value)}")
            return value
        if (origin or hint) in (list, tuple) and isinstance(value, list):
            return (origin or hint)(
                self.value(inner[0] if inner else Any, item, f"{path}[{i}]")
                for i, item in enumerate(value)
            )
        if (origin or hint) is dict and isinstance(value, dict):
            for key in (
                key for key in value if inner and inner[0] is str and not isinstance(key, str)
            ):
                self.wrong(path, f"its keys must be text, got {shown(key)}")
            return {
                k: self.value(inner[1] if inner else Any, item, f"{path}.{k}")
                for k, item in value.items()
            }
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return self.number(value, path)
        if isinstance(value, origin or hint) and not (
            isinstance(value, bool) and hint in (int, float)
        ):
            if isinstance(value, float) and not math.isfinite(value):
                self.wrong(path, f"must be a finite number, got {value}")
            return value
        quoted = hint is str and isinstance(value, int | float)
        mend = f"; as text, it is written \"{path}='{str(value).lower()}'\"" if quoted else ""
        self.wrong(path, f"must be {spelled(hint)}, got {shown(value)}{mend}")
        return None

    def number(self, value: int, path: str) -> float | None:
        """Reads a whole number where any number may stand."""
        try:
            return float(value)
        except OverflowError:
            self.wrong(path, f"must be a number below 1e308, got {shown(value)}")
            return None

    def _union(self, options: tuple[Any, ...], value: object, path: str) -> Any:
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
        self.wrong(path, f"must be {' or '.join(map(spelled, real))}, got {shown(value)}")
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


def spelled(hint: object) -> str:
    names: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
    }
    names |= {list: "a list", dict: "a mapping"}
    return names.get(typing.get_origin(hint) or hint, str(getattr(hint, "__name__", hint)))


def mistakes(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} mistakes in this configuration:\n" + "\n".join(
        f"  {problem}" for problem in problems
    )


class Mistakes(UserError):
    """Everything that is wrong with a configuration, a sentence each."""

    def __init__(self, problems: list[str]):
        super().__init__(mistakes(problems))
        self.problems = problems


@contextlib.contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Within it, what is refused is added to `problems`, and the next stage looks for more."""
    try:
        yield
    except Mistakes as error:
        problems += error.problems
    except UserError as error:
        problems.append(str(error))
