"""Draws pictures for the page (SVG) and for files (PNG), in figures of a size that each needs.

The library is matplotlib, in figures of our own: a caller's figures and backend stay as they are.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unteach.atomic import atomic_write
from unteach.report.axes import (
    POINTS_PER_INCH,
    Format,
    Hovers,
    draw_frame,
    draw_picture,
    draw_series,
    has_words_above,
)
from unteach.report.colours import PALETTE
from unteach.report.labels import clean
from unteach.report.pictures import Picture
from unteach.report.svg import rewrite_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE_DPI = 100
LETTER_WIDTH = 0.56
"""Of a letter as it is on average, in heights of it."""
WIDE_FILE = Format(
    (12.0, 7.0),
    font_size=13,
    marker_size=9.7,
)
PANEL_FILE = Format(
    (6.0, 4.2),
    font_size=11,
    marker_size=4,
)
WIDE_PAGE = Format(
    (11.4, 5.4),
    font_size=9.4,
    marker_size=8,
)
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


def draw_svg(picture: Picture, size: Format, name: str) -> str:
    """Draw a picture for a page, as an SVG element in the page's own colours.

    Args:
        name: what tells it from all others of the page.
    """
    hovers = Hovers()
    size = _make_room_for_legend(picture, size)
    # An SVG is written in points: what is measured in pixels must be, too.
    with _open_figure(size, name, dpi=POINTS_PER_INCH) as figure:
        axes = figure.add_axes(_find_frame(picture, size))
        draw_picture(axes, picture, size, hovers, POINTS_PER_INCH)
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
        axes = figure.add_axes((0.075, 0.105, 0.895, 0.775))
        draw_picture(axes, picture, size, Hovers(), FILE_DPI)
        _save_png(figure, file)
    return file


def write_panels(
    pictures: list[Picture],
    file: Path,
    size: Format = PANEL_FILE,
    across: int = 2,
) -> None:
    """Draw several pictures of the same series into one file, with one legend; so many beside each
    other."""
    across = min(across, len(pictures))
    down = math.ceil(len(pictures) / across)
    wide, high = size.inches
    whole = Format(
        (wide * across, high * down),
        font_size=size.font_size,
        marker_size=0,
    )
    with _open_figure(whole, file.name, layout="constrained") as figure:
        panels = figure.subplots(down, across, squeeze=False).flatten().tolist()
        for axes, picture in zip(panels, pictures, strict=False):
            draw_frame(axes, picture)
            draw_series(axes, picture, size, Hovers())
            axes.set_title(
                clean(picture.title),
                loc="left",
                fontsize=size.font_size + 1,
            )
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
    """Open a figure of our own, with the fonts and the ids of ours while it is drawn."""
    # Slower to import than the rest of a report together.
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


def _make_room_for_legend(picture: Picture, size: Format) -> Format:
    """Make a picture higher by the rows of its legend that would take more than a third of it."""
    if has_words_above(picture):
        return size
    wide, high = size.inches
    missing = _count_legend_rows(picture, size) * _measure_row(size) - high / 3
    return replace(size, inches=(wide, high + max(0.0, missing)))


def _measure_row(size: Format) -> float:
    """Measure a row of the legend, in inches."""
    return size.font_size * 1.75 / POINTS_PER_INCH


def _find_frame(picture: Picture, size: Format) -> tuple[float, float, float, float]:
    """Find the part of a page's picture that its axes enclose: left, bottom, width, height."""
    wide, high = size.inches
    left, right = max(0.72, _measure_row_names(picture, size)), 0.2
    above, below = 0.12, 0.55
    if has_words_above(picture):
        above = 0.5
    else:
        # The legend is below, row by row.
        num_rows = _count_legend_rows(picture, size)
        below += num_rows * _measure_row(size)
    inner_wide = wide - left - right
    inner_high = high - above - below
    return left / wide, below / high, inner_wide / wide, inner_high / high


def _measure_row_names(picture: Picture, size: Format) -> float:
    """Measure the longest name at the left of a picture, in inches, with the room beside it."""
    longest = max(map(len, picture.y.categories), default=0)
    return 0.3 + longest * size.font_size * LETTER_WIDTH / POINTS_PER_INCH


def _count_legend_rows(picture: Picture, size: Format) -> int:
    num_names = sum(series.in_legend for series in picture.series)
    return math.ceil(num_names / size.legend_columns)
