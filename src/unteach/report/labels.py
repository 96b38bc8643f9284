"""Where the names of points stand in a picture: beside their points, over nothing else.

All is in pixels. A box is (left, bottom, right, top); what is taken already is an array of boxes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unteach.console import neutralize
from unteach.report.pictures import Picture, Point, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST_NAME = 30
CROWD = 16
"""Of more points than this, a name that has no room is left out."""
NUM_NEAR = 4
"""Places right beside a point, which need no leader to it."""
LEADER_STEPS = np.arange(0.2, 0.85, 0.1)
"""Where along a leader it is looked at, its ends left out."""
PRICE_RANK, PRICE_FAR, PRICE_OUTSIDE, PRICE_COVERED, PRICE_CROSSED = 2, 1.8, 1080, 1300, 40
"""Of a place's rank, its distance and what is outside and covered in ems, a step of a leader over
another thing."""


def draw_labels(axes: Axes, picture: Picture, em: float, ink: str, soft: str) -> None:
    """Write the labels of a picture's points where each covers no other label, no point, no guide
    and no line.

    Those that must be there are placed first. In a crowd, another for which there is no room beside
    its point is left out.

    Args:
        em: the height of a letter, in pixels, which all distances are told by.
        ink, soft: the colours of names, and of leaders to them.
    """
    labelled = [series for series in picture.series if series.label]
    if not labelled:
        return
    labeller = _Labeller(axes, em, ink, soft, np.empty((0, 4)))
    labeller.cover_points(labelled)
    labeller.cover_guides(picture)
    labeller.cover_lines(picture)
    is_crowd = len(labelled) > CROWD
    for series in sorted(labelled, key=lambda series: not series.must_label):
        labeller.draw(series, may_go=is_crowd and not series.must_label)


@dataclass
class _Labeller:
    """Writes labels one after the other, and keeps what is taken."""

    axes: Axes
    em: float
    ink: str
    soft: str
    taken: np.ndarray  # [N, 4]

    def find_places(self, points: list[Point]) -> np.ndarray:
        """Find where points are drawn: [points, 2]."""
        values = np.array([(point.x, point.y) for point in points]).reshape(-1, 2)
        return np.asarray(self.axes.transData.transform(values))

    def take(self, boxes: np.ndarray) -> None:
        self.taken = np.concatenate([self.taken, boxes])

    def cover_points(self, labelled: list[Series]) -> None:
        for series in labelled:
            half = self.em / 2
            self.take(build_boxes(self.find_places(series.points), half, half))

    def cover_guides(self, picture: Picture) -> None:
        left, bottom, right, top = self.axes.get_window_extent().extents
        half = self.em / 9
        for guide in picture.guides:
            x = guide.value if guide.along == "x" else self.axes.get_xbound()[1]
            y = guide.value if guide.along == "y" else self.axes.get_ybound()[0]
            [[at_x, at_y]] = self.find_places([Point(x, y)])
            if guide.along == "x":
                box = (at_x - half, bottom, at_x + half, top)
            else:
                box = (left, at_y - half, right, at_y + half)
            self.take(np.array([box]))

    def cover_lines(self, picture: Picture) -> None:
        """Lay small boxes along each line, side by side."""
        half = self.em / 6
        for series in picture.series:
            if series.line is None:
                continue
            for start, end in itertools.pairwise(self.find_places(series.points)):
                num_steps = math.ceil(math.dist(start, end) / (2 * half))
                shares = np.arange(num_steps)[:, None] / max(1, num_steps)
                self.take(build_boxes(start + shares * (end - start), half, half))

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
        half_wide, half_high = extent.width / 2 + self.em / 6, extent.height / 2 + self.em / 9
        [start] = self.find_places([point])
        shifts = list_shifts(half_wide, self.em)
        boxes = build_boxes(start + shifts, half_wide, half_high)
        covered = measure_overlaps(boxes, self.taken)
        choice = int(np.argmin(self._price(start, shifts, boxes, covered)))

        shift, needs_leader = shifts[choice], choice >= NUM_NEAR
        if may_go and (needs_leader or covered[choice] > 0):
            text.remove()
            return
        text.set_position((float(shift[0]), float(shift[1])))
        self.take(boxes[choice : choice + 1])
        if needs_leader:
            along = start + LEADER_STEPS[:, None] * shift
            self.take(build_boxes(along, self.em / 4, self.em / 4))
            self._draw_leader(point, shift, half_wide, half_high)

    def _price(
        self, start: np.ndarray, shifts: np.ndarray, boxes: np.ndarray, covered: np.ndarray
    ) -> np.ndarray:
        """Price every place that a label could have; the least is the best."""
        price = PRICE_RANK * np.arange(len(shifts)).astype(float)
        price += PRICE_FAR * np.hypot(shifts[:, 0], shifts[:, 1]) / self.em
        price += PRICE_COVERED * covered / self.em**2
        left, bottom, right, top = self.axes.get_window_extent().extents
        beyond = np.stack(
            [left - boxes[:, 0], bottom - boxes[:, 1], boxes[:, 2] - right, boxes[:, 3] - top]
        )
        price += PRICE_OUTSIDE * np.maximum(0, beyond).sum(0) / self.em

        others = self.taken[~find_holders(self.taken, start[None])[:, 0]]
        for place in range(NUM_NEAR, len(shifts)):
            along = start + LEADER_STEPS[:, None] * shifts[place]
            price[place] += PRICE_CROSSED * find_holders(others, along).any(0).sum()
        return price

    def _draw_leader(
        self, point: Point, shift: np.ndarray, half_wide: float, half_high: float
    ) -> None:
        # It ends at the label's edge, not in the middle of its letters.
        across = half_wide / abs(shift[0]) if shift[0] else 1.0
        up = half_high / abs(shift[1]) if shift[1] else 1.0
        end = shift * (1 - min(across, up))
        style = {"arrowstyle": "-", "color": self.soft, "linewidth": 0.8}
        self.axes.annotate(
            "",
            (point.x, point.y),
            (float(end[0]), float(end[1])),
            textcoords="offset pixels",
            annotation_clip=False,
            zorder=2,
            arrowprops={**style, "shrinkA": 0, "shrinkB": self.em / 3},
        )


def list_shifts(half_wide: float, em: float) -> np.ndarray:
    """List where a label may stand, from its point, the best places first: beside it, above, below,
    then ever farther around it."""
    beside, above = half_wide + 0.72 * em, 1.17 * em
    shifts = [(beside, 0.0), (-beside, 0.0), (0.0, above), (0.0, -above)]
    for num_ems in (2.1, 3.5, 5.1, 6.8, 8.6):
        far = num_ems * em
        for turn in range(12):
            angle = turn * math.pi / 6
            shifts.append((math.cos(angle) * (far + half_wide), math.sin(angle) * far))
    return np.array(shifts)


def build_boxes(middles: np.ndarray, half_wide: float, half_high: float) -> np.ndarray:
    """Build the boxes around places: [places, 2] -> [places, 4]."""
    half = np.array([half_wide, half_high])
    return np.concatenate([middles - half, middles + half], axis=1)


def measure_overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Measure how much of each box others cover: [boxes]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(0, high - low)  # [boxes, others, 2]
    return (sides[..., 0] * sides[..., 1]).sum(1)


def find_holders(boxes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Find which boxes hold which places: [boxes, places]."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    inside = (places[None] > low) & (places[None] < high)  # [boxes, places, 2]
    return np.asarray(inside.all(-1))


def clean(text: str) -> str:
    """Give a text in which nothing is invisible, broken, or not to be drawn."""
    flat = "\n".join(" ".join(line.split()) for line in neutralize(text).split("\n"))
    return flat.encode("utf-8", "replace").decode("utf-8")


def shorten(name: str) -> str:
    """Write a name as it stands in a picture: clean, and where it is long cut, with the sign of
    it."""
    name = clean(name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
