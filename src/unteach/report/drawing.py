"""Draws pictures: the one place that knows how, for the page (SVG) and for files (PNG).

The library is matplotlib, in figures of our own: a caller's figures and backend stay as they are.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unteach.atomic import atomic_write
from unteach.report.colours import PALETTE
from unteach.report.labels import clean, draw_labels, shorten
from unteach.report.pictures import Axis, Guide, Picture, Series
from unteach.report.svg import HOVER_PREFIX, rewrite_svg

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE_DPI = 100
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


WIDE_FILE = Format((12.0, 7.0), font_size=13, marker_size=9.7)
PANEL_FILE = Format((6.0, 4.2), font_size=11, marker_size=4)
WIDE_PAGE = Format((11.4, 5.4), font_size=9.4, marker_size=8)
LINES_PAGE = Format(
    (11.4, 4.4),
    font_size=9.4,
    marker_size=5,
    legend_columns=6,
)
HALF_PAGE = Format(
    (5.5, 4.6),
    font_size=9.4,
    marker_size=5,
    legend_columns=2,
)


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


def draw_svg(picture: Picture, size: Format, name: str) -> str:
    """Draw a picture for a page, as an SVG element in the page's own colours.

    Args:
        name: what tells it from all others of the page.
    """
    hovers = Hovers()
    # An SVG is written in points: what is measured in pixels must be, too.
    with _open_figure(size, name, dpi=POINTS_PER_INCH) as figure:
        axes = figure.add_axes(_find_frame(picture, size))
        _draw(axes, picture, size, hovers, POINTS_PER_INCH)
        content = io.StringIO()
        dates = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(
            content,
            format="svg",
            transparent=True,
            metadata=dates,
        )
    return rewrite_svg(content.getvalue(), hovers.texts, clean(picture.title))


def write_png(picture: Picture, file: Path, size: Format = WIDE_FILE) -> Path:
    """Draw one picture into a file, whole or not at all, and give the file back."""
    with _open_figure(size, file.name) as figure:
        _draw(figure.add_axes((0.075, 0.105, 0.895, 0.775)), picture, size, Hovers(), FILE_DPI)
        _save_png(figure, file)
    return file


def write_panels(pictures: list[Picture], file: Path, size: Format = PANEL_FILE) -> None:
    """Draw several pictures of the same series beside each other into one file, with one legend."""
    across = min(2, len(pictures))
    down = math.ceil(len(pictures) / across)
    whole = Format((size.inches[0] * across, size.inches[1] * down), size.font_size, 0)
    with _open_figure(whole, file.name, layout="constrained") as figure:
        panels = figure.subplots(down, across, squeeze=False).flatten().tolist()
        for axes, picture in zip(panels, pictures, strict=False):
            _draw_frame(axes, picture)
            _draw_series(axes, picture, size, Hovers())
            axes.set_title(clean(picture.title), loc="left", fontsize=size.font_size + 1)
        for axes in panels[len(pictures) :]:
            axes.set_axis_off()
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=min(size.legend_columns, len(names)),
            frameon=False,
            labelcolor=PALETTE["soft"],
        )
        _save_png(figure, file)


@contextmanager
def _open_figure(
    size: Format,
    name: str,
    layout: Literal["constrained"] | None = None,
    dpi: int = FILE_DPI,
) -> Iterator[Figure]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": size.font_size,
        # A name is no formula, though it may look like one.
        "text.parse_math": False,
        "svg.fonttype": "none",
        # Two pictures of a page share no ids, and the same picture has the same ids tomorrow.
        "svg.hashsalt": name,
    }
    with rc_context(settings), warnings.catch_warnings():
        # The page's own fonts have the letters that the library's lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(
            figsize=size.inches,
            dpi=dpi,
            facecolor="white",
            layout=layout,
        )
        FigureCanvasAgg(figure)
        yield figure


def _save_png(figure: Figure, file: Path) -> None:
    with atomic_write(file) as temporary:
        figure.savefig(temporary, format="png")


def _find_frame(picture: Picture, size: Format) -> tuple[float, float, float, float]:
    """Find the part of a page's picture that its axes enclose: left, bottom, width, height."""
    wide, high = size.inches
    legend = _count_legend_rows(picture, size) * size.font_size * 1.75 / POINTS_PER_INCH
    above = 0.5 if _has_words_above(picture) else 0.12
    below = 0.55 + (0 if _has_words_above(picture) else legend)
    left, right = 0.72, 0.2
    return left / wide, below / high, (wide - left - right) / wide, (high - above - below) / high


def _has_words_above(picture: Picture) -> bool:
    return bool(picture.better)


def _count_legend_rows(picture: Picture, size: Format) -> int:
    num_names = sum(series.in_legend for series in picture.series)
    return math.ceil(num_names / size.legend_columns)


def _draw(
    axes: Axes,
    picture: Picture,
    size: Format,
    hovers: Hovers,
    dpi: int,
) -> None:
    _draw_frame(axes, picture)
    _draw_guides(axes, picture, size)
    _draw_series(axes, picture, size, hovers)
    draw_labels(
        axes,
        picture,
        size.font_size * dpi / POINTS_PER_INCH,
        PALETTE["ink"],
        PALETTE["soft"],
    )
    _draw_legend(axes, picture, size)


def _draw_frame(axes: Axes, picture: Picture) -> None:
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
    return f"10{str(round(math.log10(value))).translate(SUPERSCRIPT)}"


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


def _draw_series(axes: Axes, picture: Picture, size: Format, hovers: Hovers) -> None:
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
        [line] = axes.plot(
            x,
            y,
            label=_name_in_legend(series),
            color=colour,
            linestyle="none" if series.line is None else LINES[series.line],
            linewidth=series.width,
            drawstyle="steps-post" if series.is_stepped else "default",
            marker=MARKERS[series.marker] if series.marker else "",
            markersize=size.marker_size,
            markerfacecolor="white" if series.marker == "ring" else colour,
            markeredgewidth=2 if series.marker == "ring" else 0,
            clip_on=series.line is not None,
            zorder=3 if series.line is None else 2.5,
        )
        if (series.marker and series.line is None) or len(x) == 1:
            hovers.add(line, [point.hover for point in series.points])
        elif any(point.hover for point in series.points):
            hovers.add(line, [series.hover, *(point.hover for point in series.points)])
        else:
            hovers.add(line, [series.hover])


def _name_in_legend(series: Series) -> str:
    # The library leaves names with a _ before them out of its legends.
    name = shorten(series.name)
    return f" {name}" if series.in_legend else f"_{name}"


def _draw_legend(axes: Axes, picture: Picture, size: Format) -> None:
    if not any(series.in_legend for series in picture.series):
        return
    is_above = _has_words_above(picture)
    axes.legend(
        loc="lower left" if is_above else "upper left",
        bbox_to_anchor=(-0.01, 1.035) if is_above else (-0.01, _find_legend_top(axes, size)),
        ncols=8 if is_above else size.legend_columns,
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
