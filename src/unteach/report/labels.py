"""Where the names of points stand in a picture: beside their points, over nothing else."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from unteach.report.pictures import Picture, Point, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST_NAME = 30
CROWD = 16
"""Of more points than this, a name that has no room is left out."""
NUM_NEAR = 4
"""Places right beside a point, which need no leader to it."""
PRICE_COVERED, PRICE_OUTSIDE, PRICE_CROSSED = 1300, 1080, 40


class Place(NamedTuple):
    """A point of the picture, in pixels."""

    x: float
    y: float


class Box(NamedTuple):
    """A part of the picture, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def holds(self, place: Place) -> bool:
        return self.left < place.x < self.right and self.bottom < place.y < self.top

    def measure_overlap(self, other: Box) -> float:
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return wide * high if wide > 0 and high > 0 else 0.0

    def measure_outside(self, frame: Box) -> float:
        """Sum up how far it goes over a frame's four sides."""
        beyond = (
            frame.left - self.left,
            frame.bottom - self.bottom,
            self.right - frame.right,
            self.top - frame.top,
        )
        return sum(max(0.0, over) for over in beyond)


@dataclass
class _Labeller:
    """Writes labels one after the other, and keeps what is taken.

    Attributes:
        em: the height of a letter, in pixels, which all distances are told by.
    """

    axes: Axes
    em: float
    ink: str
    soft: str
    taken: list[Box]

    def find_place(self, x: float, y: float) -> Place:
        pixel_x, pixel_y = self.axes.transData.transform((x, y))
        return Place(float(pixel_x), float(pixel_y))

    def cover_points(self, picture: Picture) -> None:
        for series in picture.series:
            for point in series.points if series.label else ():
                middle = self.find_place(point.x, point.y)
                self.taken.append(build_box(middle, self.em / 2, self.em / 2))

    def cover_guides(self, picture: Picture) -> None:
        frame = self.get_frame()
        half = self.em / 9
        for guide in picture.guides:
            if guide.along == "x":
                x = self.find_place(guide.value, self.axes.get_ybound()[0]).x
                self.taken.append(Box(x - half, frame.bottom, x + half, frame.top))
            else:
                y = self.find_place(self.axes.get_xbound()[1], guide.value).y
                self.taken.append(Box(frame.left, y - half, frame.right, y + half))

    def cover_lines(self, picture: Picture) -> None:
        """Lay small boxes along each line, a few pixels apart."""
        half = self.em / 6
        for series in picture.series:
            if series.line is None:
                continue
            corners = [self.find_place(point.x, point.y) for point in series.points]
            for start, end in itertools.pairwise(corners):
                num_steps = math.ceil(math.dist(start, end) / (2 * half))
                for step in range(num_steps):
                    middle = interpolate(start, end, step / num_steps)
                    self.taken.append(build_box(middle, half, half))

    def get_frame(self) -> Box:
        bounds = self.axes.get_window_extent()
        return Box(bounds.x0, bounds.y0, bounds.x1, bounds.y1)

    def draw(self, series: Series, may_go: bool) -> None:
        """Write one label at its best place, and add that to what is taken."""
        point = series.points[0]
        text = self.axes.annotate(
            shorten(series.label),
            (point.x, point.y),
            (0, 0),
            textcoords="offset pixels",
            ha="center",
            va="center",
            color=self.ink,
            zorder=4,
            annotation_clip=False,
        )
        extent = text.get_window_extent()
        half_size = Place(extent.width / 2 + self.em / 6, extent.height / 2 + self.em / 9)
        start = self.find_place(point.x, point.y)
        shift, needs_leader = self._choose_shift(start, half_size)
        end = Place(start.x + shift.x, start.y + shift.y)
        box = build_box(end, *half_size)
        if may_go and (needs_leader or any(box.measure_overlap(other) for other in self.taken)):
            text.remove()
            return
        text.set_position(shift)
        self.taken.append(box)
        if needs_leader:
            half = self.em / 4
            self.taken.extend(build_box(place, half, half) for place in walk_leader(start, end))
            self._draw_leader(point, shift, half_size)

    def _choose_shift(self, start: Place, half_size: Place) -> tuple[Place, bool]:
        """Choose where a label stands, from its point, and whether it needs a leader to it."""
        frame = self.get_frame()
        choices = []
        for rank, shift in enumerate(list_shifts(half_size.x, self.em)):
            end = Place(start.x + shift.x, start.y + shift.y)
            box = build_box(end, *half_size)
            price = 2 * rank + 1.8 * math.hypot(*shift) / self.em
            price += PRICE_OUTSIDE * box.measure_outside(frame) / self.em
            covered = sum(box.measure_overlap(other) for other in self.taken)
            price += PRICE_COVERED * covered / self.em**2
            if rank >= NUM_NEAR:
                others = [box for box in self.taken if not box.holds(start)]
                for place in walk_leader(start, end):
                    price += PRICE_CROSSED * any(box.holds(place) for box in others)
            choices.append((price, rank, shift))
        _, rank, shift = min(choices)
        return shift, rank >= NUM_NEAR

    def _draw_leader(self, point: Point, shift: Place, half_size: Place) -> None:
        # It ends at the label's edge, not in the middle of its letters.
        across = half_size.x / abs(shift.x) if shift.x else 1.0
        up = half_size.y / abs(shift.y) if shift.y else 1.0
        share = 1 - min(across, up)
        style = {"arrowstyle": "-", "color": self.soft, "linewidth": 0.8}
        self.axes.annotate(
            "",
            (point.x, point.y),
            (shift.x * share, shift.y * share),
            textcoords="offset pixels",
            annotation_clip=False,
            zorder=2,
            arrowprops={**style, "shrinkA": 0, "shrinkB": self.em / 3},
        )


