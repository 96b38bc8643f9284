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
from unteach.wording import shown


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
        if self.scale == "log":
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = generator.uniform(self.low, self.high)
        # Rounding of exp(log(…)) may leave the range by its last digit.
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else float(f"{value:.4g}")


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


def expand_grid(vary: object, where: str = "vary") -> list[Point]:
    """List every combination of values, the last key varying fastest.

    Args:
        vary: a mapping of keys to lists of values, or single values; only a key of several values
            is part of the label.
        where: its place in the study file, for messages.
    """
    if not isinstance(vary, dict):
        raise UserError(f"{where}: must be a mapping of keys to lists of values, got {shown(vary)}")
    lists = {key: values if isinstance(values, list) else [values] for key, values in vary.items()}
    for key, values in lists.items():
        if not values:
            raise UserError(f"{where}.{key}: the list is empty, so there would be no run")
    points = []
    for combination in itertools.product(*lists.values()):
        point = dict(zip(lists, combination, strict=True))
        labels = [format_label(key, point[key]) for key, values in lists.items() if len(values) > 1]
        points.append(Point(point, "".join(labels)))
    return points


def format_label(key: str, value: object) -> str:
    """Write what a varied key adds to a run's name: `_seed1`; what is forgotten adds its own name
    alone (`_forget05`, `_book-0.1`)."""
    names_rows = own_data.LONG_KEYS.get(key, key) in own_data.FORGET_ROWS
    if names_rows and isinstance(value, str):
        return f"_{spell_in_name(Path(value).stem)}"
    name = "" if key in ("forget_split", "forget_set") else key.split(".")[-1]
    return f"_{name}{spell_in_name(value)}"


def spell_in_name(value: object) -> str:
    """Spell a value as part of a folder's name."""
    if isinstance(value, list):
        return "+".join(spell_in_name(item) for item in value)
    if isinstance(value, dict):
        return "-".join(spell_in_name(item) for item in value.values() if item is not None)
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
    for key, values in (settings.over if settings else {}).items():
        key_where = f"{where}.over.{key}"
        if isinstance(values, dict):
            choices[key] = reader.record(Range, _parse_numbers(values), key_where)
        elif isinstance(values, list) and values:
            choices[key] = values
        else:
            reader.wrong(
                key_where, f"must be a list of values or a range {{low, high}}, got {shown(values)}"
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


def expand_entry(settings: dict[str, Any], where: str) -> list[tuple[dict[str, Any], str]]:
    """Expand an entry of a study file by its `vary` and `search`.

    Args:
        settings: the entry.
        where: its place in the study file, for messages.

    Returns:
        For each point, the entry with the point's values, and the point's label.
    """
    own = {key: value for key, value in settings.items() if key not in ("vary", "search")}
    points = expand_grid(settings.get("vary") or {}, f"{where}.vary")
    if settings.get("search") is None:
        return [({**own, **point.values}, point.label) for point in points]
    drawn_points = draw_points(settings["search"], f"{where}.search")
    entries = []
    for point in points:
        for drawn_point in drawn_points:
            entry = {**own, **point.values, **drawn_point.values}
            entries.append((entry, point.label + drawn_point.label))
    return entries
