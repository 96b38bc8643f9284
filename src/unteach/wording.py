"""How messages and tables say a number and a value."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Any

MOST_ITEMS = 6
"""Items of a list or a mapping that a message shows."""


def counted(number: int, noun: str) -> str:
    """A number with its noun, `1 row` or `1,234 rows`; the noun's plural must end in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_value(value: float, decimals: int = 3) -> str:
    """Write a metric's value: fixed decimals, scientific where rounding would say 0 of what is not,
    or below 0.001."""
    if value != 0 and abs(value) < max(0.001, 0.5 * 10**-decimals):
        return f"{value:.1e}"
    return f"{value:z.{decimals}f}"


def shown(value: Any) -> str:
    """Write a value in a message as a configuration spells it, cut where it is long.

    Text is in quotes, which tell '1' from 1.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{_list_items(f'{key}: {shown(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return f"[{_list_items(map(shown, value))}]"
    return reprlib.repr(value)


def _list_items(items: Iterable[str]) -> str:
    first = list(islice(items, MOST_ITEMS + 1))
    if len(first) > MOST_ITEMS:
        first[MOST_ITEMS] = "…"
    return ", ".join(first)
