"""The short words of a command line put in full: `model=PATH`, `data=FILE.csv`, `forget=FILE`, and
a run as a file.

A name of a configuration always wins; `./name` is a path.

    model=X                  model=auto model.model_args.pretrained_model_name_or_path=X
    data=X                   data=files data.train_file=X         (infer, tokenize: input_file=X)
    forget=X, retain=X       data=files data.forget_file=X data.retain_file=X
"""

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from unteach.config import groups
from unteach.config.files import get_format, get_stem
from unteach.config.overrides import quote, unquote
from unteach.config.reader import collect_problems
from unteach.config.references import is_place
from unteach.config.runfile import SUFFIXES, RunFile, is_run_file, read_run_file
from unteach.config.schema import MODEL_KEY
from unteach.errors import UserError, find_nearest

logger = logging.getLogger(__name__)
FILE_WORDS = {
    "forget": "data.forget_file",
    "retain": "data.retain_file",
    "holdout": "data.holdout_file",
    "refusal": "data.refusal_file",
}
MAKES_FILES = ("data.train_file", "data.forget_file", "data.retain_file")
"""Keys that say by themselves that the rows are files of one's own."""
PLACE_KEYS = (
    MODEL_KEY,
    *FILE_WORDS.values(),
    "data.train_file",
    "data.validation_file",
    "data.landing_file",
    "input_file",
)
"""Keys whose value is a path as it is typed, with every quote, comma and letter that a file's name
may have."""
MODEL_KEYS = {"tokenize": "tokenizer_path"}
DATA_KEYS = {"infer": "input_file", "tokenize": "input_file"}
"""What `model=` and `data=` are called in the verbs that compose nothing, or have rows of one kind
only."""


@dataclass
class Command:
    """A command line in full.

    overrides: what Hydra's grammar reads. file: the run's file, if it began with one. model, data:
    what was named, as a name for the run is made of it. placed: the long keys that a short word
    said, and their values. problems: words that mean nothing.
    """

    overrides: list[str] = field(default_factory=list)
    file: RunFile | None = None
    model: str | None = None
    data: str | None = None
    placed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    is_served: bool = False

    def default_name(self, method: str | None) -> str | None:
        """A name for a run that was given none: by its file, or by its model, rows and method; None
        without rows."""
        if self.file is not None:
            return _plain_name(Path(self.file.path).stem)
        if self.data is None:
            return None
        parts = [_stem(self.data), method or ""]
        if self.model:
            stem = _stem(self.model)
            # What the model's name says already is not said again.
            new_parts = [part for part in parts if not _is_said(part, stem)]
            parts = [stem, *new_parts]
        return _plain_name("-".join(filter(None, parts)))


def expand(
    config_name: str,
    overrides: list[str],
    homes: tuple[str, ...],
) -> Command:
    """Read the run's file where the first word names one, and put every short word in full."""
    command = Command()
    words = list(overrides)
    if words and is_run_file(words[0]):
        command.file = read_run_file(words.pop(0))
        words = _weaker(command.file.overrides, words) + words
    # `unteach infer` takes every name for a hub id.
    command.is_served = config_name == "audit" and "backend=openai" in words
    for word in words:
        with collect_problems(command.problems):
            command.overrides += _expand_word(config_name, word, homes, command)
    given = {_key(word) for word in command.overrides}
    names_files = "data" not in given and not given.isdisjoint(MAKES_FILES)
    if config_name not in DATA_KEYS and names_files:
        command.overrides.insert(0, "data=files")
    # A path alone names the whole model: the default configuration would bring the tokenizer of
    # another. A benchmark's default stays, as OpenUnlearning's commands are written for it.
    is_whole = command.file is not None and command.file.tree is not None
    is_path_alone = MODEL_KEY in given and given.isdisjoint({"model", "experiment"})
    composes_model = config_name in ("train", "unlearn", "eval", "audit")
    if is_path_alone and composes_model and not is_whole:
        command.overrides.insert(0, "model=auto")
    _refuse_two_places(command)
    return command


def _is_said(part: str, name: str) -> bool:
    """Whether a part of a run's name stands in another as words of its own: `my` in `my-rows`, not
    in `mymodel`."""
    inner = re.sub(r"[-_.]+", "-", part)
    outer = re.sub(r"[-_.]+", "-", name)
    return f"-{inner}-" in f"-{outer}-"


def _weaker(words: list[str], stronger: list[str]) -> list[str]:
    """List the words of a file that the words beside it leave standing.

    Both may say a key by its short word or in full.
    """
    given = {_long_key(word) for word in stronger}
    if "model" in given:
        given.add(MODEL_KEY)
    if "data" in given:
        given |= {*MAKES_FILES, "data.train_file"}
    if not given.isdisjoint(MAKES_FILES):
        given.add("data")
    return [word for word in words if _long_key(word) not in given]


def _long_key(word: str) -> str:
    """Give the key of a word, in full where it is short for a file's."""
    key = _key(word)
    return FILE_WORDS.get(key, key)


def _key(word: str) -> str:
    """Give a word's left side."""
    return word.partition("=")[0].lstrip("+")


def _value(word: str) -> str:
    """Give what a word's right side names: a path as it is typed, or what stands in quotes."""
    return unquote(word.partition("=")[2])


def _spell_place(word: str) -> str:
    """Write a word's right side for Hydra's grammar.

    A path stands in quotes; null, lists and mappings as they are.
    """
    text = word.partition("=")[2].strip()
    if text == "null" or text.startswith(("[", "{")):
        return text
    return quote(unquote(text))


