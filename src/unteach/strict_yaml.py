"""Read YAML, the one way for all files: plain values only, each key once, nothing endless."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml

from unteach.errors import UserError, refuse_unreadable

MAX_DEPTH = 60
"""Levels of lists and mappings within one another; configurations have fewer than ten."""
NUMBER_LIMIT = 2**63
MAX_VALUES = 1_000_000
"""Values of one file, with each alias counted as often as it stands."""
TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"
MERGE_TAG = "tag:yaml.org,2002:merge"
INT_TAG = "tag:yaml.org,2002:int"
FLOAT_TAG = "tag:yaml.org,2002:float"
INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
FLOAT = re.compile(
    r"""[-+]?( ([0-9][0-9_]*\.[0-9_]* | \.[0-9][0-9_]*) ([eE][-+]?[0-9]+)?
             | [0-9][0-9_]*[eE][-+]?[0-9]+
             | \.(inf|Inf|INF) )$
        | \.(nan|NaN|NAN)$""",
    re.VERBOSE,
)
"""Numbers as on the command line: 1e-4 is one. 1:30:00, a time, and 010, which YAML 1.1 takes for
5400 and 8, stay text."""
PLAIN = (str, int, float, bool, type(None))
PART = re.compile(r"^[A-Za-z_][\w.]*:(?: .*)?\n(?:(?:[ -].*)?\n)*", re.MULTILINE)
"""A key at the start of a line, its value, and all lines under it."""
ANCHORS = ("&", "*")
"""Signs of what may tie one part of a file to another."""


OTHERWISE = {TIMESTAMP_TAG, INT_TAG, FLOAT_TAG}
"""Types that are told otherwise than PyYAML tells them."""


class _Loader(yaml.SafeLoader):
    """Refuse a key that stands twice, and leave dates and times as the text they are written in."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a mapping is expected", node.start_mark
            )
        line_by_key: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, PLAIN):
                raise UserError(
                    f"line {line}: a key must be text, and this one is a list or a mapping"
                )
            if key in line_by_key:
                raise UserError(
                    f"{key!s} is said twice (lines {line_by_key[key]} and {line}); leave one out"
                )
            line_by_key[key] = line
        return yaml.SafeLoader.construct_mapping(self, node, deep=deep)


def _list_resolvers() -> dict[str, list[tuple[str, Any]]]:
    """List how the type of a plain value is told by its first character: as PyYAML does, without
    dates, and with numbers of our own."""
    by_start = {}
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept = [resolver for resolver in resolvers if resolver[0] not in OTHERWISE]
        by_start[start] = kept
    return by_start


_Loader.yaml_implicit_resolvers = _list_resolvers()
_Loader.add_implicit_resolver(INT_TAG, INT, list("-+0123456789"))
_Loader.add_implicit_resolver(FLOAT_TAG, FLOAT, list("-+.0123456789"))


@functools.cache
def _build_fast_loader() -> Any:
    """Build the same loader upon PyYAML's parser in C, where that is installed: five times as fast,
    with other words for what is broken."""
    if not yaml.__with_libyaml__:
        return _Loader

    class FastLoader(yaml.CSafeLoader):
        yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
        construct_mapping = _Loader.construct_mapping

    return FastLoader


def read_yaml(file: Path) -> Any:
    """Read a YAML file.

    Raises:
        UserError: where it does not exist, cannot be read as YAML, or is not plain.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: cannot be read as YAML ({error})") from None
    return parse_yaml(content, str(file))


def parse_yaml(content: str, where: str) -> Any:
    """Parse YAML.

    Raises:
        UserError: which begins with `where`, for what is broken, stands twice, is endless or no
            plain value.
    """
    try:
        with refuse_unreadable(where, "cannot be read as YAML", yaml.YAMLError):
            value = yaml.load(content, Loader=_Loader)
        refuse_odd_values(value)
    except UserError as error:
        message = str(error)
        if not message.startswith(where):
            message = f"{where}: {message}"
        raise UserError(message) from None
    return value


def refuse_odd_values(value: object) -> None:
    """Raise UserError for what no configuration holds: deep nesting, a circle, numbers of more than
    64 bits, bytes."""
    _ValueCounter().count(value, 0)


class _ValueCounter:
    """Count the values under each list and mapping once, however often an alias names it.

    Attributes:
        counts: of the lists and mappings that are counted, by id.
        open_ids: of those that are being counted: one within itself would never end.
    """

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.open_ids: set[int] = set()

    def count(self, value: object, depth: int) -> int:
        """Count the values within a value, itself included, and refuse what is not plain."""
        if isinstance(value, int) and not -NUMBER_LIMIT <= value < NUMBER_LIMIT:
            raise UserError("a whole number of more than 64 bits, which nothing here takes")
        if isinstance(value, PLAIN):
            return 1
        if not isinstance(value, dict | list):
            raise UserError(
                f"a value must be text, a number, a list or a mapping, and one is "
                f"{type(value).__name__}"
            )
        value_id = id(value)
        if value_id in self.open_ids:
            raise UserError("an anchor (&) stands within itself")
        if depth > MAX_DEPTH:
            raise UserError(f"nested more than {MAX_DEPTH} levels deep")
        if value_id not in self.counts:
            self.open_ids.add(value_id)
            items = value.values() if isinstance(value, dict) else value
            total = 1 + sum(self.count(item, depth + 1) for item in items)
            self.open_ids.remove(value_id)
            self.counts[value_id] = total
            if total > MAX_VALUES:
                raise UserError(
                    f"more than {MAX_VALUES:,} values, with each alias (*) counted as often as it "
                    f"stands"
                )
        return self.counts[value_id]


def read_kept_yaml(file: Path) -> Any:
    """Read a mapping that unteach wrote, part by part: the runs of a study share most parts of
    their configurations, and each is parsed once.

    What it gives is shared and not to be changed. Any other YAML is read as a whole.

    Raises:
        UserError: as read_yaml does.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return read_yaml(file)
    parts = PART.findall(content)
    # An anchor may be named in another part, and what stands before the first key is no part.
    has_anchors = any(sign in content for sign in ANCHORS)
    if has_anchors or not parts or "".join(parts) != content:
        return parse_yaml(content, str(file))
    whole: dict[Any, Any] = {}
    for part in parts:
        value = _parse_part(part)
        if value is None or not whole.keys().isdisjoint(value):
            return parse_yaml(content, str(file))
        whole.update(value)
    return whole


@functools.lru_cache(maxsize=4096)
def _parse_part(part: str) -> dict[Any, Any] | None:
    """Parse a key at the start of a line and what is under it; None where that is no mapping."""
    try:
        value = yaml.load(part, Loader=_build_fast_loader())
        refuse_odd_values(value)
    except (UserError, yaml.YAMLError, ValueError, RecursionError, OverflowError):
        return None
    return value if isinstance(value, dict) else None
