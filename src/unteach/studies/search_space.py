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

    def draw(self, at: random.Random) -> float | int:
        if self.scale == "log":
            value = math.exp(at.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = at.uniform(self.low, self.high)
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


def grid(vary: dict[str, Any], where: str = "vary") -> list[Point]:
    """Every combination, the last key varying fastest; only keys of several values are told in the
    label."""
    if not isinstance(vary, dict):
        raise UserError(f"{where}: must be a mapping of keys to lists of values, got {shown(vary)}")
    lists = {key: values if isinstance(values, list) else [values] for key, values in vary.items()}
    for key, values in lists.items():
        if not values:
            raise UserError(f"{where}.{key}: the list is empty, so there would be no run")
    several = {key for key, values in lists.items() if len(values) > 1}
    points = [
        dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())
    ]
    return [
        Point(point, "".join(label(key, point[key]) for key in point if key in several))
        for point in points
    ]


def label(key: str, value: object) -> str:
    """What a varied key adds to a run's name: `_seed1`; what is forgotten only itself (`_forget05`,
    `_book-0.1`)."""
    if own_data.LONG_KEYS.get(key, key) in own_data.FORGET_ROWS and isinstance(value, str):
        return f"_{spell_in_name(Path(value).stem)}"
    name = "" if key in ("forget_split", "forget_set") else key.split(".")[-1]
    return f"_{name}{spell_in_name(value)}"


def spell_in_name(value: object) -> str:
    """Spell a value as part of a folder's name."""
    if isinstance(value, list):
        return "+".join(map(spell_in_name, value))
    if isinstance(value, dict):
        return "-".join(spell_in_name(item) for item in value.values() if item is not None)
    return re.sub(r"[^\w.+-]+", "-", str(value))


def drawn(search: Any, where: str) -> list[Point]:
    """The points of a seeded random search, numbered. Each key has a generator of its own, so that
    adding one leaves the draws of the others as they were."""
    reader = Reader()
    asked = reader.record(Search, search, where)
    ranges: dict[str, Any] = {}
    for key, values in (asked.over if asked else {}).items():
        ranges[key] = (
            reader.record(Range, _read(values), f"{where}.over.{key}")
            if isinstance(values, dict)
            else values
        )
        if not isinstance(values, dict | list) or values == []:
            reader.wrong(
                f"{where}.over.{key}",
                f"must be a list of values or a range {{low, high}}, got {shown(values)}",
            )
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    generators = {key: random.Random(f"{asked.seed} {key}") for key in ranges}
    points = []
    for number in range(asked.runs):
        values = {
            key: one.draw(generators[key])
            if isinstance(one, Range)
            else generators[key].choice(one)
            for key, one in ranges.items()
        }
        points.append(Point(values, f"_{number}"))
    return points


def _read(values: dict[str, Any]) -> dict[str, Any]:
    """A range whose numbers may be written as 1e-5, which YAML takes for text."""
    found = dict(values)
    for key in ("low", "high"):
        with contextlib.suppress(TypeError, ValueError):
            found[key] = float(values[key]) if isinstance(values.get(key), str) else values.get(key)
    return {key: value for key, value in found.items() if key in values}


def of_entry(settings: dict[str, Any], where: str) -> list[tuple[dict[str, Any], str]]:
    """An entry of a study file without its `vary` and `search`: once for each of their points, with
    the label."""
    own = {key: value for key, value in settings.items() if key not in ("vary", "search")}
    points = grid(settings.get("vary") or {}, f"{where}.vary")
    if settings.get("search") is not None:
        found = drawn(settings["search"], f"{where}.search")
        points = [Point(a.values | b.values, a.label + b.label) for a in points for b in found]
    return [({**own, **point.values}, point.label) for point in points]
