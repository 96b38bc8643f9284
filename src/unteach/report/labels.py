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
PRICE_RANK = 2
"""Of a place for each that is better by itself."""
PRICE_FAR = 1.8
"""Of an em between a label and its point."""
PRICE_OUTSIDE = 1080
"""Of an em beyond the axes."""
PRICE_COVERED = 1300
"""Of a square em of what is taken."""
PRICE_CROSSED = 40
"""Of a step of a leader over another thing."""


def draw_labels(
    axes: Axes,
    picture: Picture,
    em: float,
    ink: str,
    soft: str,
) -> None:
    """Write the labels of a picture's points where each covers no other label, no point, no guide
    and no line.

    Those that must be there are placed first. In a crowd, another for which there is no room beside
    its point is left out.

    Args:
        em: the height of a letter, in pixels, which all distances are told by.
        ink, soft: the colours of names, and of leaders to them.
    """
    # Those that must be there choose their places before the others.
    labelled = [series for series in picture.series if series.label]
    labelled.sort(key=lambda series: not series.must_label)
    if not labelled:
        return
    labeller = _Labeller(
        axes=axes,
        em=em,
        ink=ink,
        soft=soft,
        taken=np.empty((0, 4)),
    )
    labeller.cover_points(labelled)
    labeller.cover_guides(picture)
    labeller.cover_lines(picture)
    is_crowd = len(labelled) > CROWD
    for series in labelled:
        may_go = is_crowd and not series.must_label
        labeller.draw(series, may_go)


@dataclass
class _Labeller:
    """Writes labels one after the other, and keeps what is taken.

    Attributes:
        em: the height of a letter, in pixels.
        ink, soft: the colours of names, and of leaders to them.
        taken: the boxes that no label may cover.
    """

    axes: Axes
    em: float
    ink: str
    soft: str
    taken: np.ndarray  # [N, 4]

    def find_places(self, points: list[Point]) -> np.ndarray:
        """Find where points are drawn: [points, 2]."""
        values = np.empty((len(points), 2))
        for point_index, point in enumerate(points):
            values[point_index] = point.x, point.y
        return np.asarray(self.axes.transData.transform(values))

    def take(self, boxes: np.ndarray) -> None:
        """Keep later labels off these boxes."""
        self.taken = np.concatenate([self.taken, boxes])

    def cover_points(self, labelled: list[Series]) -> None:
        """Take the place of each point that has a label, a letter wide."""
        half = self.em / 2
        for series in labelled:
            places = self.find_places(series.points)
            self.take(build_boxes(places, half, half))

    def cover_guides(self, picture: Picture) -> None:
        """Take a narrow strip along each guide, from one edge of the axes to the other."""
        left, bottom, right, top = self.axes.get_window_extent().extents
        half = self.em / 9
        for guide in picture.guides:
            if guide.along == "x":
                low_y = self.axes.get_ybound()[0]
                [[x, _]] = self.find_places([Point(guide.value, low_y)])
                box = (x - half, bottom, x + half, top)
            else:
                high_x = self.axes.get_xbound()[1]
                [[_, y]] = self.find_places([Point(high_x, guide.value)])
                box = (left, y - half, right, y + half)
            self.take(np.array([box]))

    def cover_lines(self, picture: Picture) -> None:
        """Lay small boxes along each line, side by side."""
        half = self.em / 6
        for series in picture.series:
            if series.line is None:
                continue
            places = self.find_places(series.points)
            for start, end in itertools.pairwise(places):
                length = math.dist(start, end)
                num_steps = math.ceil(length / (2 * half))
                shares = np.arange(num_steps)[:, None] / max(1, num_steps)
                along = start + shares * (end - start)  # [num_steps, 2]
                self.take(build_boxes(along, half, half))

    def draw(self, series: Series, may_go: bool) -> None:
        """Write one label at its best place, and add that to what is taken.

        Args:
            series: one point and its label.
            may_go: leave the label out where it would need a leader or cover something.
        """
        # Written first at the point itself: only then does the library know its size.
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
        half_wide = extent.width / 2 + self.em / 6
        half_high = extent.height / 2 + self.em / 9

        [start] = self.find_places([point])
        shifts = list_shifts(half_wide, self.em)
        boxes = build_boxes(start + shifts, half_wide, half_high)
        covered = measure_overlaps(boxes, self.taken)
        prices = self._price(start, shifts, boxes, covered)
        choice = int(np.argmin(prices))

        shift = shifts[choice]
        needs_leader = choice >= NUM_NEAR
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
        self,
        start: np.ndarray,
        shifts: np.ndarray,
        boxes: np.ndarray,
        covered: np.ndarray,
    ) -> np.ndarray:
        """Price every place that a label could have; the least is the best.

        Args:
            start: the label's point, [2].
            shifts: from the point to each place, [places, 2].
            boxes: the label at each place, [places, 4].
            covered: how much of each box is taken already, [places].
        """
        rank = np.arange(len(shifts)).astype(float)
        far = np.hypot(shifts[:, 0], shifts[:, 1])
        frame = self.axes.get_window_extent().extents
        below = frame[:2] - boxes[:, :2]  # [places, 2]
        above = boxes[:, 2:] - frame[2:]
        beyond = np.concatenate([below, above], axis=1)
        outside = np.maximum(0, beyond).sum(1)
        price = PRICE_RANK * rank
        price += PRICE_FAR * far / self.em
        price += PRICE_COVERED * covered / self.em**2
        price += PRICE_OUTSIDE * outside / self.em

        # A leader may leave what lies under its own point; all else it should not cross.
        holds_point = find_holders(self.taken, start[None])[:, 0]
        others = self.taken[~holds_point]
        for place in range(NUM_NEAR, len(shifts)):
            along = start + LEADER_STEPS[:, None] * shifts[place]
            num_crossed = find_holders(others, along).any(0).sum()
            price[place] += PRICE_CROSSED * num_crossed
        return price

    def _draw_leader(
        self,
        point: Point,
        shift: np.ndarray,
        half_wide: float,
        half_high: float,
    ) -> None:
        """Draw a line from a point to the edge of its label, not into the middle of its letters."""
        across = half_wide / abs(shift[0]) if shift[0] else 1.0
        up = half_high / abs(shift[1]) if shift[1] else 1.0
        end = shift * (1 - min(across, up))
        self.axes.annotate(
            "",
            (point.x, point.y),
            (float(end[0]), float(end[1])),
            textcoords="offset pixels",
            annotation_clip=False,
            zorder=2,
            arrowprops={
                "arrowstyle": "-",
                "color": self.soft,
                "linewidth": 0.8,
                "shrinkA": 0,
                "shrinkB": self.em / 3,
            },
        )


