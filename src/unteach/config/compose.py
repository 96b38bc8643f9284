"""One path from the words of a command line to a checked configuration.

overrides -> Hydra's groups -> values and normalization -> dataclasses. Who wins, weakest first: the
base trainer (`layers.base`), the experiment's common arguments (`layers.common`), the method's own
file (`trainer=`), the experiment's block for that method (`layers.tuned.<method>`), the user's
values. Values are applied after composition, so a key of the schema never needs `+`.

The user's own files of rows are read by the next and last stage, `data.user_files.resolve_files`.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from omegaconf import OmegaConf

from unteach import plugins, registry
from unteach.config import (
    composed_files,
    groups,
    hydra_groups,
    inference,
    layers,
    parse_config,
    preflight,
    runfile,
    schema,
    shorthand,
    tree,
    variables,
)
from unteach.config.command import command_line
from unteach.config.method_consistency import find_idle_args
from unteach.config.normalize import normalize_config
from unteach.config.overrides import Overrides, sort_overrides
from unteach.config.reader import ConfigErrors, collect_problems
from unteach.errors import UserError

T = TypeVar("T")
logger = logging.getLogger(__name__)
OPEN = ("model.model_args.", "model.tokenizer_args.")
"""Beginnings of keys that are handed on as they are; to remove one that is not set asks for what is
so."""
SECTIONS = ("layers", "trainer", "data", "model", "eval", "audit", "collator", "paths")
DEPENDENT_KEYS = {
    "trainer": ("trainer.method_args", "data."),
    "data/datasets": ("data.",),
    "experiment": ("experiment.", "trainer.method_args", "data.", "eval.", "model."),
}
"""By group: beginnings of keys about which nothing is certain while its choice is wrong."""


def compose(
    config_name: str,
    overrides: Iterable[str] = (),
    config_dirs: Iterable[str] = (),
    *,
    starting: bool = False,
    coming: Iterable[str] = (),
) -> schema.RunConfig:
    """Compose `configs/<config_name>.yaml` with the overrides and parse it strictly, without torch.

    Args:
        config_name: a primary configuration, of ours or of `config_dirs`.
        overrides: the words of a command line; the first may name a run's file.
        config_dirs: folders of more configuration files.
        starting: also refuse what would stop the run at once (see preflight.py).
        coming: model folders that will be there when it starts, as other runs make them.

    Returns:
        An EvalConfig where the configuration's mode is `eval`, otherwise a TrainConfig.

    Raises:
        UserError: with every mistake found.
    """
    words = tuple(overrides)
    dirs = tuple(config_dirs)
    command = command_line(config_name.removesuffix(".yaml"), words, dirs)

    def parse(plain: dict[str, Any], variable_names: set[str]) -> schema.RunConfig:
        return parse_config.parse_run_config(plain, variable_names, command)

    return _compose(config_name, words, dirs, parse, starting, frozenset(coming))


def compose_inference(
    overrides: Iterable[str],
    config_dirs: Iterable[str] = (),
    *,
    starting: bool = False,
) -> inference.InferConfig:
    """Compose `configs/infer.yaml` with the overrides in the same way."""
    return _compose(
        "infer",
        tuple(overrides),
        tuple(config_dirs),
        inference.parse_infer_config,
        starting,
        frozenset(),
    )


def _compose(
    config_name: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[str, ...],
    parse: Callable[[dict[str, Any], set[str]], T],
    starting: bool,
    coming: frozenset[str],
) -> T:
    """Compose a tree and hand it, with the names that files declare for it, to `parse`."""
    config_name = config_name.removesuffix(".yaml")
    homes = (*config_dirs, *map(str, plugins.config_folders()))
    command = shorthand.expand(config_name, list(overrides), homes)
    sorted_overrides = sort_overrides(command.overrides)
    problems = [*command.problems, *sorted_overrides.problems]
    try:
        composition = _Composition(
            config_name,
            command,
            sorted_overrides,
            homes,
            problems,
        )
        if starting:
            problems += composition.find_unnamed()
        plain = composition.to_plain()
        config = composition.parse(plain, parse, starting, coming)
    except UserError as error:
        last = [str(error)]
        if isinstance(error, ConfigErrors):
            last = error.problems
        # a dictionary keeps the order and drops what is said twice
        everything = list(dict.fromkeys([*problems, *last]))
        file = command.file
        if file is not None:
            everything = [runfile.add_location(problem, file) for problem in everything]
        raise ConfigErrors(everything) from None
    for note in dict.fromkeys(composition.notes):
        logger.info(note)
    return config


class _Composition:
    """A command on its way to a configuration.

    problems: what was found wrong so far; each stage adds to it, and the last one raises.
    """

    def __init__(
        self,
        config_name: str,
        command: shorthand.Command,
        overrides: Overrides,
        homes: tuple[str, ...],
        problems: list[str],
    ):
        self.config_name = config_name
        self.command = command
        self.overrides = overrides
        self.homes = homes
        self.problems = problems
        self.notes: list[str] = []
        self.left_out: list[str] = []
        """groups whose choice is wrong and has no near name: what is said of them would be said of
        another choice"""
        self.measures_by_default = False
        """whether nobody named a suite and rows of the user's own get theirs"""
        self.is_whole = command.file is not None and command.file.tree is not None
        compose_tree = self._take_whole if self.is_whole else self._compose_groups
        self.tree, choices = compose_tree()
        self.method = choices.get("trainer")
        self.variables = {name for name in self.tree if name not in SECTIONS}

    def _compose_groups(self) -> tuple[Any, dict[str, str]]:
        """Put the files of the chosen groups on one another."""
        overrides = self.overrides
        with plugins.use_plugins(_list_plugins(overrides)):
            bare_method = _take_bare_method(overrides, self.homes)
        if self.config_name == "unlearn" and not overrides.chooses("trainer", "experiment"):
            self.notes.append(
                "trainer=GradAscent, as no method is named: where it runs for long it destroys "
                "the model; `unteach list methods` has the others"
            )
        overrides.groups, problems, self.left_out = hydra_groups.mend_choices(
            overrides.groups,
            self.homes,
        )
        self.problems += problems
        composed = composed_files.compose_files(
            composed_files.choose_files(self.config_name, overrides, self.homes, bare_method)
        )
        self.notes += [*composed.notes, *overrides.notes]
        self.problems += composed.problems
        self.measures_by_default = composed.measures_by_default
        return composed.tree, composed.choices

    def _take_whole(self) -> tuple[Any, dict[str, str]]:
        """Take the configuration that a run kept, as it stands."""
        file = self.command.file
        assert file is not None and file.tree is not None
        # `unteach train` runs what was written for either verb that trains.
        modes_of_verb = {"eval": ("eval",), "audit": ("audit",), "unlearn": ("unlearn",)}
        mode = str(file.tree["mode"])
        if mode not in modes_of_verb.get(self.config_name, ("train", "unlearn")):
            raise UserError(
                f"{file.path}: is the configuration of `unteach {mode}`; run it with that verb"
            )
        model = self.command.placed.get(schema.MODEL_KEY)
        for word in self.overrides.groups:
            if model and word == "model=auto":
                word = f"model={model}"
            self.problems.append(
                f"{word}: chooses a file, and {file.path} is a whole run, in which values are set: "
                f"trainer.args.…, {schema.MODEL_KEY}=…; for another method, model or data say the "
                "run in words"
            )
        given = dict(self.overrides.values)
        whole = OmegaConf.create(runfile.normalize_tree(file.tree, given))
        if self.overrides.eval_off:
            whole.eval = {}
        return whole, {}

    def find_unnamed(self) -> list[str]:
        """Find what a run cannot start without and nobody named: a model, rows, a suite."""
        if self.is_whole:
            return []
        # What was named wrongly was named, and has its sentence already.
        refused = self._list_refused()
        found = preflight.find_unnamed(self.config_name, self.overrides)
        return [problem for problem in found if problem.partition(":")[0] not in refused]

    def _list_refused(self) -> set[str]:
        """List the short words that have a sentence already: `model`, `data` for every word of
        rows."""
        keys = {problem.partition("=")[0] for problem in self.command.problems}
        if keys & {*shorthand.FILE_WORDS, *shorthand.MAKES_FILES}:
            keys.add("data")
        if schema.MODEL_KEY in keys:
            keys.add("model")
        return keys

    def to_plain(self) -> dict[str, Any]:
        """Put the user's values in and resolve the tree to plain values."""
        self._remove_keys()
        given = self.overrides.keys()
        with collect_problems(self.problems):
            layers.keep_one_warmup(self.tree, given)
        tree.set_values(self.tree, self.overrides.values, self.problems)
        if isinstance(self.tree.get("layers"), dict):
            del self.tree["layers"]
        is_named = self._name_run()
        unresolved = tree.to_unresolved(self.tree)
        self._note_missing(unresolved)
        with collect_problems(self.problems):
            variables.mend_split(self.tree, unresolved)
        with collect_problems(self.problems):
            variables.mend_compat(self.tree)
        if not self.is_whole:  # in which nothing refers to anything any more
            variables.drop_unused(self.tree, unresolved, given)
        plain = tree.resolve(self.tree)
        # which may have been removed; that is said below
        if is_named and isinstance(plain.get("paths"), dict):
            self.notes.append(
                f"task_name={plain['task_name']}, as none is given: {plain['paths']['output_dir']}"
            )
        return plain

    def parse(
        self,
        plain: dict[str, Any],
        parse: Callable[[dict[str, Any], set[str]], T],
        starting: bool,
        coming: frozenset[str],
    ) -> T:
        """Normalize and parse the plain tree; ConfigErrors with all that was found on the way."""
        found: list[str] = []
        is_model_refused = self._is_model_refused()
        plugin_files = plugins.parse_paths(plain.get("plugins"))
        with plugins.use_plugins(plugin_files), collect_problems(found):
            if self.measures_by_default:
                layers.drop_unmeasurable_suite(plain)
            with collect_problems(found):
                self.notes += normalize_config(plain, self.overrides.values)
            if starting:
                found += preflight.find_absent(plain, self.command.placed, coming)
                found += preflight.find_not_installed(plain)
                found += preflight.find_from_scratch(plain)
            config = parse(plain, self.variables)
            if isinstance(config, schema.TrainConfig):
                found += find_idle_args(config.trainer, self.overrides.keys())
        self.problems += filter(self._is_certain, found)
        if is_model_refused:
            self.problems[:] = [
                problem for problem in self.problems if not problem.startswith("model: is required")
            ]
        if self.problems:
            raise ConfigErrors(self.problems)
        return config

    def _is_model_refused(self) -> bool:
        """Whether there is a sentence about the model already."""
        if "model" in self._list_refused():
            return True
        return any(problem.startswith("model:") for problem in self.problems)

    def _remove_keys(self) -> None:
        """Take out of the tree what the user removes by `~key`."""
        for name in self.overrides.removed:
            if name.startswith(OPEN) and OmegaConf.select(self.tree, name) is None:
                self.notes.append(f"~{name}: it is not set anyway")
                continue
            with collect_problems(self.problems):
                tree.remove_key(self.tree, name)

    def _note_missing(self, unresolved: dict[str, Any]) -> None:
        """Note each key that must be given and is not, unless another problem says so already.

        A placeholder takes its place, so that the rest can be parsed.
        """
        refused = self._list_refused()
        is_refused = {
            schema.MODEL_KEY: self._is_model_refused(),
            "task_name": "data" in refused,  # a name is made of the rows
            "input_file": bool({"data", "input_file"} & refused),
        }
        for key, problem in tree.find_missing(unresolved).items():
            if not is_refused.get(key) and "experiment" not in self.left_out:
                self.problems.append(problem)
            OmegaConf.update(self.tree, key, "?")

    def _name_run(self) -> bool:
        """Name a run that was given no name by what it is made of; tell whether it was named."""
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
        doubtful: list[str] = []
        for group in self.left_out:
            doubtful += DEPENDENT_KEYS.get(group, (f"{group}.",))
        if problem.startswith(tuple(doubtful)):
            return False
        return problem.startswith(tuple(self.overrides.keys()))


def _list_plugins(overrides: Overrides) -> list[str]:
    """List the plugin files that the overrides name."""
    paths: list[str] = []
    for key, value in overrides.values:
        if key == "plugins":
            paths += plugins.parse_paths(value)
    return paths


def _take_bare_method(overrides: Overrides, homes: tuple[str, ...]) -> str | None:
    """Take `trainer=X` out of the overrides where X is a method and no file has its name."""
    for word in overrides.groups:
        key, _, name = word.partition("=")
        has_file = name in groups.list_options("trainer", homes)
        if key == "trainer" and not has_file and name in registry.method:
            overrides.groups.remove(word)
            return name
    return None
