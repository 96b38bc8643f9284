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
    from_words = dict.fromkeys(words.keys(), COMMAND_LINE)
    if command.file is not None:
        typed = shorthand.expand(config_name, overrides[1:], homes)
        typed_keys = {word.partition("=")[0] for word in typed.overrides}
        for key in from_words.keys() - typed_keys:
            from_words[key] = command.file.locate(key)
        if command.file.tree is not None:
            file_keys = _list_leaves(command.file.tree, "")
            return dict.fromkeys(file_keys, command.file.path) | from_words
    from_groups: dict[str, str] = {}
    chosen: dict[str, str] = {}
    for file, package, content in _load_files(config_name, words.groups, homes):
        for key in _list_leaves(content, package):
            from_groups[key] = file
        chosen[package] = Path(file).stem
    return _merge_layers(from_groups, chosen) | from_words


def _merge_layers(origins: dict[str, str], chosen: dict[str, str]) -> dict[str, str]:
    """Bring the origins of the trainer's layers, and of a checkpoint, to the keys that they set.

    Args:
        origins: the file that set each key, as the files have them.
        chosen: the file chosen in each group.
    """
    method = chosen.get("trainer")
    model = chosen.get("model")
    merged: dict[str, str] = {}
    for key, file in origins.items():
        if not key.startswith(("layers.", "trainer.")):
            merged[key] = file
    for layer in ("layers.base", "layers.common", "trainer", f"layers.tuned.{method}"):
        for key, file in origins.items():
            if key.startswith(f"{layer}."):
                path_in_trainer = key.removeprefix(layer)
                merged[f"trainer{path_in_trainer}"] = file
    if checkpoint := origins.get(f"layers.checkpoints.{model}"):
        merged[MODEL_KEY] = checkpoint
    return merged


def find_origin(key: str, known: dict[str, str]) -> str | None:
    """Find the origin of a key, or of the nearest mapping or list above it that was set whole."""
    while key:
        if key in known:
            return known[key]
        key = key.rpartition(".")[0]
    return None


def annotate(
    tree: dict[str, Any],
    known: dict[str, str],
) -> list[tuple[str, str]]:
    """Write the tree as lines of YAML, each with where its value came from.

    The origin of a mapping's own line is empty.
    """
    return list(_lines(tree, "", 0, known))


def _lines(
    node: dict[str, Any],
    path: str,
    depth: int,
    known: dict[str, str],
) -> Iterator[tuple[str, str]]:
    """Yield the lines of a mapping, and those of the mappings in it."""
    indent = "  " * depth
    for name, value in node.items():
        key = f"{path}.{name}" if path else str(name)
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:", ""
            yield from _lines(value, key, depth + 1, known)
        else:
            has_lines = isinstance(value, str) and "\n" in value
            text = yaml.safe_dump(
                value,
                default_flow_style=True,
                default_style='"' if has_lines else None,
                allow_unicode=True,
                width=10_000,
            )
            # YAML ends a bare scalar with a line of dots.
            text = text.strip().removesuffix("...").strip()
            origin = find_origin(key, known) or "derived"
            yield f"{indent}{name}: {text}", origin


def _load_files(
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
        overrides = [*groups, *search_path(home, homes)]
        listed = loader.compute_defaults_list(config_name, overrides, RunMode.RUN)
        folders = (home, *map(Path, homes), CONFIGS)
        for default in listed.defaults:
            name = f"{default.config_path}.yaml"
            file = _find_file(name, folders)
            if file is None:  # Hydra's own
                continue
            content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            is_global = default.package in (None, "_global_")
            yield name, "" if is_global else default.package, content


def _find_file(name: str, folders: Iterable[Path]) -> Path | None:
    """Find a configuration file in the first folder that has it."""
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    return None


def _list_leaves(node: object, path: str) -> Iterator[str]:
    """List the dotted keys of the values in a tree; an empty mapping is one."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            if path:
                yield from _list_leaves(value, f"{path}.{name}")
            elif name != "defaults":
                yield from _list_leaves(value, str(name))
    elif path:
        yield path
