"""Where each value of a composed configuration came from: a file of a group, or the command
line."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from unteach import plugins
from unteach.config import shorthand
from unteach.config.groups import CONFIGS
from unteach.config.hydra_groups import find_home, search_path
from unteach.config.overrides import sort_overrides
from unteach.config.schema import MODEL_KEY

COMMAND_LINE = "command line"


def find_origins(
    config_name: str,
    overrides: Iterable[str] = (),
    config_dirs: Iterable[str] = (),
) -> dict[str, str]:
    """Dotted key -> the file that set it last, or `command line`; for keys as the files and the
    user wrote them.

    The layers of the trainer are looked up in the order in which they win; see `compose`.
    """
    config_name = config_name.removesuffix(".yaml")
    homes = (*config_dirs, *map(str, plugins.config_folders()))
    overrides = list(overrides)
    command = shorthand.expand(config_name, overrides, homes)
    words = sort_overrides(command.overrides)
    of_words = dict.fromkeys((key for key, _ in words.values), COMMAND_LINE)
    if command.file is not None:
        typed = shorthand.expand(config_name, overrides[1:], homes)
        beside = {word.partition("=")[0] for word in typed.overrides}
        of_words |= {key: command.file.locate(key) for key in of_words if key not in beside}
        if command.file.tree is not None:
            return dict.fromkeys(_leaves(command.file.tree, ""), command.file.path) | of_words
    found: dict[str, str] = {}
    chosen: dict[str, str] = {}
    for file, package, content in _files(config_name, words.groups, homes):
        found |= dict.fromkeys(_leaves(content, package), file)
        chosen[package] = Path(file).stem
    layered: dict[str, str] = {}
    for layer in (
        "layers.base",
        "layers.common",
        "trainer",
        f"layers.tuned.{chosen.get('trainer')}",
    ):
        inside = {key: file for key, file in found.items() if key.startswith(f"{layer}.")}
        layered |= {f"trainer{key.removeprefix(layer)}": file for key, file in inside.items()}
    if checkpoint := found.get(f"layers.checkpoints.{chosen.get('model')}"):
        layered[MODEL_KEY] = checkpoint
    found = {
        key: file for key, file in found.items() if not key.startswith(("layers.", "trainer."))
    }
    return found | layered | of_words


def find_origin(key: str, known: dict[str, str]) -> str | None:
    """The origin of a key, or of the nearest mapping or list above it that was set as a whole."""
    while key:
        if key in known:
            return known[key]
        key = key.rpartition(".")[0]
    return None


def annotate(tree: dict[str, Any], known: dict[str, str]) -> list[tuple[str, str]]:
    """The tree as lines of YAML, each with where its value came from (empty for a mapping's own
    line)."""
    return list(_lines(tree, "", 0, known))


def _lines(node: Any, path: str, depth: int, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    indent = "  " * depth
    for name, value in node.items():
        key = f"{path}.{name}" if path else str(name)
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:", ""
            yield from _lines(value, key, depth + 1, known)
        else:
            style = '"' if isinstance(value, str) and "\n" in value else None
            text = yaml.safe_dump(
                value,
                default_flow_style=True,
                default_style=style,
                allow_unicode=True,
                width=10_000,
            )
            yield (
                f"{indent}{name}: {text.strip().removesuffix('...').strip()}",
                find_origin(key, known) or "derived",
            )


def _files(
    config_name: str,
    groups: list[str],
    homes: tuple[str, ...],
) -> Iterator[tuple[str, str, Any]]:
    """(file, package, content) of every configuration file that takes part, in the order in which
    they are merged."""
    GlobalHydra.instance().clear()
    home = find_home(config_name, homes)
    with initialize_config_dir(str(home), version_base="1.3"):
        loader: Any = GlobalHydra.instance().config_loader()
        search = search_path(home, homes)
        listed = loader.compute_defaults_list(config_name, [*groups, *search], RunMode.RUN)
        for one in listed.defaults:
            places = [
                folder / f"{one.config_path}.yaml" for folder in (home, *map(Path, homes), CONFIGS)
            ]
            file = next((place for place in places if place.is_file()), None)
            if file is None:  # Hydra's own
                continue
            content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            yield (
                f"{one.config_path}.yaml",
                "" if one.package in (None, "_global_") else one.package,
                content,
            )


def _leaves(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            if name != "defaults" or path:
                yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif path:
        yield path
