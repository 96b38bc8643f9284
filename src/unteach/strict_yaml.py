"""The one way in which YAML is read: plain values only, each key once, nothing endless."""

from pathlib import Path
from typing import Any

import yaml

from unteach.errors import UserError, refuse_unreadable

DEEPEST = 60
"""Levels of lists and mappings within one another; configurations have fewer than ten."""
LARGEST_NUMBER = 2**63
MOST_VALUES = 1_000_000
"""Values of one file, with each alias counted as often as it stands."""
PLAIN = (str, int, float, bool, type(None))


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice; leaves dates as the text they are written in."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        seen = dict[Any, int]()
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a mapping is expected", node.start_mark
            )
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, PLAIN):
                raise UserError(
                    f"line {line}: a key must be text, and this one is a list or a mapping"
                )
            if key in seen:
                raise UserError(
                    f"{key!s} is said twice (lines {seen[key]} and {line}); leave one out"
                )
            seen[key] = line
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    start: [(tag, sign) for tag, sign in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(file: Path) -> Any:
    """Read a YAML file; UserError where it is not there, cannot be read as YAML, or not plain."""
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: cannot be read as YAML ({error})") from None
    return parse_yaml(content, str(file))


def parse_yaml(content: str, where: str) -> Any:
    """Read YAML; UserError, which begins with `where`, for what is broken, said twice, endless or
    no plain value."""
    try:
        with refuse_unreadable(where, "cannot be read as YAML", yaml.YAMLError):
            value = yaml.load(content, Loader=_Loader)
        refuse_odd_values(value)
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(where) else f"{where}: {said}") from None
    return value


def refuse_odd_values(value: object) -> None:
    """Raise UserError for what no configuration holds: deep nesting, a circle, numbers of more than
    64 bits, bytes."""
    _Measure().count_values(value, 0)


class _Measure:
    """Counts the values under each list and mapping once, however often an alias names it."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.open: set[int] = set()

    def count_values(self, value: object, depth: int) -> int:
        if isinstance(value, int) and not -LARGEST_NUMBER <= value < LARGEST_NUMBER:
            raise UserError("a whole number of more than 64 bits, which nothing here takes")
        if isinstance(value, PLAIN):
            return 1
        if not isinstance(value, dict | list):
            raise UserError(
                f"a value must be text, a number, a list or a mapping, and one is "
                f"{type(value).__name__}"
            )
        if id(value) in self.open:
            raise UserError("an anchor (&) stands within itself")
        if depth > DEEPEST:
            raise UserError(f"nested more than {DEEPEST} levels deep")
        if id(value) not in self.counts:
            self.open.add(id(value))
            inner = value.values() if isinstance(value, dict) else value
            self.counts[id(value)] = 1 + sum(self.count_values(item, depth + 1) for item in inner)
            self.open.remove(id(value))
            if self.counts[id(value)] > MOST_VALUES:
                raise UserError(
                    f"more than {MOST_VALUES:,} values, with each alias (*) counted as often as it "
                    f"stands"
                )
        return self.counts[id(value)]
