"""What a suite's file says by itself, before anything is composed."""

from pathlib import Path
from typing import TypedDict, cast

from unteach.config.metric_descriptions import MetricDescription
from unteach.config.reader import ConfigErrors, Reader
from unteach.errors import UserError
from unteach.strict_yaml import read_yaml
from unteach.wording import quote_value

KINDS = {"define": dict, "describe": dict, "tasks": list, "default": list, "defaults": list}
WORDS = {dict: "a mapping", list: "a list"}
REFERENCE = "${"
"""Begins what only composition can tell; here it says nothing."""


class Suite(TypedDict):
    """The parts of a suite's file; one that it does not have is empty."""

    define: dict[str, object]
    describe: dict[str, object]
    tasks: list[object]
    default: list[object]
    defaults: list[object]


def read_mapping(file: Path) -> dict[str, object]:
    """Read a YAML file that is a mapping, or empty.

    Raises:
        UserError: which names the file, where it is anything else.
    """
    content = read_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: must be a mapping, a key and its value, got {quote_value(content)}"
        )
    return {str(key): value for key, value in content.items()}


def read_suite(file: Path) -> Suite:
    """Read the parts of a suite's file.

    Raises:
        UserError: which names the file, where a part is not what it should be.
    """
    content = read_mapping(file)
    parts: dict[str, object] = {}
    for name, kind in KINDS.items():
        value = content.get(name)
        if value is None or (isinstance(value, str) and REFERENCE in value):
            value = kind()
        if not isinstance(value, kind):
            raise UserError(f"{file}: {name}: must be {WORDS[kind]}, got {quote_value(value)}")
        if isinstance(value, dict):
            value = {str(key): one for key, one in value.items()}
        parts[name] = value
    return cast(Suite, parts)


def read_description(suite: Suite, metric: str, file: Path) -> MetricDescription:
    """Read what a suite's file says of one metric.

    Raises:
        UserError: which names the file, where that is no description.
    """
    reader = Reader()
    said = suite["describe"].get(metric)
    description = reader.record(MetricDescription, said or {}, f"describe.{metric}")
    if reader.problems:
        raise ConfigErrors([f"{file}: {problem}" for problem in reader.problems])
    return cast(MetricDescription, description)
