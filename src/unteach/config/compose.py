"""From command-line words to a checked Config: Hydra composes the groups, we apply the values and
check the whole tree.

Who wins, weakest first: the base trainer (`layers.base`), the experiment's common arguments
(`layers.common`), the method's own file (`trainer=`), the experiment's block for that method
(`layers.tuned.<method>`), the user's values. Values are applied after composition, so a key of the
schema never needs `+`.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from unteach import console, plugins, registry
from unteach.config import (
    hydra_groups,
    layers,
    preflight,
    read_config,
    runfile,
    schema,
    shorthand,
    variables,
)
from unteach.config.command import command_line
from unteach.config.normalize import normalize_config
from unteach.config.overrides import Words, sort_words
from unteach.config.reader import Mistakes, Reader, collected, mistakes
from unteach.errors import UserError, nearest
from unteach.wording import shown

T = TypeVar("T")
OPEN = ("model.model_args.", "model.tokenizer_args.")
"""Beginnings of keys that are handed on as they are; to remove one that is not set asks for what is
so."""
SECTIONS = ("layers", "trainer", "data", "model", "eval", "collator", "paths")


def compose(
    config_name: str,
    overrides: Iterable[str] = (),
    config_dirs: Iterable[str] = (),
    *,
    starting: bool = False,
    coming: Iterable[str] = (),
) -> schema.Config:
    """Composes `configs/<config_name>.yaml` with the overrides and reads it strictly. Needs no
    torch.

    Args:
        config_name: a primary configuration, of ours or of `config_dirs`.
        overrides: the words of a command line; the first may name a run's file.
        config_dirs: folders of more configuration files.
        starting: also refuse what would stop the run at once (see preflight.py).
        coming: model folders that will be there when it starts, as other runs make them.

    Raises:
        UserError: with every mistake found.
    """
    words, dirs = tuple(overrides), tuple(config_dirs)
    config = composed(
        config_name, words, dirs, read_config.read, starting=starting, coming=frozenset(coming)
    )
    config.command = command_line(config_name.removesuffix(".yaml"), words, dirs)
    return config


def composed(
    config_name: str,
    overrides: Iterable[str],
    config_dirs: Iterable[str],
    read: Callable[[dict[str, Any], set[str]], T],
    *,
    starting: bool = False,
    coming: frozenset[str] = frozenset(),
) -> T:
    """The same for a tree that `read` reads, given the resolved tree and the names that files
    declare for it."""
    config_name = config_name.removesuffix(".yaml")
    homes = (*config_dirs, *map(str, plugins.config_folders()))
    command = shorthand.expand(config_name, list(overrides), homes)
    words = sort_words(command.words)
    problems = [*command.problems, *words.problems]
    try:
        composition = _Composition(config_name, command, words, homes, problems)
        if starting:
            problems += composition.unnamed()
        return composition.finish(read, starting, coming)
    except UserError as error:
        found = error.problems if isinstance(error, Mistakes) else [str(error)]
        everything = list(dict.fromkeys([*problems, *found]))
        if command.file is not None:
            everything = [runfile.said_where(problem, command.file) for problem in everything]
        raise Mistakes(everything) from None


class _Composition:
    """A command on its way to a configuration. `problems` is what was found wrong so far; each
    stage adds to it."""

    def __init__(
        self,
        config_name: str,
        command: shorthand.Command,
        words: Words,
        homes: tuple[str, ...],
        problems: list[str],
    ):
        self.config_name, self.command, self.words, self.homes = config_name, command, words, homes
        self.problems = problems
        self.left_out: list[str] = []
        """groups whose choice is wrong and has no near name: what is said of them would be said of
        another choice"""
        self.notes: list[str] = []
        self.measures_by_default = False
        """whether nobody named a suite and rows of the user's own get theirs"""
        self.is_whole = command.file is not None and command.file.tree is not None
        self.tree, choices = self._whole() if self.is_whole else self._of_groups()
        self.method = choices.get("trainer")
        self.variables = {name for name in self.tree if name not in SECTIONS}

    def _of_groups(self) -> tuple[Any, dict[str, str]]:
        """The files of the chosen groups, put on one another."""
        words = self.words
        named = [
            path
            for key, value in words.values
            if key == "plugins"
            for path in plugins.parse_paths(value)
        ]
        with plugins.use_plugins(named):
            bare = _bare_method(words, self.homes)
        if self.config_name == "unlearn" and not words.chooses("trainer", "experiment"):
            self.notes.append(
                "trainer=GradAscent, as no method is named: where it runs for long it destroys "
                "the model; `unteach list methods` has the others"
            )
        words.groups, wrong, self.left_out = hydra_groups.mend_choices(words.groups, self.homes)
        self.problems += wrong
        tree, choices = hydra_groups.compose_hydra(self.config_name, words.groups, self.homes)
        if bare:
            tree.trainer, choices["trainer"] = {"handler": bare}, bare
        self.notes += layers.layer_trainer(tree, choices.get("trainer")) + words.said
        if words.eval_off:
            tree.eval = {}
        else:
            chosen = [word.partition("=")[0].lstrip("+") for word in words.groups]
            self.measures_by_default = layers.measure_own_rows(
                tree, choices.get("data"), [*chosen, *words.keys()], words.chooses("experiment")
            )
        with collected(self.problems):
            layers.choose_checkpoint(tree, choices.get("model"), words.keys())
        tree.pop("layers", None)
        return tree, choices

    def _whole(self) -> tuple[Any, dict[str, str]]:
        """The configuration that a run kept, as it stands."""
        file = self.command.file
        assert file is not None and file.tree is not None
        of_verb = ("eval",) if self.config_name == "eval" else ("train", "unlearn")
        kept = str(file.tree["mode"])
        if kept not in of_verb or (self.config_name == "unlearn" and kept == "train"):
            raise UserError(
                f"{file.path}: is the configuration of `unteach {kept}`; run it with that verb"
            )
        named = self.command.placed.get(schema.MODEL_KEY)
        for word in self.words.groups:
            word = f"model={named}" if word == "model=auto" and named else word
            self.problems.append(
                f"{word}: chooses a file, and {file.path} is a whole run, in which values are set: "
                f"trainer.args.…, {schema.MODEL_KEY}=…; for another method, model or data say the "
                "run in words"
            )
        tree = OmegaConf.create(runfile.normalize_tree(file.tree, dict(self.words.values)))
        if self.words.eval_off:
            tree.eval = {}
        return tree, {}

    def unnamed(self) -> list[str]:
        if self.is_whole:
            return []
        found = preflight.unnamed(self.config_name, self.words)
        # What was named wrongly was named, and has its sentence already.
        refused = self._refused()
        return [problem for problem in found if problem.partition(":")[0] not in refused]

    def _refused(self) -> set[str]:
        """The short words that have a sentence already: `model`, `data` for every word of rows."""
        keys = {problem.partition("=")[0] for problem in self.command.problems}
        of_rows = {*shorthand.FILE_WORDS, *shorthand.MAKES_FILES}
        keys |= {"data"} if keys & of_rows else set()
        return keys | ({"model"} if schema.MODEL_KEY in keys else set())

    def finish(
        self,
        read: Callable[[dict[str, Any], set[str]], T],
        starting: bool,
        coming: frozenset[str] = frozenset(),
    ) -> T:
        """Puts the user's values in, resolves the tree and reads it; Mistakes with all that was
        found on the way."""
        tree, words = self.tree, self.words
        self._remove_keys()
        with collected(self.problems):
            layers.one_warmup(tree, words.keys())
        _apply(tree, words.values, self.problems)
        if isinstance(tree.get("layers"), dict):
            del tree["layers"]
        named = self._name_run()
        refused = self._refused()
        has_said = {
            schema.MODEL_KEY: "model" in refused
            or any(problem.startswith("model:") for problem in self.problems),
            "task_name": "data" in refused,  # a name is made of the rows
            "input_file": bool({"data", "input_file"} & refused),
        }
        self._note_missing(has_said)
        for mend in (variables.mend_split, variables.mend_compat):
            with collected(self.problems):
                mend(tree)
        if not self.is_whole:  # in which nothing refers to anything any more
            variables.drop_unused(tree, words.keys())
        plain = _resolve(tree)
        # which may have been removed; that is said below
        if named and isinstance(plain.get("paths"), dict):
            self.notes.append(
                f"task_name={plain['task_name']}, as none is given: {plain['paths']['output_dir']}"
            )
        found: list[str] = []
        with plugins.use_plugins(plugins.parse_paths(plain.get("plugins"))), collected(found):
            if self.measures_by_default:
                layers.leave_unmeasured(plain)
            with collected(found):
                normalize_config(plain, words.values)
            if starting:
                found += [
                    *preflight.absent(plain, self.command.placed, coming),
                    *preflight.not_installed(plain),
                ]
                found += preflight.from_scratch(plain)
            config = read(plain, self.variables)
        self.problems += [problem for problem in found if self._is_certain(problem)]
        if has_said[schema.MODEL_KEY]:
            self.problems[:] = [
                problem for problem in self.problems if not problem.startswith("model: is required")
            ]
        if self.problems:
            raise Mistakes(self.problems)
        for sentence in dict.fromkeys(self.notes):
            console.say(f"note: {sentence}")
        return config

    def _remove_keys(self) -> None:
        """Take out of the tree what the user removes by `~key`."""
        for name in self.words.removed:
            if name.startswith(OPEN) and OmegaConf.select(self.tree, name) is None:
                self.notes.append(f"~{name}: it is not set anyway")
                continue
            with collected(self.problems):
                _remove(self.tree, name)

    def _note_missing(self, has_said: dict[str, bool]) -> None:
        """Note each key that must be given and is not, unless another problem says so already.

        A placeholder takes its place, so that the rest can be read.
        """
        for key, problem in _missing(self.tree).items():
            if not has_said.get(key) and "experiment" not in self.left_out:
                self.problems.append(problem)
            OmegaConf.update(self.tree, key, "?")

    def _name_run(self) -> bool:
        """Gives a run without a name one of what it is made of."""
        method = None if self.method == "finetune" else self.method
        name = self.command.default_name(method)
        if name is None or not OmegaConf.is_missing(self.tree, "task_name"):
            return False
        self.tree.task_name = name
        return True

    def _is_certain(self, problem: str) -> bool:
        """Whether a problem would stand with the right choices too, where some are wrong and cannot
        be guessed."""
        if not self.left_out:
            return True
        of_choice = {"trainer": ("trainer.method_args", "data."), "data/datasets": ("data.",)}
        doubtful = [
            part for group in self.left_out for part in of_choice.get(group, (f"{group}.",))
        ]
        if "experiment" in self.left_out:
            doubtful += ["trainer.method_args", "data.", "eval.", "model."]
        return problem.startswith(tuple(self.words.keys())) and not problem.startswith(
            tuple(doubtful)
        )


