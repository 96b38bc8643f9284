"""JSON of others: each key once in its object, and no deeper than what follows can walk through."""

import json
from typing import Any

from unteach.errors import UserError, explain_unreadable

MAX_DEPTH = 60
"""Lists and objects within one another."""


def parse_json(text: str, where: str) -> Any:
    """Read JSON in which each key of an object stands once.

    Raises:
        json.JSONDecodeError: the text is no JSON.
        UserError: a key stands twice, or lists and objects are nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_build_object)
        _refuse_deep(value, text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be read ({explain_unreadable(error)})") from None
    return value


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; refuse one in which a key stands twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = {name for name in names if names.count(name) > 1}
        keys = ", ".join(map(repr, sorted(twice)))
        raise ValueError(f"the key {keys} stands twice in one object")
    return row


def _refuse_deep(value: object, text: str) -> None:
    """Raise RecursionError where lists and objects are nested too deeply to walk through."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    waiting = [(value, 1)]
    while waiting:
        inner, depth = waiting.pop()
        if not isinstance(inner, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise RecursionError
        items = inner.values() if isinstance(inner, dict) else inner
        for item in items:
            waiting.append((item, depth + 1))
