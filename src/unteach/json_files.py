"""JSON files, read with a clear word on what is wrong with them, and logs of a line a step."""

import contextlib
import json
from pathlib import Path
from typing import Any, TypeGuard

from unteach.atomic import write_text
from unteach.errors import UserError, explain_unreadable


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file that the user named, or say what is wrong with it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what}: there is no file {path}") from None
    except (ValueError, RecursionError) as error:
        said = explain_unreadable(error)
        raise UserError(
            f"{what}: {path} is not whole JSON ({said}); make it again or name another file"
        ) from None


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file of ours that holds a mapping, or say what is wrong with it."""
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise UserError(
            f"{what}: {path} is damaged: it must hold a mapping, and holds {type(value).__name__}"
        )
    return value


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a metrics file: its whole lines, and how many are torn or of another shape."""
    lines: list[dict[str, Any]] = []
    num_torn = 0
    for line in path.read_bytes().splitlines() if path.exists() else []:
        value = None
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line.decode("utf-8"))
            if b"\\u" in line:  # half a character, which no table can hold
                value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        if is_log_line(value):
            lines.append(value)
        else:
            num_torn += 1
    return lines, num_torn


def is_log_line(value: object) -> TypeGuard[dict[str, Any]]:
    """Say whether a value is a line of a log: what was logged, at a step if it has one."""
    return isinstance(value, dict) and isinstance(value.get("step", 0), int | float)


def truncate_after_step(path: Path, last_step: int) -> None:
    """Drop the lines of a metrics file that will be written again: those of later steps, and what
    follows the line that closes a run. Torn lines go too."""
    lines = [line for line in read_log(path)[0] if line.get("step", 0) <= last_step]
    closing = next(
        (index for index, line in enumerate(lines) if "train_runtime" in line), len(lines)
    )
    _write_lines(path, lines[: closing + 1])


def drop_closing_line(path: Path) -> None:
    """Drop the line that closes a run's metrics file: whoever trains on writes it again."""
    _write_lines(path, [line for line in read_log(path)[0] if "train_runtime" not in line])


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
