"""Draws one picture into the library's axes: frame, guides, series, labels and legend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unteach.report.colours import PALETTE
from unteach.report.labels import clean, draw_labels, shorten
from unteach.report.pictures import Axis, Guide, Picture, Series
from unteach.report.svg import HOVER_PREFIX

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

POINTS_PER_INCH = 72
MARKERS = {
    "circle": "o",
    "ring": "o",
    "diamond": "D",
    "square": "s",
}
LINES = {
    "solid": "-",
    "dashed": "--",
    "dotted": (0, (1, 3)),
    "dashdot": "-.",
}
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Format:
    """How large a picture is drawn.

    Attributes:
        inches: its width and height.
        font_size: of its words, in points.
        marker_size: of its points, in points.
        legend_columns: names beside each other in its legend.
    """

    inches: tuple[float, float]
    font_size: float
    marker_size: float
    legend_columns: int = 4


class Hovers:
    """What is told where the pointer is on something drawn, by the ids that its artists get."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}

    def add(self, artist: Artist, texts: list[str]) -> None:
        """Give an artist an id; of several texts, each belongs to one of its points."""
        if any(texts):
            key = f"{HOVER_PREFIX}{len(self.texts)}"
            artist.set_gid(key)
            self.texts[key] = [clean(text) for text in texts]


def draw_picture(
    axes: Axes,
    picture: Picture,
    size: Format,
    hovers: Hovers,
    dpi: int,
) -> None:
    """Draw all of a picture.

    Args:
        size: how large words and points are.
        hovers: gets what is told of each thing that is drawn.
        dpi: the figure's pixels per inch.
    """
    draw_frame(axes, picture)
    _draw_guides(axes, picture, size)
    draw_series(axes, picture, size, hovers)
    # After all that a label must not cover.
    em = size.font_size * dpi / POINTS_PER_INCH
    draw_labels(axes, picture, em, PALETTE["ink"], PALETTE["soft"])
    _draw_legend(axes, picture, size)


def draw_frame(axes: Axes, picture: Picture) -> None:
    """Draw a picture's axes and their grid, without a box around them."""
    _set_axis(axes, picture.x, "x")
    _set_axis(axes, picture.y, "y")
    axes.grid(color=PALETTE["grid"], linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=PALETTE["soft"], length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _set_axis(axes: Axes, axis: Axis, direction: str) -> None:
    set_scale, set_limits, set_label, set_ticks, library_axis = (
        (axes.set_xscale, axes.set_xlim, axes.set_xlabel, axes.set_xticks, axes.xaxis)
        if direction == "x"
        else (axes.set_yscale, axes.set_ylim, axes.set_ylabel, axes.set_yticks, axes.yaxis)
    )
    if axis.is_log:
        set_scale("log")
        # Without the library's markup, which names may contain.
        library_axis.set_major_formatter(lambda value, _: _format_power(value))
        library_axis.minorticks_off()
    if axis.limits is not None:
        set_limits(*axis.limits)
    if axis.categories:
        names = [clean(name) for name in axis.categories]
        set_ticks(range(len(names)), names)
    set_label(clean(axis.label), color=PALETTE["soft"])


def _format_power(value: float) -> str:
    """Write a power of ten, with a raised exponent."""
    exponent = round(math.log10(value))
    return f"10{str(exponent).translate(SUPERSCRIPT)}"


def _draw_guides(axes: Axes, picture: Picture, size: Format) -> None:
    for guide in picture.guides:
        draw_line = axes.axvline if guide.along == "x" else axes.axhline
        draw_line(
            guide.value,
            color=PALETTE[guide.colour],
            linewidth=1.5,
            linestyle=LINES[guide.line],
            zorder=1.5,
        )
        if guide.label:
            _label_guide(axes, guide, size)
    if picture.better:
        axes.annotate(
            clean(picture.better),
            (1, 1),
            (0, 2 * size.font_size),
            xycoords="axes fraction",
            textcoords="offset points",
            annotation_clip=False,
            ha="right",
            va="bottom",
            color=PALETTE["accent"],
        )


def _label_guide(axes: Axes, guide: Guide, size: Format) -> None:
    """Write what an upright line means above it, on the side where there is room."""
    low, high = axes.get_xbound()
    share = (guide.value - low) / (high - low)
    if axes.get_xscale() == "log":
        share = math.log(guide.value / low) / math.log(high / low)
    is_left = share < 0.5
    axes.annotate(
        clean(guide.label),
        (guide.value, 1),
        (-2 if is_left else 2, 4),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        annotation_clip=False,
        ha="left" if is_left else "right",
        va="bottom",
        color=PALETTE[guide.colour],
        fontsize=size.font_size - 0.5,
    )


def draw_series(
    axes: Axes,
    picture: Picture,
    size: Format,
    hovers: Hovers,
) -> None:
    for series in picture.series:
        colour = PALETTE[series.colour]
        x = [point.x for point in series.points]
        y = [point.y for point in series.points]
        if any(point.spread for point in series.points):
            spreads = [point.spread or 0 for point in series.points]
            axes.errorbar(
                x,
                y,
                spreads,
                fmt="none",
                ecolor=colour,
                elinewidth=1.2,
                capsize=4,
            )
        is_line = series.line is not None
        is_ring = series.marker == "ring"
        [line] = axes.plot(
            x,
            y,
            label=_name_in_legend(series),
            color=colour,
            linestyle=LINES[series.line] if series.line else "none",
            linewidth=series.width,
            drawstyle="steps-post" if series.is_stepped else "default",
            marker=MARKERS[series.marker] if series.marker else "",
            markersize=size.marker_size,
            markerfacecolor="white" if is_ring else colour,
            markeredgewidth=2 if is_ring else 0,
            clip_on=is_line,
            zorder=2.5 if is_line else 3,
        )
        hovers.add(line, _list_hovers(series))


def _list_hovers(series: Series) -> list[str]:
    """List what is told of a series: for each point, for its line and each point, or for its line
    alone."""
    of_points = [point.hover for point in series.points]
    is_points = series.marker is not None and series.line is None
    if is_points or len(of_points) == 1:
        return of_points
    if any(of_points):
        return [series.hover, *of_points]
    return [series.hover]


def _name_in_legend(series: Series) -> str:
    # The library leaves names with a _ before them out of its legends.
    name = shorten(series.name)
    return f" {name}" if series.in_legend else f"_{name}"


def _draw_legend(axes: Axes, picture: Picture, size: Format) -> None:
    """Draw the names of the series: above in one row where words stand there, else below."""
    if not any(series.in_legend for series in picture.series):
        return
    corner: Literal["lower left", "upper left"]
    if has_words_above(picture):
        corner = "lower left"
        top = 1.035
        num_columns = 8
    else:
        corner = "upper left"
        top = _find_legend_top(axes, size)
        num_columns = size.legend_columns
    axes.legend(
        loc=corner,
        bbox_to_anchor=(-0.01, top),
        ncols=num_columns,
        frameon=False,
        labelcolor=PALETTE["soft"],
        fontsize=size.font_size - 0.5,
        handletextpad=0.4,
        columnspacing=1.2,
    )


def _find_legend_top(axes: Axes, size: Format) -> float:
    """Find where a legend below begins, in heights of the axes: under the axis's label."""
    height = axes.get_position().height * size.inches[1]
    return -0.48 / height


def has_words_above(picture: Picture) -> bool:
    """Whether words stand above a picture, where the legend goes then too."""
    return bool(picture.better)
