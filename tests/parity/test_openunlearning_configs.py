"""What OpenUnlearning's experiments compose to, with each of its trainers, beside what they compose
to here."""

import dataclasses
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest

from unteach.config import compose

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "coming-from-openunlearning.md"
RUNS: dict[str, Any] = json.loads(
    Path(__file__).with_name("openunlearning_configs.json").read_text()
)["runs"]
UNSET = "–"
ROW = re.compile(
    r"^\| `(\S+)` \| `(\S+)` \| `((?:method_)?args\.\w+)` \| (.+?) \| (.+?) \| (.+?) \|$",
    re.MULTILINE,
)
REQUIRED = "???"
"""What their composition leaves to the user."""


def table() -> list[tuple[str, ...]]:
    """The rows of the page: experiment, method, key, their value, ours."""
    text = PAGE.read_text(encoding="utf-8").replace("\\|", "\x00")
    return [tuple(cell.replace("\x00", "|") for cell in row[:5]) for row in ROW.findall(text)]


def ours(experiment: str, method: str) -> dict[str, dict[str, Any]]:
    words = [f"experiment={experiment}", "task_name=x", *([f"trainer={method}"] if method else [])]
    if method == "PDU" and not experiment.startswith("unlearn/tofu"):
        words.append("trainer.method_args.retain_loss_eps=1")  # required, there as here
    config = compose.compose("unlearn" if experiment.startswith("unlearn") else "train", words)
    assert config.trainer is not None
    made = config.trainer.method
    values = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    return {"args": config.trainer.args, "method_args": values}


def of(run: str) -> tuple[str, str]:
    experiment, _, word = run.partition(" ")
    return experiment.replace("sustainabilty", "sustainability"), word.removeprefix("trainer=")


def differences(run: str) -> list[tuple[str, ...]]:
    """(experiment, method, key, their value, ours) of every value of theirs that is another
    here."""
    experiment, method = of(run)
    dist = ours(experiment, method)
    found = []
    for section in ("args", "method_args"):
        for name, theirs in RUNS[run][section].items():
            value = dist[section].get(name, UNSET)
            value = list(value) if isinstance(value, tuple) else value
            if value != theirs and not (theirs == REQUIRED and value == 1):
                found.append((experiment, method, f"{section}.{name}", str(theirs), str(value)))
    return found


def test_values_are_theirs_or_stand_in_the_table() -> None:
    """Of every experiment as it is, and of two with each method."""
    whole = ("unlearn/tofu/default", "unlearn/wmdp/default")
    shown = [run for run in RUNS if not of(run)[1] or of(run)[0] in whole]
    assert (
        len(shown) >= 30
        and [one for run in shown for one in differences(run) if not _is_told(one)] == []
    )


@pytest.mark.long
def test_each_row_of_the_table_is_so_and_none_is_missing() -> None:
    found = [one for run in RUNS for one in differences(run)]
    assert [one for one in found if not _is_told(one)] == []
    assert (
        len(table()) > 30
        and [row for row in table() if not any(_says(row, one) for one in found)] == []
    )


def _is_told(difference: tuple[str, ...]) -> bool:
    return any(_says(row, difference) for row in table())


def _says(row: tuple[str, ...], difference: tuple[str, ...]) -> bool:
    """Whether a row of the table is about this difference."""
    experiment, method = (
        fnmatch.fnmatch(difference[0], row[0]),
        fnmatch.fnmatch(difference[1], row[1]),
    )
    return experiment and method and row[2:] == difference[2:]
