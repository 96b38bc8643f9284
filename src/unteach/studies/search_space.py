"""What varies: grids, and seeded random search, as lists of points {key: value}."""

import contextlib
import itertools
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unteach.config.reader import Reader, join_problems
from unteach.errors import UserError
from unteach.studies import own_data
from unteach.wording import quote_value


@dataclass
class Range:
    """Numbers from `low` to `high`, drawn evenly on a linear or logarithmic scale; `whole` rounds
    them."""

    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"low must be below high, got {self.low} and {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise UserError(f"a logarithmic scale needs low above 0, got {self.low}")

    def draw(self, generator: random.Random) -> float | int:
        """Draw a number, to four digits; a whole one where only those are wanted."""
        if self.scale == "log":
            exponent = generator.uniform(math.log(self.low), math.log(self.high))
            value = math.exp(exponent)
        else:
            value = generator.uniform(self.low, self.high)
        # Rounding of exp(log(…)) may leave the range by its last digit.
        value = max(value, self.low)
        value = min(value, self.high)
        if self.whole:
            return round(value)
        return float(f"{value:.4g}")


@dataclass
class Search:
    """`runs` points drawn at random from `over` (key -> list of values, or a range); the same seed,
    the same points."""

    runs: int
    over: dict[str, Any]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.runs < 1 or not self.over:
            raise UserError("runs must be 1 or more, and over must name what is drawn")


@dataclass(frozen=True)
class Point:
    """Overrides that belong together, and what they add to a run's name."""

    values: dict[str, Any]
    label: str


def expand_grid(vary: object, where: str = "vary", unlabelled: str = "") -> list[Point]:
    """List every combination of values, the last key varying fastest.

    Args:
        vary: a mapping of keys to lists of values, or single values; only a key of several values
            is part of the label.
        where: its place in the study file, for messages.
        unlabelled: a key that is no part of the label, for the run's name has its value anyway.
    """
    if not isinstance(vary, dict):
        raise UserError(
            f"{where}: must be a mapping of keys to lists of values, got {quote_value(vary)}"
        )
    lists: dict[str, list[Any]] = {}
    for key, values in vary.items():
        lists[key] = values if isinstance(values, list) else [values]
        if not lists[key]:
            raise UserError(f"{where}.{key}: the list is empty, so there would be no run")
    points = []
    for combination in itertools.product(*lists.values()):
        point = dict(zip(lists, combination, strict=True))
        label = ""
        for key, value in point.items():
            if len(lists[key]) > 1 and key != unlabelled:
                label += format_label(key, value)
        points.append(Point(point, label))
    return points


def format_label(key: str, value: object) -> str:
    """Write what a varied key adds to a run's name: `_seed1`; what is forgotten adds its own name
    alone (`_forget05`, `_book-0.1`)."""
    long_key = own_data.LONG_KEYS.get(key, key)
    if long_key in own_data.FORGET_ROWS and isinstance(value, str):
        return f"_{spell_in_name(Path(value).stem)}"
    spelled = spell_in_name(value)
    if key in ("forget_split", "forget_set"):
        return f"_{spelled}"
    name = key.split(".")[-1]
    return f"_{name}{spelled}"


def spell_in_name(value: object) -> str:
    """Spell a value as part of a folder's name."""
    if isinstance(value, list):
        return "+".join(map(spell_in_name, value))
    if isinstance(value, dict):
        items = [item for item in value.values() if item is not None]
        return "-".join(map(spell_in_name, items))
    return re.sub(r"[^\w.+-]+", "-", str(value))


def draw_points(search: object, where: str) -> list[Point]:
    """Draw the points of a seeded random search, numbered.

    Each key has a generator of its own, so that adding one leaves the draws of the others as they
    were.

    Args:
        search: the mapping of a `search` section.
        where: its place in the study file, for messages.
    """
    reader = Reader()
    settings: Search | None = reader.record(Search, search, where)
    choices: dict[str, list[Any] | Range] = {}
    over = settings.over if settings else {}
    for key, values in over.items():
        key_where = f"{where}.over.{key}"
        if isinstance(values, dict):
            choices[key] = reader.record(Range, _parse_numbers(values), key_where)
        elif isinstance(values, list) and values:
            choices[key] = values
        else:
            quoted = quote_value(values)
            reader.wrong(
                key_where,
                f"must be a list of values or a range {{low, high}}, got {quoted}",
            )
    if reader.problems or settings is None:
        raise UserError(join_problems(reader.problems))

    generators = {key: random.Random(f"{settings.seed} {key}") for key in choices}
    points = []
    for number in range(settings.runs):
        drawn_values: dict[str, Any] = {}
        for key, choice in choices.items():
            generator = generators[key]
            if isinstance(choice, Range):
                drawn_values[key] = choice.draw(generator)
            else:
                drawn_values[key] = generator.choice(choice)
        points.append(Point(drawn_values, f"_{number}"))
    return points


def _parse_numbers(range_settings: dict[str, Any]) -> dict[str, Any]:
    """Read a range whose numbers may be written as 1e-5, which YAML takes for text."""
    parsed = dict(range_settings)
    for key in ("low", "high"):
        value = range_settings.get(key)
        if isinstance(value, str):
            # What is no number is left as it is, and refused by its type.
            with contextlib.suppress(ValueError):
                parsed[key] = float(value)
    return parsed


def expand_entry(
    settings: dict[str, Any], where: str, unlabelled: str = ""
) -> list[tuple[dict[str, Any], str]]:
    """Expand an entry of a study file by its `vary` and `search`.

    Args:
        settings: the entry.
        where: its place in the study file, for messages.
        unlabelled: a varied key that is no part of the label.

    Returns:
        For each point, the entry with the point's values, and the point's label.
    """
    own = dict(settings)
    vary = own.pop("vary", None)
    search = own.pop("search", None)
    points = expand_grid(vary or {}, f"{where}.vary", unlabelled)
    # Without a search there is one point that draws nothing.
    drawn_points = [Point({}, "")]
    if search is not None:
        drawn_points = draw_points(search, f"{where}.search")
    entries = []
    for point in points:
        for drawn_point in drawn_points:
            entry = {
                **own,
                **point.values,
                **drawn_point.values,
            }
            label = point.label + drawn_point.label
            entries.append((entry, label))
    return entries
