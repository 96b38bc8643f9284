"""`unteach history`: everything that a run logged, one row a step."""

import contextlib
import csv
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unteach import console, json_files, run_dir
from unteach.atomic import atomic_write
from unteach.config.verb_configs import HistoryConfig
from unteach.errors import UserError, describe_missing_extra
from unteach.report.export import neutralize_cell
from unteach.report.table import MISSING
from unteach.wording import format_count

logger = logging.getLogger(__name__)
WANDB = "wandb:"
STATE = "trainer_state.json"
FIRST = ("step", "epoch", "progress", "loss")
"""Columns that come first, where they are there."""
LAST = (
    "epoch",
    "grad_norm",
    "learning_rate",
    "progress",
    "mean_loss",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "total_flos",
)
"""Columns that come last in the printed table."""
SPACE = 3
"""Between two columns of the printed table."""


def run(config: HistoryConfig) -> None:
    """Print what a run logged, or write it to a file."""
    table = get_history(config.runs[0])
    to = config.to
    if to is None:
        _show(table)
        return
    if to == "csv":
        print(console.neutralize(neutralize_cells(table).to_csv(index=False)), end="")
        return
    refuse_other_file(Path(to), list(table.columns))
    with atomic_write(Path(to)) as temporary:
        if to.endswith(".csv"):
            neutralize_cells(table).to_csv(temporary, index=False)
        else:
            table.to_json(temporary, orient="records", lines=True)
    print(f"results: {to} ({format_count(len(table), 'row')})")


def refuse_other_file(file: Path, columns: list[str]) -> None:
    """Raise UserError where a file is there that is no earlier history: it has no steps, or columns
    of its own."""
    if not file.exists():
        return
    with (
        contextlib.suppress(OSError, ValueError, RecursionError),
        file.open(encoding="utf-8", newline="") as opened,
    ):
        first = (
            json.loads(opened.readline())
            if file.suffix == ".jsonl"
            else next(csv.reader(opened), [])
        )
        if "step" in first and set(first) <= set(columns):
            return
    raise UserError(
        f"to={file}: something else is there already; name another file, or move it away"
    )


def get_history(run: str | os.PathLike[str]) -> pandas.DataFrame:
    """Give everything that a run logged: one row a step, one column a value.

    run: a run's folder, a folder with a trainer_state.json, or wandb:ENTITY/PROJECT/ID.
    """
    name = os.fspath(run)
    lines = list(_from_wandb(name) if name.startswith(WANDB) else _from_folder(Path(name)))
    if not lines:
        raise UserError(f"{run}: nothing was logged there")
    steps: dict[Any, dict[str, Any]] = {}
    for line in lines:
        # the last word of a run; a stream may be called train
        if "train_runtime" in line and "train_loss" in line:
            line["mean_loss"] = line.pop("train_loss")
        steps.setdefault(line.get("step"), {}).update(line)
    columns = dict.fromkeys(key for line in lines for key in line)
    ordered = [name for name in FIRST if name in columns] + [
        name for name in columns if name not in FIRST
    ]
    return pandas.DataFrame(list(steps.values()), columns=ordered)


def _from_folder(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics file or of another trainer's state; a line cut off by a kill is
    left out."""
    if (folder / run_dir.METRICS).exists():
        lines, num_torn = json_files.read_log(folder / run_dir.METRICS)
        if num_torn:
            torn = format_count(num_torn, "torn or damaged line")
            logger.info(f"{torn} of {folder / run_dir.METRICS} left out")
        yield from lines
        return
    states = [
        folder / STATE,
        *sorted(folder.glob(f"checkpoint-*/{STATE}"), key=lambda p: int(p.parent.name[11:])),
    ]
    there = [state for state in states if state.exists()]
    if not there:
        nearby = (
            ""
            if folder.is_dir()
            else "; there is no such folder (a run of Weights & Biases is wandb:ENTITY/PROJECT/ID)"
        )
        raise UserError(f"{folder}: holds no {run_dir.METRICS} and no {STATE}{nearby}")
    logged = json_files.read_mapping(there[-1], "the trainer's state").get("log_history")
    yield from (
        line
        for line in (logged if isinstance(logged, list) else [])
        if json_files.is_log_line(line)
    )


def neutralize_cells(table: Any) -> Any:
    """Copy a table whose texts, heads included, no spreadsheet takes for formulas."""
    return table.map(neutralize_cell).rename(columns=neutralize_cell)


def _from_wandb(run: str) -> Iterator[dict[str, Any]]:
    """Every line of a run there: `scan_history` pages through all of them, where `history` draws a
    sample of 500."""
    try:
        import wandb
    except ImportError:
        raise UserError(
            describe_missing_extra("track", "reading runs of Weights & Biases")
        ) from None
    path = run.removeprefix(WANDB)
    if len(path.split("/")) not in (2, 3):
        raise UserError(
            f"{run}: say wandb:ENTITY/PROJECT/ID, or wandb:PROJECT/ID for your own entity (the id, "
            f"not the name)"
        )
    try:
        rows = list(wandb.Api().run(path).scan_history())
    except Exception as error:
        raise UserError(
            f"{run}: Weights & Biases did not give it ({str(error).splitlines()[0]}); `wandb "
            "login`, and take the run's id from its address"
        ) from None
    for row in rows:
        line = {
            key.removeprefix("train/"): value
            for key, value in row.items()
            if not key.startswith("_")
        }
        line = {
            (f"eval_{key[5:]}" if key.startswith("eval/") else key): value
            for key, value in line.items()
        }
        step = line.pop("global_step", row.get("_step"))
        yield {"step": step, **{key: value for key, value in line.items() if value is not None}}


def _show(table: Any) -> None:
    """Prints as many columns as the terminal is wide, and names the others."""
    terminal = Console()
    cells = {
        console.neutralize(name): [
            MISSING if value is None or value != value else _cell(value) for value in table[name]
        ]
        for name in [
            *(n for n in table.columns if n not in LAST),
            *(n for n in table.columns if n in LAST),
        ]
    }
    drawn = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        border_style="dim",
    )
    shown: list[str] = []
    room = terminal.width + SPACE
    for name, column in cells.items():
        width = max(map(len, (name, *column))) + SPACE
        if width > room and shown:
            continue
        room -= width
        shown.append(name)
        drawn.add_column(Text(name), justify="right", no_wrap=True)
    for row in zip(*(cells[name] for name in shown), strict=True):
        drawn.add_row(*map(Text, row))
    terminal.print(
        drawn,
        crop=False,
        no_wrap=True,
        overflow="ignore",
    )
    if left := [name for name in cells if name not in shown]:
        print(f"{format_count(len(left), 'more column')} (to=csv has all): {', '.join(left)}")


def _cell(value: object) -> str:
    is_number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
    return f"{value:.4g}" if is_number else console.neutralize(str(value))
