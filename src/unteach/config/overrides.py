"""The words of a command line, sorted: choices of groups (Hydra's work), values (ours),
removals."""

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from unteach.config import openunlearning, training_args
from unteach.config.files import FILE_KEYS, RENAMED_FILE_KEYS, TABLES
from unteach.config.groups import GROUPS, list_options
from unteach.config.reader import collect_problems
from unteach.errors import UserError, refuse_unreadable, shorten_name
from unteach.lazy import hydra_errors, hydra_parser
from unteach.strict_yaml import refuse_odd_values

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
        return {key for key, _ in self.values}

    def chooses(self, *groups: str) -> bool:
        """Whether the user says anything of these groups: which one, or a value within it."""
        said = {word.partition("=")[0] for word in self.groups} | self.keys()
        return any(key.lstrip("+").partition(".")[0] in groups for key in said)


def sort_overrides(overrides: Iterable[str]) -> Overrides:
    """Splits overrides into group choices (Hydra's work) and values (ours), and mends the short
    forms."""
    parser, words = hydra_parser.OverridesParser.create(), Overrides()
    for word in overrides:
        with collect_problems(words.problems):
            _sort_word(words, word, parser)
    return words


def _sort_word(words: Overrides, word: str, parser: Any) -> None:
    """Puts one word where it belongs; UserError where it cannot stand."""
    with refuse_unreadable(shorten_name(word), "cannot be read"):
        try:
            override = parser.parse_override(word)
        except hydra_errors.HydraException:
            raise UserError(_unreadable(word)) from None
    key = override.key_or_group
    if override.is_sweep_override():
        raise UserError(
            f"{word!r} asks for several runs: put them under `vary` in a study (unteach study …)"
            + _list_instead(word)
        )
    value = None if override.is_delete() else override.value()
    try:
        refuse_odd_values(value)
    except UserError as error:
        raise UserError(f"{shorten_name(word)}: {error}") from None
    stream = re.fullmatch(r"data\.(\w+)", key)
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
    if key == "eval" and value is None and not override.is_delete():
        words.eval_off = True
    elif key == "experiment" and value is None:
        return
    elif value is None and (override.is_delete() or key in GROUPS):
        words.removed.append(key)
    elif stream and _names(value) and stream[1] not in ("anchor", *FILE_KEYS, *RENAMED_FILE_KEYS):
        words.groups.append(f"data/datasets@data.{stream[1]}={str(value).replace(chr(39), '')}")
    elif override.package is not None or key in GROUPS or "/" in key:
        if not _names(value):
            raise UserError(
                f"{word}: takes a name, of {', '.join(list_options(key)) or 'a file of that group'}"
            )
        choice = re.sub(r"\.yaml$", "", word.lstrip("+"))
        if choice in RENAMED_CHOICES:
            words.notes.append(
                f"{choice} is spelled {RENAMED_CHOICES[choice].partition('=')[2]} here"
            )
        words.groups.append(RENAMED_CHOICES.get(choice, choice))
        words.eval_off = words.eval_off and key != "eval"  # the later word wins
    else:
        _add_value(words, key, value)


def _names(value: object) -> bool:
    """Whether a value names a file of a group, or several."""
    many = value if isinstance(value, list) else [value]
    return bool(many) and all(isinstance(name, str) for name in many)


def _list_instead(word: str) -> str:
    """Say how a list is written, where a word's value is a row of names."""
    key, _, value = word.partition("=")
    names = [name.strip() for name in value.split(",")]
    if not all(re.fullmatch(r"[\w./:-]+", name) for name in names):
        return ""
    return f"; where {key} takes a list, write {key}=[{','.join(names)}]"


def _unreadable(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals and os.path.isdir(os.path.expanduser(word)):
        return f"{word}: is a folder; a model is named by model={word}, rows by data={word}"
    if not equals and word.lower().endswith(TABLES):
        return f"{word}: is a file of rows; write data={word}"
    if equals and re.fullmatch(r"[\w.@/+]+", key) and not re.search(r"^[\[{]|['\"]", value):
        return (
            f"cannot read {word!r}: put the value in quotes, and all of it in others: "
            f"\"{key}='{value}'\""
        )
    if plain_list := re.fullmatch(r"\[([^\[\]{}'\"]*)\]", value):
        items = ",".join(f'"{item.strip()}"' for item in plain_list[1].split(","))
        return (
            f"cannot read {word!r}: put each of the list in quotes, and all of it in others: "
            f"'{key}=[{items}]'"
        )
    return f"cannot read {word!r}: write key=value, with every bracket and quote closed"


def _add_value(words: Overrides, key: str, value: object) -> None:
    """Adds a value under today's name of its key."""
    section, _, name = key.rpartition(".")
    if section == "trainer.args":
        current, said = training_args.translate_old_names({name: value})
        words.values += [(f"trainer.args.{new}", item) for new, item in current.items()]
        words.notes += said
        return
    if key in RENAMED:
        words.notes.append(f"{key} is called {RENAMED[key].rpartition('.')[2]} now")
    words.values.append((RENAMED.get(key, key), value))


def spell_value(value: object) -> str:
    """A value as a word's right side."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(spell_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {spell_value(item)}' for key, item in value.items())}}}"
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
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    mark, inner = text[0], text[1:-1]
    inner = re.sub(rf"(\\*)\\{mark}", lambda found: found[1][: len(found[1]) // 2] + mark, inner)
    return re.sub(r"(\\+)$", lambda found: found[1][: len(found[1]) // 2], inner)


@functools.cache
def _is_plain(text: str) -> bool:
    """Whether text is itself without quotes, and no number, truth value or null."""
    return bool(re.fullmatch(r"[\w./:%-]+", text, re.ASCII)) and _is_text(text)


def _is_text(text: str) -> bool:
    """Whether YAML takes this for text; its value is not built, for a number may have too many
    digits."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return node is not None and node.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG
