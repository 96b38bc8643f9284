"""The part of the page that says how the models were made: a card a run, and the curves of their
losses."""

import html
from pathlib import Path
from typing import Any

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.colours import TINTS
from unteach.report.recipes import Recipe, loss_curves, read_recipe


def as_html(runs: list[RunResult], tints: dict[str, int], beside: Path) -> str:
    """Write a card for each run whose folder says how it was made; paths are told from the page's
    folder, `beside`."""
    cards = []
    for run in runs:
        recipe = read_recipe(run, beside)
        if recipe is not None:
            cards.append(_card(run, recipe, tints))
    return "".join(cards)


def _card(run: RunResult, recipe: Recipe, tints: dict[str, int]) -> str:
    lines = []
    for what, value in recipe.facts:
        shown = html.escape(value)
        if what in ("command", "folder", "trained in"):
            shown = f"<code>{shown}</code>"
        lines.append(f"<dt>{html.escape(what)}</dt><dd>{shown}</dd>\n")
    head = (
        f'{dot(run, tints)}<span class="name">{html.escape(run.name)}</span> '
        f"{html.escape(recipe.summary)}"
    )
    return f'<details class="made"><summary>{head}</summary><dl>{"".join(lines)}</dl></details>\n'


def dot(run: RunResult, tints: dict[str, int]) -> str:
    """Write the mark that stands before a run's name, in the run's colour."""
    line = "" if run.kind in REFERENCES else f" line{tints[run.name] % len(TINTS)}"
    return f'<span class="dot {html.escape(run.kind)}{line}"></span>'


def losses_as_data(runs: list[RunResult]) -> list[dict[str, Any]]:
    """Give the loss curves as the page's script reads them."""
    return [
        {
            "label": name.replace("_", " "),
            "lines": [[place, steps, values] for place, steps, values in curves],
        }
        for name, curves in loss_curves(runs).items()
    ]
