"""Tables to ask about, and `unteach infer` called in the process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows
from tests.doors import infer

Infer = Callable[..., list[dict[str, Any]]]


def questions(count: int) -> list[dict[str, Any]]:
    """Rows of very unequal lengths, each unlike the others."""
    return [
        {"input": f"{'Tell me more of it. ' * (i * 7 % 5)}Who wrote book {i}?", "topic": i % 3}
        for i in range(count)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(model: Path, table: Path, *more: str) -> list[str]:
    return [
        f"model={model}",
        f"input_file={table}",
        *([] if "kind=" in " ".join(more) else ["max_new_tokens=8"]),
        *more,
    ]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "in.jsonl", questions(7))


@pytest.fixture
def ask(tiny_folder: Path, table: Path) -> Infer:
    """Answers the table with the tiny model; the lines of the output."""

    def asked(*more: str, of: Path = table) -> list[dict[str, Any]]:
        return read_rows(infer(*words(tiny_folder, of, *more)))

    return asked
