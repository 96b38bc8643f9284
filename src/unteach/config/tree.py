"""The composed tree on its way to plain values: set and remove keys, find what is missing, resolve
interpolations, write it down."""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from unteach.config.schema import MODEL_KEY
from unteach.errors import UserError, find_nearest
from unteach.wording import quote_value

MISSING_HINTS = {
    "task_name": "names the run's folder saves/<mode>/<task_name>",
    MODEL_KEY: "model=PATH says it too",
    "input_file": "data=FILE says it too",
}
"""What there is to say of values that have no default."""
RESOLVER_ERROR = "UserError raised while resolving interpolation: "


def set_values(
    tree: DictConfig,
    values: list[tuple[str, Any]],
    problems: list[str],
) -> None:
    """Set dotted keys of a tree, in order; what cannot be set is added to `problems`."""
    for key, value in values:
        try:
            OmegaConf.update(tree, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            node = OmegaConf.select(tree, key, throw_on_missing=False)
            message = str(error).splitlines()[0]
            reason = f"cannot be set ({message})"
            if isinstance(node, DictConfig):
                reason = "must be a mapping"
            elif isinstance(node, ListConfig):
                reason = "must be a list"
            given = quote_value(value)
            problems.append(f"{key}: {reason}, got {given}")


def remove_key(tree: DictConfig, key: str) -> None:
    """Take a dotted key out of a tree. Raises UserError where it is not there."""
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(node, DictConfig) or leaf not in node:
        raise UserError(f"~{key}: there is no such key to remove")
    del node[leaf]


def to_unresolved(tree: DictConfig) -> dict[str, Any]:
    """Give the tree as plain values whose interpolations stand as they are written."""
    plain: Any = OmegaConf.to_container(tree, resolve=False)
    return dict(plain)


def find_missing(unresolved: dict[str, Any]) -> dict[str, str]:
    """Find each required value that nobody gave: its key, and what is said of it."""
    problems = {}
    for key in _list_missing(unresolved, ""):
        problem = f"{key}: is required"
        if key in MISSING_HINTS:
            problem += f": {MISSING_HINTS[key]}"
        problems[key] = f"{problem}; set {key}=…"
    return problems


def _list_missing(node: object, path: str) -> Iterator[str]:
    """List the dotted keys whose value must be given and is not."""
    if isinstance(node, dict):
        for name, item in node.items():
            key = f"{path}.{name}" if path else str(name)
            yield from _list_missing(item, key)
    elif node == "???":
        yield path


def resolve(tree: DictConfig) -> dict[str, Any]:
    """Give the tree as plain values. Raises UserError where a value refers to what is not there."""
    try:
        plain: Any = OmegaConf.to_container(tree, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(_explain_interpolation(error, tree)) from None
    assert isinstance(plain, dict)
    return plain


def _explain_interpolation(error: Exception, tree: DictConfig) -> str:
    """Say in one sentence why an interpolation cannot be resolved."""
    message = str(error).splitlines()[0]
    if RESOLVER_ERROR in message:  # one of our resolvers refused, in a sentence of its own
        return message.rpartition(RESOLVER_ERROR)[2]
    key = getattr(error, "full_key", None)
    explanation = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", message)
    if key:
        explanation = f"{key}: {explanation}"
    if not isinstance(error, InterpolationKeyError):
        return explanation
    absent = re.search(r"'(.*)'", message)
    if absent is None:
        return explanation
    guess = find_nearest(absent[1], map(str, tree))
    if guess is None:
        return explanation
    return f"{explanation}; did you mean {guess}?"


def to_yaml(tree: dict[str, Any]) -> str:
    """Write the resolved tree as it is kept in a run's folder."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if "\x85" not in text:
        return text
    # escaped: a bare NEL would be read as a line's end
    return yaml.safe_dump(tree, sort_keys=False)
