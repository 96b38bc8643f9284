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
        """Where a key stands: `run.yaml, line 3`."""
        above = key
        while above and above not in self.lines:
            above = above.rpartition(".")[0]
        return f"{self.path}, line {self.lines[above]}" if above else self.path


def is_run_file(word: str) -> bool:
    """Whether a word of the command line names a file that says what a run is."""
    return "=" not in word and not word.startswith(("-", "~", "+")) and word.endswith(SUFFIXES)


def read_run_file(path: str) -> RunFile:
    """Reads a file of a run. Raises UserError where it is not there, or not a mapping of keys to
    values."""
    file = Path(path).expanduser()
    if not os.path.isfile(file):
        beside = (
            [other.name for other in file.parent.iterdir()] if os.path.isdir(file.parent) else []
        )
        guess = find_nearest(file.name, [name for name in beside if name.endswith(SUFFIXES)])
        raise UserError(
            f"{path}: there is no such "
            f"file{f'; did you mean {file.with_name(guess)}?' if guess else ''}"
        )
    content = read_yaml(file)
    root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: must hold keys and values, as model: PATH and data: FILE.csv")
    lines = dict[str, int]()
    for key, line in _lines(root, ""):
        if lines.setdefault(key, line) != line:
            raise UserError(
                f"{path}: {key} is said twice (lines {lines[key]} and {line}); leave one out"
            )
    if _is_whole(content):
        return RunFile(path, lines=lines, tree=content)
    return RunFile(
        path,
        [f"{key}={spell_value(value)}" for key, value in _leaves(content, "")],
        lines,
    )


def _is_whole(content: dict[str, Any]) -> bool:
    """Whether this is the resolved tree of a run, in which every section is a mapping and every
    place is said."""
    sections = (content.get("model"), content.get("paths"))
    return "mode" in content and all(isinstance(section, dict) for section in sections)


def _leaves(node: dict[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values. Mappings are taken apart, so that each key can be set and be wrong by
    itself."""
    for name, value in node.items():
        key = f"{path}.{name}" if path else str(name)
        if not re.fullmatch(r"[\w.@/+-]+", key):
            raise UserError(f"{path or key}: {quote_value(name)} cannot be a key here")
        if (
            isinstance(value, dict)
            and value
            and all(re.fullmatch(r"[\w.]+", str(inner)) for inner in value)
        ):
            yield from _leaves(value, key)
        else:
            yield key, value


def _lines(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, int]]:
    for name, value in node.value:
        key = f"{path}.{name.value}" if path else str(name.value)
        yield key, name.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _lines(value, key)


def add_location(problem: str, file: RunFile) -> str:
    """A problem with the place of its key in the file, if that is where the key stands."""
    key = re.split(r"[:=]", problem, maxsplit=1)[0].strip()
    return f"{problem}  ({file.locate(key)})" if file.locate(key) != file.path else problem


def normalize_tree(tree: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A kept configuration as the start of a run: texts as they are, and the folder of another name
    its own.

    Args:
        tree: what a run's config.yaml holds, already resolved.
        given: what the command line sets.
    """
    tree = {name: _escaped(value) for name, value in tree.items()}
    # was said of the first time; here it would move the run itself aside
    if tree.get("resume") == "never":
        tree["resume"] = "auto"
    if (
        "task_name" in given
        and "paths.output_dir" not in given
        and isinstance(tree.get("paths"), dict)
    ):
        tree["paths"] = {
            **tree["paths"],
            "output_dir": f"saves/{tree['mode']}/{given['task_name']}",
        }
    return tree


def _escaped(value: object) -> Any:
    """Texts in which `${` stands for itself: a kept configuration has no interpolations left."""
    if isinstance(value, dict):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
