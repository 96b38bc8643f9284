"""The files that a command chooses, put on one another: the tree that its values are set in.

The runs of a study choose the same few sets of files and differ in values, so each set is put
together once.
"""

import contextlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from unteach.config import hydra_groups, layers, schema
from unteach.config.overrides import Overrides
from unteach.config.reader import collect_problems

MOST_KEPT = 256
"""Trees, of some 20 kB each."""


@dataclass(frozen=True)
class FileChoice:
    """All that decides what a command's files give.

    Attributes:
        config_name: the primary configuration.
        words: the choices of groups.
        homes: folders of configurations beside the package's own.
        bare_method: a method that no file describes.
        eval_off: whether the command takes all suites away.
        eval_keys: what it says of suites.
        names_experiment: whether it says anything of an experiment.
        names_model: whether it names the weights.
    """

    config_name: str
    words: tuple[str, ...]
    homes: tuple[str, ...]
    bare_method: str | None
    eval_off: bool
    eval_keys: tuple[str, ...]
    names_experiment: bool
    names_model: bool


@dataclass
class ComposedFiles:
    """What the chosen files give.

    Attributes:
        tree: unresolved.
        choices: of each group.
        notes: a sentence for each old name in the files.
        problems: a sentence for what is wrong in them.
        measures_by_default: whether nobody named a suite and rows of the user's own get theirs.
    """

    tree: Any
    choices: dict[str, str]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    measures_by_default: bool = False


_kept: dict[FileChoice, bytes] = {}
"""Pickled, so that everybody gets a tree of their own."""
_num_plans = 0
"""How many plans are being composed."""


@contextlib.contextmanager
def share_files() -> Iterator[None]:
    """Take it that nobody changes a file of configuration meanwhile, as while a plan is composed:
    the user's own are put together once too."""
    global _num_plans
    _num_plans += 1
    try:
        yield
    finally:
        _num_plans -= 1
        for choice in list(_kept):
            if choice.homes:
                del _kept[choice]


def choose_files(
    config_name: str,
    overrides: Overrides,
    homes: tuple[str, ...],
    bare_method: str | None,
) -> FileChoice:
    """Take from a command what decides what its files give."""
    named = [word.partition("=")[0].lstrip("+") for word in overrides.groups]
    keys = sorted(overrides.keys())
    eval_keys = [key for key in [*named, *keys] if key == "eval" or key.startswith("eval.")]
    return FileChoice(
        config_name=config_name,
        words=tuple(overrides.groups),
        homes=homes,
        bare_method=bare_method,
        eval_off=overrides.eval_off,
        eval_keys=tuple(eval_keys),
        names_experiment=overrides.chooses("experiment"),
        names_model=schema.MODEL_KEY in keys,
    )


def compose_files(choice: FileChoice) -> ComposedFiles:
    """Put the chosen files on one another, or give a copy of what that gave before."""
    if choice.homes and not _num_plans:  # whose files may change while this process lives
        return _compose(choice)
    pickled = _kept.get(choice)
    if pickled is None:
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        pickled = _kept[choice] = pickle.dumps(_compose(choice))
    composed: ComposedFiles = pickle.loads(pickled)
    return composed


def _compose(choice: FileChoice) -> ComposedFiles:
    tree, choices = hydra_groups.compose_hydra(
        choice.config_name,
        list(choice.words),
        choice.homes,
    )
    composed = ComposedFiles(tree, choices)
    if choice.bare_method:
        tree.trainer = {"handler": choice.bare_method}
        choices["trainer"] = choice.bare_method
    composed.notes += layers.layer_trainer(tree, choices.get("trainer"))
    if choice.eval_off:
        tree.eval = {}
    else:
        composed.measures_by_default = layers.add_own_rows_suite(
            tree,
            choices.get("data"),
            choice.eval_keys,
            choice.names_experiment,
        )
    given = {schema.MODEL_KEY} if choice.names_model else set[str]()
    with collect_problems(composed.problems):
        layers.choose_checkpoint(tree, choices.get("model"), given)
    tree.pop("layers", None)
    return composed