def draw_labels(axes: Axes, picture: Picture, em: float, ink: str, soft: str) -> None:
    """Write the labels of a picture's points where each covers no other label, no point, no guide
    and no line.

    Those that must be there are placed first. In a crowd, another for which there is no room beside
    its point is left out.
    """
    labelled = [series for series in picture.series if series.label]
    if not labelled:
        return
    labeller = _Labeller(axes, em, ink, soft, taken=[])
    labeller.cover_points(picture)
    labeller.cover_guides(picture)
    labeller.cover_lines(picture)
    is_crowd = len(labelled) > CROWD
    for series in sorted(labelled, key=lambda series: not series.must_label):
        labeller.draw(series, may_go=is_crowd and not series.must_label)


def list_shifts(half_wide: float, em: float) -> list[Place]:
    """List where a label may stand, from its point, the best places first: beside it, above, below,
    then ever farther around it."""
    beside, above = half_wide + 0.72 * em, 1.17 * em
    shifts = [Place(beside, 0.0), Place(-beside, 0.0), Place(0.0, above), Place(0.0, -above)]
    for num_ems in (2.1, 3.5, 5.1, 6.8, 8.6):
        far = num_ems * em
        for turn in range(12):
            angle = turn * math.pi / 6
            shifts.append(Place(math.cos(angle) * (far + half_wide), math.sin(angle) * far))
    return shifts


def walk_leader(start: Place, end: Place) -> list[Place]:
    """List places along a leader from a point to its label, its ends left out."""
    return [interpolate(start, end, step / 10) for step in range(2, 9)]


def interpolate(start: Place, end: Place, share: float) -> Place:
    """Find the place at a share of the way from one to another."""
    return Place(start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * share)


def build_box(middle: Place, half_wide: float, half_high: float) -> Box:
    """Build the box around a place."""
    return Box(
        middle.x - half_wide, middle.y - half_high, middle.x + half_wide, middle.y + half_high
    )


def shorten(name: str) -> str:
    """Cut a long name, with the sign that it was cut."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
