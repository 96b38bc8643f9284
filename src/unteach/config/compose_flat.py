"""Verbs that need no configuration files: their words, `key=value` and names, as a dataclass of
verb_configs.py, read as strictly as a configuration."""

import dataclasses
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from unteach.config import shorthand, verb_keys
from unteach.config.groups import GROUPS
from unteach.config.overrides import sort_overrides, unquote
from unteach.config.reader import ConfigErrors, Reader, collect_problems
from unteach.config.verb_configs import PASSED_ON, POSITIONAL, list_keys
from unteach.errors import UserError

T = TypeVar("T")


def compose_flat(cls: type[T], overrides: Iterable[str], verb: str) -> T:
    """Read the words of a verb as the dataclass `cls`.

    A key whose field is text takes its value as it is typed, quotes around it apart; any other
    value is read by the grammar of the command line. Words without a key are the field that is
    marked positional.

    Raises:
        UserError: with every mistake found.
    """
    command = shorthand.Command(overrides=list(overrides))
    takes_short_words = verb in shorthand.DATA_KEYS
    if takes_short_words:
        command = shorthand.expand(verb, list(overrides), ())
    problems = list(command.problems)
    hints = typing.get_type_hints(cls)
    keys = list_keys(cls)
    tree: dict[str, Any] = {}
    names: list[str] = []
    positional = _find_marked(cls, POSITIONAL)
    passing = _find_marked(cls, PASSED_ON)
    passed_on: list[str] = []
    for word in command.overrides:
        key, equals, text = word.partition("=")
        field = _find_field(key, keys, hints)
        is_group = takes_short_words and key in GROUPS
        if equals and field is not None:
            with collect_problems(problems):
                value = _parse_value(word, text, hints.get(field, Any))
                _set_nested(tree, key.split("."), value)
        elif passing is not None and key.lstrip("+~").split(".")[0] in passing.metadata[PASSED_ON]:
            passed_on.append(word)
        elif positional is not None and not _is_setting(word):
            names.append(word)
        elif not (keys or positional or passing):
            problems.append(f"unteach {verb}: takes no words, got {word}")
        elif re.match(r"[\w.]+=", word) and not is_group:
            problems.append(verb_keys.refuse_key(verb, key))
        else:
            problems.append(f"unteach {verb}: takes key=value words, not {word}")
    for key, field in keys.items():
        if key != field and key in tree:
            tree[field] = tree.pop(key)
    if positional is not None:
        tree[positional.name] = names
    if passing is not None:
        tree[passing.name] = passed_on

    # What a sentence says already is not said again as missing.
    reader = Reader()
    config: T = reader.record(cls, tree, "")
    refused = _list_refused(verb, command.problems)
    answered = tuple(f"{key}: is required" for key in refused)
    for problem in reader.problems:
        if not problem.startswith(answered):
            problems.append(problem)
    if problems:
        raise ConfigErrors(problems)
    return config


def _find_marked(cls: type, mark: str) -> "dataclasses.Field[Any] | None":
    """Find the field whose metadata has a mark; None where there is none."""
    for field in dataclasses.fields(typing.cast(Any, cls)):
        if mark in field.metadata:
            return field
    return None


def _find_field(
    key: str, fields_of_keys: dict[str, str], hints: Mapping[str, object]
) -> str | None:
    """Find the field of the verb's key that a word's key is, or lies within; nothing lies within
    text."""
    for known, field in fields_of_keys.items():
        is_within = key.startswith(f"{known}.") and not _is_text(hints.get(field))
        if key == known or is_within:
            return field
    return None


def _is_setting(word: str) -> bool:
    """Whether a word sets a key, rather than naming a folder whose name has a `=`."""
    has_key = re.match(r"[\w.]+=", word) is not None
    return has_key and not os.path.exists(word)


def _parse_value(word: str, text: str, hint: object) -> object:
    """Read the right side of a word. Raises UserError where it cannot be read."""
    if _is_text(hint):
        if not text.strip():
            raise UserError(f"{word} needs a value")
        if text.strip() == "null":
            return None
        return unquote(text)
    parsed = sort_overrides([word])
    if parsed.problems:
        raise ConfigErrors(parsed.problems)
    if parsed.removed:  # null, for a name that is a group elsewhere
        return None
    return parsed.values[0][1]


def _is_text(hint: object) -> bool:
    """Whether a type is that of text, which may be absent."""
    kinds = {hint}
    if isinstance(hint, types.UnionType):
        kinds = set(typing.get_args(hint))
    return str in kinds and kinds <= {str, types.NoneType}


def _set_nested(tree: dict[str, Any], path: list[str], value: object) -> None:
    """Set a value in nested mappings, which are made where they are not there."""
    *parents, leaf = path
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[leaf] = value


def _list_refused(verb: str, problems: list[str]) -> list[str]:
    """List the long keys of tokenize's short words that a sentence is about already."""
    if verb not in shorthand.MODEL_KEYS:
        return []
    long_keys = {
        "model": shorthand.MODEL_KEYS[verb],
        "data": shorthand.DATA_KEYS[verb],
    }
    refused = []
    for problem in problems:
        key = problem.partition("=")[0]
        refused.append(long_keys.get(key, key))
    return refused