def _expand_word(
    config_name: str,
    word: str,
    homes: tuple[str, ...],
    command: Command,
) -> list[str]:
    """Put one word in full where it is short."""
    key = _key(word)
    value = _value(word)
    if "=" not in word and is_run_file(word):
        raise UserError(f"{word}: a run's file comes first: unteach VERB {word} key=value …")
    composes_tree = config_name not in DATA_KEYS
    if composes_tree and "${" in value and os.path.exists(os.path.expanduser(value)):
        raise UserError(
            f"{word}: ${{…}} stands for another key of the configuration wherever a value has it, "
            "so that a file of this name cannot be given; rename it"
        )
    if _names_nothing(config_name, key, word):
        what = "model" if key in ("model", MODEL_KEY) else "file"
        raise UserError(
            f"{key}=: names no {what}; {key}=PATH says which, and a word that is left out needs no "
            f"value"
        )
    is_named = value not in ("", "null") and not value.startswith("{")
    if key == "model" and is_named and not value.startswith("["):
        return _expand_model(config_name, word, value, homes, command)
    if key == "data" and is_named:
        return _expand_data(config_name, word, value, homes, command)
    if key in FILE_WORDS and composes_tree and "=" in word:
        command.data = command.data or value
        return [f"{FILE_WORDS[key]}={_spell_place(word)}"]
    if key in MAKES_FILES:
        command.data = command.data or value
    if key == MODEL_KEY:
        command.model = value
    if key in PLACE_KEYS and "=" in word:
        return [f"{key}={_spell_place(word)}"]
    return [word]


def _names_nothing(config_name: str, key: str, word: str) -> bool:
    """Whether a word that must name a place has an empty value, which as a path would be the
    current folder."""
    if "=" not in word or _value(word).strip():
        return False
    if key in FILE_WORDS:
        return config_name not in DATA_KEYS
    return key in ("model", "data", *PLACE_KEYS)


def _expand_model(
    config_name: str,
    word: str,
    name: str,
    homes: tuple[str, ...],
    command: Command,
) -> list[str]:
    """Put `model=NAME` in full: a configuration, or a path or hub id."""
    if config_name in MODEL_KEYS:
        return [f"{MODEL_KEYS[config_name]}={_spell_place(word)}"]
    files = groups.list_options("model", homes)
    file = name.removesuffix(".yaml")
    if file in files and (file == "auto" or not command.is_served):
        command.model = command.model or file
        return [word]
    if config_name == "infer" and not is_place(name):
        if guess := find_nearest(name, files):
            logger.info(f"model={name} is taken for a hub id; `unteach list models` has {guess}")
    elif not is_place(name) and not command.is_served:
        guess = find_nearest(name, files)
        known = ", ".join(files)
        hint = f"did you mean {guess}?" if guess else f"Configurations: {known}."
        raise UserError(
            f"model={name}: there is no model configuration and no folder of that name; {hint} "
            f"A folder is written with its path (./{name}), a hub id as org/name"
        )
    path = os.path.expanduser(name)
    command.model = name
    command.placed[MODEL_KEY] = path
    return ["model=auto", f"{MODEL_KEY}={quote(path)}"]


def _expand_data(
    config_name: str,
    word: str,
    name: str,
    homes: tuple[str, ...],
    command: Command,
) -> list[str]:
    """Put `data=NAME` in full: a configuration, or a file, folder or hub set."""
    files = groups.list_options("data", homes)
    if name.removesuffix(".yaml") in files:
        return [word]
    if config_name in DATA_KEYS:
        return [f"{DATA_KEYS[config_name]}={_spell_place(word)}"]
    if name.startswith("["):
        raise UserError(
            f"{word}: takes one file or folder; several are data.train_file, data.forget_file, "
            "data.retain_file, data.validation_file"
        )
    if not (is_place(name) or get_format(name)):
        _refuse_data(name, files, homes)
    path = os.path.expanduser(name)
    command.data = name
    command.placed["data.train_file"] = path
    return [f"data.train_file={quote(path)}"]


def _refuse_data(name: str, files: list[str], homes: tuple[str, ...]) -> NoReturn:
    """Say that `data=NAME` names neither rows nor a configuration, and what it may have been."""
    if name in groups.list_options("data/datasets", homes):
        raise UserError(
            f"data={name}: is the dataset of one stream; write data.train={name} (or "
            f"data.forget, …)"
        )
    own = [file for file in files if "/" not in file]
    known = ", ".join(own)
    guess = find_nearest(name, own)
    hint = f"; did you mean {guess}?" if guess else "."
    raise UserError(
        f"data={name}: there is no file, folder or configuration of that name{hint} A file is "
        f"written data=my.csv, a folder data=./folder, a hub set data=org/name; configurations: "
        f"{known}"
    )


def _refuse_two_places(command: Command) -> None:
    """Refuse a long key that names another place than the short word beside it."""
    for word in command.overrides:
        key = _key(word)
        value = os.path.expanduser(_value(word))
        placed = command.placed.get(key, value)
        if value != placed:
            short = "model" if key == MODEL_KEY else "data"
            command.problems.append(f"{short}={placed} and {key}={value} name two; give one")


def _stem(place: str) -> str:
    """Give the part of a path, a hub id or a configuration's name that people call it by."""
    path = Path(re.sub(r":\w+$", "", place))
    while path.name == "final_checkpoint" or re.fullmatch(r"checkpoint-\d+", path.name):
        path = path.parent
    if get_format(path):
        return get_stem(path)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _plain_name(name: str) -> str:
    """Make a text the name of a folder."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "run"
