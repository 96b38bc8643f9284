"""`unteach history`: everything that a run logged, one row a step."""

import contextlib
import csv
import json
import logging
import os
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

LogLine = dict[str, Any]
"""What was logged at once, by name."""


def run(config: HistoryConfig) -> None:
    """Print what a run logged, or write it to a file."""
    table = get_history(config.runs[0])
    to = config.to
    if to is None:
        _print_table(table)
        return
    if to == "csv":
        text = neutralize_cells(table).to_csv(index=False)
        print(console.neutralize(text), end="")
        return
    refuse_other_file(Path(to), list(table.columns))
    with atomic_write(Path(to)) as temporary:
        if to.endswith(".csv"):
            neutralize_cells(table).to_csv(temporary, index=False)
        else:
            table.to_json(
                temporary,
                orient="records",
                lines=True,
            )
    print(f"results: {to} ({format_count(len(table), 'row')})")


def refuse_other_file(file: Path, columns: list[str]) -> None:
    """Raise UserError where a file is there that is no earlier history: it has no steps, or columns
    of its own."""
    if not file.exists():
        return
    with contextlib.suppress(OSError, ValueError, RecursionError):
        names = _read_column_names(file)
        if "step" in names and names <= set(columns):
            return
    raise UserError(
        f"to={file}: something else is there already; name another file, or move it away"
    )


def _read_column_names(file: Path) -> set[str]:
    """Read the names in the first line of a history, as JSON or as CSV."""
    with file.open(encoding="utf-8", newline="") as opened:
        if file.suffix != ".jsonl":
            return set(next(csv.reader(opened), []))
        first = json.loads(opened.readline())
        return set(first) if isinstance(first, dict) else set()


def get_history(run: str | os.PathLike[str]) -> pandas.DataFrame:
    """Give everything that a run logged: one row a step, one column a value.

    Args:
        run: a run's folder, a folder with a trainer_state.json, or wandb:ENTITY/PROJECT/ID.

    Raises:
        UserError: nothing was logged there.
    """
    name = os.fspath(run)
    lines = _read_wandb(name) if name.startswith(WANDB) else _read_folder(Path(name))
    if not lines:
        raise UserError(f"{run}: nothing was logged there")

    # A step may have several lines: one of training, one of each evaluation.
    steps: dict[Any, LogLine] = {}
    columns: dict[str, None] = {}
    for line in lines:
        # the last word of a run; a stream may be called train
        if "train_runtime" in line and "train_loss" in line:
            line["mean_loss"] = line.pop("train_loss")
        row = steps.setdefault(line.get("step"), {})
        row.update(line)
        columns.update(dict.fromkeys(line))
    first = [name for name in FIRST if name in columns]
    others = [name for name in columns if name not in FIRST]
    return pandas.DataFrame(list(steps.values()), columns=[*first, *others])


def _read_folder(folder: Path) -> list[LogLine]:
    """Read the lines of a run's metrics file or of another trainer's state; a line cut off by a
    kill is left out."""
    metrics_file = folder / run_dir.METRICS
    if metrics_file.exists():
        lines, num_torn = json_files.read_log(metrics_file)
        if num_torn:
            torn = format_count(num_torn, "torn or damaged line")
            logger.info(f"{torn} of {metrics_file} left out")
        return lines

    state = _find_trainer_state(folder)
    if state is None:
        nearby = ""
        if not folder.is_dir():
            nearby = (
                "; there is no such folder (a run of Weights & Biases is wandb:ENTITY/PROJECT/ID)"
            )
        raise UserError(f"{folder}: holds no {run_dir.METRICS} and no {STATE}{nearby}")
    logged = json_files.read_mapping(state, "the trainer's state").get("log_history")
    if not isinstance(logged, list):
        return []
    return [line for line in logged if json_files.is_log_line(line)]


def _find_trainer_state(folder: Path) -> Path | None:
    """Find the state of the newest checkpoint, or the folder's own; None where there is none."""
    states = sorted(
        folder.glob(f"checkpoint-*/{STATE}"),
        key=lambda state: int(state.parent.name.removeprefix("checkpoint-")),
    )
    if states:
        return states[-1]
    own = folder / STATE
    return own if own.exists() else None


def neutralize_cells(table: pandas.DataFrame) -> pandas.DataFrame:
    """Copy a table whose texts, heads included, no spreadsheet takes for formulas."""
    return table.map(neutralize_cell).rename(columns=neutralize_cell)


def _read_wandb(run: str) -> list[LogLine]:
    """Read every line of a run there: `scan_history` pages through all of them, where `history`
    draws a sample of 500."""
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
    return [_rename_wandb_row(row) for row in rows]


def _rename_wandb_row(row: LogLine) -> LogLine:
    """Call a row's values as a run's own log does, and leave out what it does not have."""
    line: LogLine = {}
    for key, value in row.items():
        if key.startswith("_"):
            continue
        name = key.removeprefix("train/")
        if name.startswith("eval/"):
            name = f"eval_{name.removeprefix('eval/')}"
        line[name] = value
    step = line.pop("global_step", row.get("_step"))
    known = {name: value for name, value in line.items() if value is not None}
    return {"step": step, **known}


def _print_table(table: pandas.DataFrame) -> None:
    """Print as many columns as the terminal is wide, and name the others."""
    terminal = Console()
    first = [name for name in table.columns if name not in LAST]
    last = [name for name in table.columns if name in LAST]
    cells: dict[str, list[str]] = {}
    for name in (*first, *last):
        cells[console.neutralize(name)] = [_format_cell(value) for value in table[name]]

    printed = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        border_style="dim",
    )
    columns: list[list[str]] = []
    left_out: list[str] = []
    room = terminal.width + SPACE
    for name, column in cells.items():
        width = max(map(len, (name, *column))) + SPACE
        if width > room and columns:
            left_out.append(name)
            continue
        room -= width
        columns.append(column)
        printed.add_column(
            Text(name),
            justify="right",
            no_wrap=True,
        )
    for row in zip(*columns, strict=True):
        printed.add_row(*map(Text, row))
    terminal.print(
        printed,
        crop=False,
        no_wrap=True,
        overflow="ignore",
    )
    if left_out:
        count = format_count(len(left_out), "more column")
        print(f"{count} (to=csv has all): {', '.join(left_out)}")


def _format_cell(value: object) -> str:
    """Write a value shortly; a dash of null and of what is no number."""
    if value is None or value != value:
        return MISSING
    is_number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
    return f"{value:.4g}" if is_number else console.neutralize(str(value))
