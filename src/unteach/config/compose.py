"""From command-line words to a checked Config: Hydra composes the groups, we apply the values and check the whole tree.

Who wins, weakest first: the base trainer (`layers.base`), the experiment's common arguments (`layers.common`), the
method's own file (`trainer=`), the experiment's block for that method (`layers.tuned.<method>`), the user's values.
Values are applied after composition, so a key of the schema never needs `+`.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import yaml

from unteach import plugins, registry
from unteach.config import groups, layering, reading, schema
from unteach.config.reader import Reader, mistakes
from unteach.config.settling import settle
from unteach.config.words import Words, sort_words
from unteach.errors import UserError, nearest

T = TypeVar("T")


def compose(config_name: str, overrides: Iterable[str] = (), config_dirs: Iterable[str] = ()) -> schema.Config:
    """Composes `configs/<config_name>.yaml` with the overrides and reads it strictly.

    Raises UserError with every mistake found. Needs no torch.
    """
    return composed(config_name, overrides, config_dirs, reading.read)


def composed(
    config_name: str,
    overrides: Iterable[str],
    config_dirs: Iterable[str],
    read: Callable[[dict[str, Any], set[str]], T],
) -> T:
    """The same for a tree that `read` reads, given the resolved tree and the names that files declare for it."""
    words = sort_words(overrides)
    homes = (*config_dirs, *map(str, plugins.config_folders()))
    with plugins.of_files(path for key, value in words.values if key == "plugins" for path in plugins.named(value)):
        bare = _bare_method(words, homes)
    tree, choices = groups.put_together(config_name.removesuffix(".yaml"), words.groups, homes)
    if bare:
        tree.trainer, choices["trainer"] = {"handler": bare}, bare
    variables = {
        name for name in tree if name not in ("layers", "trainer", "data", "model", "eval", "collator", "paths")
    }
    said = layering.layer_trainer(tree, choices.get("trainer")) + words.said
    by_default = False
    if words.eval_off:
        tree.eval = {}
    else:
        named = [word.partition("=")[0].lstrip("+") for word in words.groups]
        by_default = layering.measure_own_rows(
            tree, choices.get("data"), [*named, *words.keys()], words.chooses("experiment")
        )
    layering.choose_checkpoint(tree, choices.get("model"), words.keys())
    tree.pop("layers", None)
    for name in words.removed:
        _remove(tree, name)
    layering.one_warmup(tree, words.keys())
    _apply(tree, words.values)
    problems = _missing(tree)
    if problems:
        raise UserError(mistakes(problems))
    plain = _resolve(tree)
    for sentence in dict.fromkeys(said):
        print(f"note: {sentence}")
    with plugins.of_files(plugins.named(plain.get("plugins"))):
        if by_default:
            layering.leave_unmeasured(plain)
        settle(plain, words.values)
        return read(plain, variables)


def _bare_method(words: Words, homes: tuple[str, ...]) -> str | None:
    """`trainer=X` where no file says more of X than that it is a method: its name, taken out of the words."""
    for word in words.groups:
        key, _, name = word.partition("=")
        if key == "trainer" and name not in groups.options("trainer", homes) and name in registry.method:
            words.groups.remove(word)
            return name
    return None


def flat(cls: type, words: Iterable[str], where: str) -> Any:
    """key=value words of a verb that composes nothing, as the dataclass `cls`; read as strictly as a configuration."""
    from omegaconf import OmegaConf

    told = sort_words(words)
    if told.groups or told.removed:
        raise UserError(f"{where}: takes key=value words, not {', '.join([*told.groups, *told.removed])}")
    tree = OmegaConf.create({})
    _apply(tree, told.values)
    reader = Reader()
    read = reader.record(cls, OmegaConf.to_container(tree), "")
    if reader.problems:
        raise UserError(f"{where}: {mistakes(reader.problems)}")
    return read


def _remove(tree: Any, key: str) -> None:
    from omegaconf import DictConfig, OmegaConf

    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(node, DictConfig) or leaf not in node:
        raise UserError(f"~{key}: there is no such key to remove")
    del node[leaf]


def _apply(tree: Any, values: list[tuple[str, Any]]) -> None:
    from omegaconf import DictConfig, ListConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in values:
        try:
            OmegaConf.update(tree, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            there = OmegaConf.select(tree, key, throw_on_missing=False)
            why = f"cannot be set ({str(error).splitlines()[0]})"
            if isinstance(there, DictConfig | ListConfig):
                why = "must be a mapping" if isinstance(there, DictConfig) else "must be a list"
            raise UserError(f"{key}: {why}, got {value}") from None


def _missing(tree: Any) -> list[str]:
    """One line for each required value that nobody gave."""
    from omegaconf import OmegaConf

    def walk(node: Any, path: str) -> list[str]:
        if isinstance(node, dict):
            return [key for name, item in node.items() for key in walk(item, f"{path}.{name}" if path else str(name))]
        return [path] if node == "???" else []

    told = {"task_name": ": names the run's folder saves/<mode>/<task_name>"}
    keys = walk(OmegaConf.to_container(tree, resolve=False), "")
    return [f"{key}: is required{told.get(key, '')}; set {key}=…" for key in keys]


def _resolve(tree: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

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
        raise UserError((f"{key}: " if key else "") + said + (f"; did you mean {guess}?" if guess else "")) from None
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def to_yaml(tree: dict[str, Any]) -> str:
    """The resolved tree as it is kept in a run's folder."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if "\x85" not in text:
        return text
    return yaml.safe_dump(tree, sort_keys=False)  # escaped: a bare NEL would be read as a line's end