def list_shifts(half_wide: float, em: float) -> np.ndarray:
    """List where a label may stand, from its point, the best places first: beside it, above, below,
    then ever farther around it."""
    beside = half_wide + 0.72 * em
    above = 1.17 * em
    shifts = [
        (beside, 0.0),
        (-beside, 0.0),
        (0.0, above),
        (0.0, -above),
    ]
    for num_ems in (2.1, 3.5, 5.1, 6.8, 8.6):
        far = num_ems * em
        for turn in range(12):
            angle = turn * math.pi / 6
            x = math.cos(angle) * (far + half_wide)
            y = math.sin(angle) * far
            shifts.append((x, y))
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
    areas = sides[..., 0] * sides[..., 1]
    return areas.sum(1)


def find_holders(boxes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Find which boxes hold which places: [boxes, places]."""
    low = boxes[:, None, :2]
    high = boxes[:, None, 2:]
    is_above_low = places[None] > low  # [boxes, places, 2]
    is_below_high = places[None] < high
    inside = is_above_low & is_below_high
    return np.asarray(inside.all(-1))


def clean(text: str) -> str:
    """Give a text in which nothing is invisible, broken, or not to be drawn."""
    lines = []
    for line in neutralize(text).split("\n"):
        words = line.split()
        lines.append(" ".join(words))
    flat = "\n".join(lines)
    return flat.encode("utf-8", "replace").decode("utf-8")


def shorten(name: str) -> str:
    """Write a name as it stands in a picture: clean, and where it is long cut, with the sign of
    it."""
    name = clean(name)
    if len(name) <= LONGEST_NAME:
        return name
    return name[: LONGEST_NAME - 1] + "…"
