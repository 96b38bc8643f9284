"""Format numbers and values for messages and tables."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice

MAX_ITEMS = 6
"""Items of a list or a mapping that a message shows."""


def format_count(number: int, noun: str) -> str:
    """Format a number with its noun, `1 row` or `1,234 rows`; the noun's plural must end in s."""
    plural = "" if number == 1 else "s"
    return f"{number:,} {noun}{plural}"


def format_value(value: float, decimals: int = 3) -> str:
    """Format a metric's value with fixed decimals; in scientific notation below 0.001, or where
    rounding would make it 0."""
    smallest = max(0.001, 0.5 * 10**-decimals)
    if value != 0 and abs(value) < smallest:
        return f"{value:.1e}"
    return f"{value:z.{decimals}f}"


def quote_value(value: object) -> str:
    """Format a value as a configuration spells it, cut where it is long.

    Text is in quotes, which tell '1' from 1.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        items = _join_first(f"{key}: {quote_value(item)}" for key, item in value.items())
        return f"{{{items}}}"
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        items = _join_first(quote_value(item) for item in value)
        return f"[{items}]"
    return reprlib.repr(value)


def _join_first(items: Iterable[str]) -> str:
    """Join the first items, with `…` for the others; no other is formatted."""
    first = list(islice(items, MAX_ITEMS + 1))
    if len(first) > MAX_ITEMS:
        first[MAX_ITEMS] = "…"
    return ", ".join(first)


def describe_minutes(seconds: float) -> str:
    """Say about how long something takes."""
    if seconds < 60:
        return "less than a minute"
    return f"about {round(seconds / 60)} min"
