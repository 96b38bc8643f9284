"""What a picture shows, before anyone draws it: axes, series of points, straight lines, words.

Every picture of a report is described by these classes, and drawn from them by `drawing` alone, for
the page and for a file alike.
"""

from dataclasses import dataclass
from typing import Literal

MOST_LINES = 60
"""Lines of one picture: more cannot be told apart."""
LineStyle = Literal["solid", "dashed", "dotted", "dashdot"]
Marker = Literal["circle", "ring", "diamond", "square"]


@dataclass(frozen=True)
class Axis:
    """One axis of a picture.

    Attributes:
        label: what stands along it.
        limits: where it begins and ends; None, as the values need.
        categories: what stands at 0, 1, 2… in place of numbers.
    """

    label: str
    is_log: bool = False
    limits: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """One point of a series.

    Attributes:
        spread: half the length of the bar through it.
        hover: what the page says where the pointer is on it.
    """

    x: float
    y: float
    spread: float | None = None
    hover: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one colour, and the line through them.

    Attributes:
        name: its name in the legend, where it has a place there.
        colour: a name of the palette in `colours`.
        hover: what the page says where the pointer is on the line.
        label: what stands beside its only point, where there is room.
        must_label: that it stands there in a crowd too.
        is_stepped: whether the line goes on level to the next point.
    """

    name: str
    colour: str
    points: list[Point]
    line: LineStyle | None = None
    marker: Marker | None = None
    width: float = 1.5
    hover: str = ""
    label: str = ""
    must_label: bool = False
    in_legend: bool = True
    is_stepped: bool = False


@dataclass(frozen=True)
class Guide:
    """A straight line across a picture: upright at a value of x, or level at a value of y."""

    along: Literal["x", "y"]
    value: float
    colour: str
    line: LineStyle = "solid"
    label: str = ""


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        choices: what it is called among the pictures of its section; of two axes that can be
            chosen apart, what each is called.
        better: which way is good, above its right corner.
        note: what stands below it on the page.
    """

    choices: tuple[str, ...]
    x: Axis
    y: Axis
    series: list[Series]
    guides: tuple[Guide, ...] = ()
    better: str = ""
    note: str = ""

    @property
    def title(self) -> str:
        return " and ".join(self.choices)