def _bare_method(words: Words, homes: tuple[str, ...]) -> str | None:
    """`trainer=X` where no file says more of X than that it is a method: its name, taken out of the
    words."""
    for word in words.groups:
        key, _, name = word.partition("=")
        if (
            key == "trainer"
            and name not in hydra_groups.options("trainer", homes)
            and name in registry.method
        ):
            words.groups.remove(word)
            return name
    return None


def flat(cls: type, words: Iterable[str], where: str) -> Any:
    """key=value words of a verb that composes nothing, as the dataclass `cls`; read as strictly as
    a configuration."""
    command = shorthand.expand(where.removeprefix("unteach "), list(words), ())
    told = sort_words(command.words)
    problems = [*command.problems, *told.problems]
    problems += [
        f"{where}: takes key=value words, not {word}" for word in (*told.groups, *told.removed)
    ]
    tree = OmegaConf.create({})
    _apply(tree, told.values, problems)
    reader = Reader()
    read = reader.record(cls, OmegaConf.to_container(tree), "")
    refused = tuple(f"{key}: is required" for key in _long_keys(command.problems))
    problems += [
        problem for problem in reader.problems if not (refused and problem.startswith(refused))
    ]
    if problems:
        raise UserError(f"{where}: {mistakes(problems)}")
    return read


