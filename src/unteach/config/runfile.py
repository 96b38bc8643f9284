"""A run written as a YAML file: the keys of the command line, or the `config.yaml` that a run keeps
in its folder.

    model: saves/models/SmolLM2-135M-Instruct
    data: support.csv
    trainer: NPO
    trainer.args.learning_rate: 1e-4      # or nested, trainer.args: {learning_rate: 1e-4}

Words of the command line win over the file.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unteach.config.overrides import spell_value
from unteach.errors import UserError, find_nearest
from unteach.strict_yaml import read_yaml
from unteach.wording import quote_value

SUFFIXES = (".yaml", ".yml")


@dataclass
class RunFile:
    """What a file says of a run.

    overrides: its keys as words of the command line. lines: where each key stands. tree: instead of
    overrides, the whole resolved configuration of a run, as it was kept in the run's folder.
    """

    path: str
    overrides: list[str] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    tree: dict[str, Any] | None = None

    def locate(self, key: str) -> str:
        """Say where a key stands: `run.yaml, line 3`."""
        above = key
        while above and above not in self.lines:
            above = above.rpartition(".")[0]
        if not above:
            return self.path
        line = self.lines[above]
        return f"{self.path}, line {line}"


def is_run_file(word: str) -> bool:
    """Whether a word of the command line names a file that says what a run is."""
    is_override = "=" in word or word.startswith(("-", "~", "+"))
    return word.endswith(SUFFIXES) and not is_override


def read_run_file(path: str) -> RunFile:
    """Read a file of a run. Raises UserError where it is not there, or not a mapping of keys to
    values."""
    file = Path(path).expanduser()
    if not os.path.isfile(file):
        raise UserError(f"{path}: there is no such file{_suggest_file(file)}")
    content = read_yaml(file)
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: must hold keys and values, as model: PATH and data: FILE.csv")
    lines: dict[str, int] = {}
    for key, line in _find_lines(root, ""):
        if lines.setdefault(key, line) != line:
            first = lines[key]
            raise UserError(
                f"{path}: {key} is said twice (lines {first} and {line}); leave one out"
            )
    if _is_whole(content):
        return RunFile(path, lines=lines, tree=content)
    overrides = []
    for key, value in _list_leaves(content, ""):
        overrides.append(f"{key}={spell_value(value)}")
    return RunFile(path, overrides, lines)


def _suggest_file(file: Path) -> str:
    """Offer the file beside it whose name is nearest; empty where there is none."""
    if not os.path.isdir(file.parent):
        return ""
    names = []
    for other in file.parent.iterdir():
        if other.name.endswith(SUFFIXES):
            names.append(other.name)
    guess = find_nearest(file.name, names)
    if guess is None:
        return ""
    return f"; did you mean {file.with_name(guess)}?"


def _is_whole(content: dict[str, Any]) -> bool:
    """Whether this is the resolved tree of a run, in which every section is a mapping and every
    place is said."""
    has_model = isinstance(content.get("model"), dict)
    has_paths = isinstance(content.get("paths"), dict)
    return "mode" in content and has_model and has_paths


def _list_leaves(node: dict[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    """List dotted keys and values.

    Mappings are taken apart, so that each key can be set and be wrong by itself.
    """
    for name, value in node.items():
        key = f"{path}.{name}" if path else str(name)
        if not re.fullmatch(r"[\w.@/+-]+", key):
            raise UserError(f"{path or key}: {quote_value(name)} cannot be a key here")
        if _can_be_taken_apart(value):
            yield from _list_leaves(value, key)
        else:
            yield key, value


def _can_be_taken_apart(value: object) -> bool:
    """Whether a value is a mapping whose keys can stand in a dotted key."""
    if not isinstance(value, dict) or not value:
        return False
    return all(re.fullmatch(r"[\w.]+", str(key)) for key in value)


def _find_lines(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, int]]:
    """Yield each dotted key and the line where it stands."""
    for name, value in node.value:
        key = f"{path}.{name.value}" if path else str(name.value)
        yield key, name.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _find_lines(value, key)


def add_location(problem: str, file: RunFile) -> str:
    """Add to a problem the place of its key in the file, if that is where the key stands."""
    key = re.split(r"[:=]", problem, maxsplit=1)[0].strip()
    location = file.locate(key)
    if location == file.path:
        return problem
    return f"{problem}  ({location})"


def normalize_tree(tree: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Turn a kept configuration into the start of a run: texts as they are, and the folder of
    another name its own.

    Args:
        tree: what a run's config.yaml holds, already resolved.
        given: what the command line sets.
    """
    tree = {name: _escape(value) for name, value in tree.items()}
    # was said of the first time; here it would move the run itself aside
    if tree.get("resume") == "never":
        tree["resume"] = "auto"
    paths = tree.get("paths")
    is_renamed = "task_name" in given and "paths.output_dir" not in given
    if is_renamed and isinstance(paths, dict):
        output_dir = f"saves/{tree['mode']}/{given['task_name']}"
        tree["paths"] = {**paths, "output_dir": output_dir}
    return tree


def _escape(value: object) -> Any:
    """Make `${` in texts stand for itself: a kept configuration has no interpolations left."""
    if isinstance(value, dict):
        return {name: _escape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, str):
        return value.replace("${", "\\${")
    return value
