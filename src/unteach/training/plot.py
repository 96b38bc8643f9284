"""Draw a run's loss, its terms, and what was evaluated on the way, by step."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unteach import run_dir
from unteach.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "loss.png"
INK, SOFT, GRID = "#22262b", "#6a7178", "#efece6"
COLOURS = ("#0f766e", "#b07d12", "#6d5bb0", "#b4453a", "#46515c", "#2f6db0", "#7a8f2a", "#98a0a8")
INCHES, DPI = (9.0, 5.0), 100
NOT_DRAWN = {
    "step",
    "epoch",
    "progress",
    "grad_norm",
    "learning_rate",
    "total_flos",
    "num_input_tokens_seen",
}
"""Logged names that no panel shows."""
Curves = dict[str, list[tuple[float, float]]]
"""(step, value) of each value by its name."""
Panel = Literal["loss", "logged", "evaluated"]


def read_curves(metrics_path: Path) -> dict[Panel, Curves]:
    """Read the curves of a metrics file, panel by panel.

    Returns:
        The panels that have a curve: `loss`, the loss and its terms; `logged`, what else a method
        reports, such as a margin; `evaluated`, what suites and validation report.
    """
    panels: dict[Panel, Curves] = {"loss": {}, "logged": {}, "evaluated": {}}
    text = metrics_path.read_text(encoding="utf-8") if metrics_path.exists() else ""
    for raw_line in text.splitlines():
        try:
            line = json.loads(raw_line)
        except ValueError:  # torn by a kill
            continue
        for name, value in line.items():
            panel = _choose_panel(name)
            is_number = isinstance(value, int | float) and value == value  # NaN is no number
            if panel is None or not is_number:
                continue
            points = panels[panel].setdefault(name.removeprefix("eval_"), [])
            points.append((line["step"], value))
    return {panel: curves for panel, curves in panels.items() if curves}


def _choose_panel(name: str) -> Panel | None:
    """Choose the panel that a logged name is drawn in; None where it is drawn in none."""
    if name.startswith("eval_"):
        is_speed = name.endswith(("_runtime", "_per_second"))
        return None if is_speed else "evaluated"
    if name in NOT_DRAWN or name.startswith("train_"):
        return None
    if name == "loss" or name.endswith("_loss"):
        return "loss"
    return "logged"


def draw_loss(run_folder: Path) -> Path | None:
    """Draw a run's `loss.png` from its metrics file; None where no loss has been logged yet."""
    panels = read_curves(run_folder / run_dir.METRICS)
    if "loss" not in panels:
        return None
    # Matplotlib takes a second to import, and a run of no step needs none of it.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.family": "sans-serif", "font.size": 11, "text.parse_math": False}):
        height = INCHES[1] * (0.4 + 0.6 * len(panels))
        figure = Figure(figsize=(INCHES[0], height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        edge = 0.5 / height
        figure.subplots_adjust(left=0.08, right=0.98, bottom=edge, top=1 - edge * 0.7, hspace=0.35)
        column_of_axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for axes, (title, curves) in zip(column_of_axes, panels.items(), strict=True):
            _draw_panel(axes, title, curves)
        with atomic_write(run_folder / FILE) as temporary:
            figure.savefig(temporary, format="png")
    return run_folder / FILE


def _draw_panel(axes: "Axes", title: str, curves: Curves) -> None:
    for curve_index, (name, points) in enumerate(curves.items()):
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps,
            values,
            label=name,
            color=COLOURS[curve_index % len(COLOURS)],
            linewidth=2 if name == "loss" else 1.3,
            marker="o" if len(points) < 30 else None,
            markersize=3,
            linestyle="-" if curve_index < len(COLOURS) else "--",
        )
    axes.set_title(title, loc="left", color=INK, fontsize=12)
    axes.set_xlabel("step", color=SOFT)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    num_columns = 1 if len(curves) < 8 else 2
    axes.legend(frameon=False, fontsize=9, ncols=num_columns, labelcolor=INK)