def _long_keys(problems: list[str]) -> list[str]:
    """The long keys of tokenize's words that a sentence is about already."""
    keys = {problem.partition("=")[0] for problem in problems}
    long = {"model": shorthand.MODEL_KEYS["tokenize"], "data": shorthand.DATA_KEYS["tokenize"]}
    return [long.get(key, key) for key in keys]


def _remove(tree: Any, key: str) -> None:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(node, DictConfig) or leaf not in node:
        raise UserError(f"~{key}: there is no such key to remove")
    del node[leaf]


def _apply(tree: Any, values: list[tuple[str, Any]], problems: list[str]) -> None:
    for key, value in values:
        try:
            OmegaConf.update(tree, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            there = OmegaConf.select(tree, key, throw_on_missing=False)
            why = f"cannot be set ({str(error).splitlines()[0]})"
            if isinstance(there, DictConfig | ListConfig):
                why = "must be a mapping" if isinstance(there, DictConfig) else "must be a list"
            problems.append(f"{key}: {why}, got {shown(value)}")


REQUIRED = {
    "task_name": "names the run's folder saves/<mode>/<task_name>",
    schema.MODEL_KEY: "model=PATH says it too",
    "input_file": "data=FILE says it too",
}
"""What there is to say of values that have no default."""


def _missing(tree: dict[str, Any]) -> dict[str, str]:
    """Key -> what is said of it, for each required value that nobody gave."""

    def walk(node: Any, path: str) -> list[str]:
        if isinstance(node, dict):
            return [
                key
                for name, item in node.items()
                for key in walk(item, f"{path}.{name}" if path else str(name))
            ]
        return [path] if node == "???" else []

    keys = walk(OmegaConf.to_container(tree, resolve=False), "")
    said = {key: f": {REQUIRED[key]}" if key in REQUIRED else "" for key in keys}
    return {key: f"{key}: is required{said[key]}; set {key}=…" for key in keys}


def _resolve(tree: dict[str, Any]) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(tree, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        said = str(error).splitlines()[0]
        of_ours, _, refused = said.rpartition("UserError raised while resolving interpolation: ")
        if of_ours or refused != said:
            raise UserError(refused) from None
        absent = re.search(r"'(.*)'", said) if isinstance(error, InterpolationKeyError) else None
        guess = nearest(absent[1], map(str, tree)) if absent else None
        key = getattr(error, "full_key", None)
        said = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", said)
        raise UserError(
            (f"{key}: " if key else "") + said + (f"; did you mean {guess}?" if guess else "")
        ) from None
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def to_yaml(tree: dict[str, Any]) -> str:
    """The resolved tree as it is kept in a run's folder."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if "\x85" not in text:
        return text
    # escaped: a bare NEL would be read as a line's end
    return yaml.safe_dump(tree, sort_keys=False)
