"""The words of a command line, sorted: choices of groups (Hydra's work), values (ours),
removals."""

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from unteach.config import openunlearning, training_args
from unteach.config.files import FILE_KEYS, RENAMED_FILE_KEYS, get_format
from unteach.config.groups import GROUPS, list_options
from unteach.config.reader import collect_problems
from unteach.errors import UserError, refuse_unreadable, shorten_name
from unteach.lazy import hydra_errors, hydra_parser
from unteach.strict_yaml import refuse_odd_values

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

RENAMED = {
    "model.model_args.torch_dtype": "model.model_args.dtype",
    "model.template_args.asst_tag": "model.template_args.asst_start_tag",
}


RENAMED_CHOICES = {
    "experiment=unlearn/muse/sustainabilty": "experiment=unlearn/muse/sustainability"
}
"""Choices as OpenUnlearning spells them."""


@dataclass
class Overrides:
    """The words of a command line, sorted by what they do."""

    groups: list[str] = field(default_factory=list)
    values: list[tuple[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    eval_off: bool = False
    notes: list[str] = field(default_factory=list)
    """a sentence for each old name among the values"""
    problems: list[str] = field(default_factory=list)
    """a sentence for each word that cannot stand"""

    def keys(self) -> set[str]:
        """The keys whose value the user sets."""
        return {key for key, _ in self.values}

    def chooses(self, *groups: str) -> bool:
        """Whether the user says anything of these groups: which one, or a value within it."""
        keys = self.keys()
        keys |= {word.partition("=")[0] for word in self.groups}
        for key in keys:
            group = key.lstrip("+").partition(".")[0]
            if group in groups:
                return True
        return False


def sort_overrides(overrides: Iterable[str]) -> Overrides:
    """Split overrides into group choices (Hydra's work) and values (ours), and mend the short
    forms."""
    words = Overrides()
    for word in overrides:
        with collect_problems(words.problems):
            _sort_word(words, word)
    return words


def _sort_word(words: Overrides, word: str) -> None:
    """Put one word where it belongs. Raises UserError where it cannot stand."""
    override = _parse_word(word)
    key = override.key_or_group
    is_removal = override.is_delete()
    value = None if is_removal else override.value()
    _refuse_word(word, key, value)

    stream = re.fullmatch(r"data\.(\w+)", key)
    not_streams = ("anchor", *FILE_KEYS, *RENAMED_FILE_KEYS)
    if key == "eval" and value is None and not is_removal:
        words.eval_off = True
    elif key == "experiment" and value is None:
        return
    elif value is None and (is_removal or key in GROUPS):
        words.removed.append(key)
    elif stream and _names(value) and stream[1] not in not_streams:
        dataset = str(value).replace("'", "")
        words.groups.append(f"data/datasets@data.{stream[1]}={dataset}")
    elif override.package is not None or key in GROUPS or "/" in key:
        _add_choice(words, word, key, value)
    else:
        _add_value(words, key, value)


@functools.lru_cache(maxsize=4096)
def _read_by_grammar(word: str) -> "Override":
    """Read a word by Hydra's grammar, once a process: the runs of a study share most of theirs."""
    return hydra_parser.OverridesParser.create().parse_override(word)


def _parse_word(word: str) -> "Override":
    """Parse a word by Hydra's grammar. Raises UserError where it is none, or asks for a sweep."""
    with refuse_unreadable(shorten_name(word), "cannot be read"):
        try:
            override = _read_by_grammar(word)
        except hydra_errors.HydraException:
            raise UserError(_unreadable(word)) from None
    if override.is_sweep_override():
        raise UserError(
            f"{word!r} asks for several runs: put them under `vary` in a study (unteach study …)"
            + _list_instead(word)
        )
    return override


def parse_value(word: str) -> Any:
    """Parse the value of a word whose key is no configuration's.

    Raises:
        UserError: where it is not written as the values of a configuration are.
    """
    value = _parse_word(word).value()
    _refuse_odd_value(word, value)
    return value


def _refuse_odd_value(word: str, value: object) -> None:
    """Raise UserError for a value that no configuration holds."""
    try:
        refuse_odd_values(value)
    except UserError as error:
        raise UserError(f"{shorten_name(word)}: {error}") from None


def _refuse_word(word: str, key: str, value: object) -> None:
    """Raise UserError where a word's key or value can stand nowhere."""
    _refuse_odd_value(word, value)
    if not key:
        raise UserError(_unreadable(word))
    if mend := openunlearning.find_refusal(key, value):
        raise UserError(f"{word}: {mend}")
    if key.startswith(("hydra.", "hydra/")):
        raise UserError(
            f"{word!r}: a run's folder is paths.output_dir; unteach uses Hydra for composition only"
        )
    if key.partition(".")[0] == "layers":
        raise UserError(
            f"{word!r}: layers are for configuration files; set trainer.args.… or "
            f"trainer.method_args.…"
        )


def _add_choice(
    words: Overrides,
    word: str,
    key: str,
    value: object,
) -> None:
    """Add the choice of a group's file. Raises UserError where the value names none."""
    if not _names(value):
        allowed = ", ".join(list_options(key)) or "a file of that group"
        raise UserError(f"{word}: takes a name, of {allowed}")
    choice = re.sub(r"\.yaml$", "", word.lstrip("+"))
    current = RENAMED_CHOICES.get(choice, choice)
    if current != choice:
        name = current.partition("=")[2]
        words.notes.append(f"{choice} is spelled {name} here")
    words.groups.append(current)
    if key == "eval":
        words.eval_off = False  # the later word wins


def _names(value: object) -> bool:
    """Whether a value names a file of a group, or several."""
    if not isinstance(value, list):
        return isinstance(value, str)
    return bool(value) and all(isinstance(name, str) for name in value)


def _list_instead(word: str) -> str:
    """Say how a list is written, where a word's value is a row of names."""
    key, _, value = word.partition("=")
    names = []
    for name in value.split(","):
        name = name.strip()
        if not re.fullmatch(r"[\w./:-]+", name):
            return ""
        names.append(name)
    items = ",".join(names)
    return f"; where {key} takes a list, write {key}=[{items}]"


def _unreadable(word: str) -> str:
    """Say how a word that the grammar does not read is to be written."""
    key, equals, value = word.partition("=")
    if not equals and os.path.isdir(os.path.expanduser(word)):
        return f"{word}: is a folder; a model is named by model={word}, rows by data={word}"
    if not equals and get_format(word):
        return f"{word}: is a file of rows; write data={word}"
    is_key = re.fullmatch(r"[\w.@/+]+", key) is not None
    has_marks = re.search(r"^[\[{]|['\"]", value) is not None
    if equals and is_key and not has_marks:
        return (
            f"cannot read {word!r}: put the value in quotes, and all of it in others: "
            f"\"{key}='{value}'\""
        )
    if plain_list := re.fullmatch(r"\[([^\[\]{}'\"]*)\]", value):
        quoted = []
        for item in plain_list[1].split(","):
            quoted.append(f'"{item.strip()}"')
        items = ",".join(quoted)
        return (
            f"cannot read {word!r}: put each of the list in quotes, and all of it in others: "
            f"'{key}=[{items}]'"
        )
    return f"cannot read {word!r}: write key=value, with every bracket and quote closed"


def _add_value(words: Overrides, key: str, value: object) -> None:
    """Add a value under today's name of its key."""
    section, _, name = key.rpartition(".")
    if section == "trainer.args":
        current_args, notes = training_args.translate_old_names({name: value})
        for current_name, current_value in current_args.items():
            words.values.append((f"trainer.args.{current_name}", current_value))
        words.notes += notes
        return
    current_key = RENAMED.get(key, key)
    if current_key != key:
        current_name = current_key.rpartition(".")[2]
        words.notes.append(f"{key} is called {current_name} now")
    words.values.append((current_key, value))


def spell_value(value: object) -> str:
    """Write a value as a word's right side."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        items = ",".join(map(spell_value, value))
        return f"[{items}]"
    if isinstance(value, dict):
        entries = [f"{key}: {spell_value(item)}" for key, item in value.items()]
        return "{" + ",".join(entries) + "}"
    if isinstance(value, str) and not _is_plain(value):
        return quote(value)
    return str(value)


def quote(text: str) -> str:
    """Quote text so that Hydra's grammar reads it as it stands.

    Within quotes a backslash stands for itself, except before a quote and at the end.
    """
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def unquote(text: str) -> str:
    """Give the text that a word's right side stands for: the inverse of `quote`; without quotes it
    is as it stands."""
    text = text.strip()
    mark = text[:1]
    is_quoted = len(text) >= 2 and mark in "'\"" and text.endswith(mark)
    if not is_quoted:
        return text
    inner = re.sub(
        rf"(\\*)\\{mark}",
        lambda match: _halve(match[1]) + mark,
        text[1:-1],
    )
    return re.sub(r"(\\+)$", lambda match: _halve(match[1]), inner)


def _halve(backslashes: str) -> str:
    """Undo the doubling of backslashes by `quote`."""
    return backslashes[: len(backslashes) // 2]


NUMBER = re.compile(r"[+-]?(nan|inf|[\d_]*\.?[\d_]*(e[+-]?[\d_]+)?)", re.IGNORECASE | re.ASCII)
"""What the grammar of the command line takes for a number, YAML's text or not: 1e-4, nan."""


@functools.cache
def _is_plain(text: str) -> bool:
    """Whether text is itself without quotes, and no number, truth value or null."""
    if not re.fullmatch(r"[\w./:-]+", text, re.ASCII) or NUMBER.fullmatch(text):
        return False
    return _is_text(text)


def _is_text(text: str) -> bool:
    """Whether YAML takes this for text; its value is not built, for a number may have too many
    digits."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # a colon by itself
        return False
    text_tag = yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG
    return node is not None and node.tag == text_tag
