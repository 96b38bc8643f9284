"""The picture of a run: its loss, the terms of it, and what was evaluated on the way, by step."""

import json
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.atomic import atomic_write

FILE = "loss.png"
INK, SOFT, GRID = "#22262b", "#6a7178", "#efece6"
COLOURS = ("#0f766e", "#b07d12", "#6d5bb0", "#b4453a", "#46515c", "#2f6db0", "#7a8f2a", "#98a0a8")
INCHES, DPI = (9.0, 5.0), 100
ASIDE = {
    "step",
    "epoch",
    "progress",
    "grad_norm",
    "learning_rate",
    "total_flos",
    "num_input_tokens_seen",
}
Curves = dict[str, list[tuple[float, float]]]


def curves(metrics: Path) -> dict[str, Curves]:
    """What a metrics file holds, panel by panel: each value by name, as a list of (step, value).

    loss: the loss and the terms of it; logged: what else a method tells, such as a margin;
    evaluated: what suites give.
    """
    panels: dict[str, Curves] = {"loss": {}, "logged": {}, "evaluated": {}}
    for text in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:  # torn by a kill
            continue
        for name, value in line.items():
            if isinstance(value, int | float) and value == value and (panel := _panel_of(name)):
                panels[panel].setdefault(name.removeprefix("eval_"), []).append(
                    (line["step"], value)
                )
    return {title: shown for title, shown in panels.items() if shown}


def _panel_of(name: str) -> str | None:
    if name.startswith("eval_"):
        return None if name.endswith(("_runtime", "_per_second")) else "evaluated"
    if name in ASIDE or name.startswith("train_"):
        return None
    return "loss" if name == "loss" or name.endswith("_loss") else "logged"


def loss_png(folder: Path) -> Path | None:
    """Draws a run's `loss.png` from its metrics file; None where no loss was logged yet."""
    panels = curves(folder / run_dir.METRICS)
    if "loss" not in panels:
        return None
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.family": "sans-serif", "font.size": 11, "text.parse_math": False}):
        height = INCHES[1] * (0.4 + 0.6 * len(panels))
        figure = Figure(figsize=(INCHES[0], height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        edge = 0.5 / height
        figure.subplots_adjust(left=0.08, right=0.98, bottom=edge, top=1 - edge * 0.7, hspace=0.35)
        for axes, (title, shown) in zip(
            figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
        ):
            _panel(axes, title, shown)
        with atomic_write(folder / FILE) as temporary:
            figure.savefig(temporary, format="png")
    return folder / FILE


def _panel(axes: Any, title: str, shown: Curves) -> None:
    for i, (name, points) in enumerate(shown.items()):
        step, value = zip(*points, strict=True)
        axes.plot(
            step,
            value,
            label=name,
            color=COLOURS[i % len(COLOURS)],
            linewidth=2 if name == "loss" else 1.3,
            marker="o" if len(points) < 30 else None,
            markersize=3,
            linestyle="-" if i < len(COLOURS) else "--",
        )
    axes.set_title(title, loc="left", color=INK, fontsize=12)
    axes.set_xlabel("step", color=SOFT)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=1 if len(shown) < 8 else 2, labelcolor=INK)
