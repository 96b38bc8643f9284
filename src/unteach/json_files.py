"""Read JSON files with clear messages about what is wrong with them, and logs of one line a
step."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from unteach.atomic import write_text
from unteach.errors import UserError, explain_unreadable


def read_json(path: Path, label: str) -> Any:
    """Read a JSON file that the user named.

    Args:
        path: the file.
        label: by which messages call it.

    Raises:
        UserError: where there is none, or it is not whole.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{label}: there is no file {path}") from None
    except (ValueError, RecursionError) as error:
        reason = explain_unreadable(error)
        raise UserError(
            f"{label}: {path} is not whole JSON ({reason}); make it again or name another file"
        ) from None


def read_mapping(path: Path, label: str) -> dict[str, Any]:
    """Read a JSON file of ours that holds a mapping.

    Raises:
        UserError: where there is none, or it is damaged.
    """
    value = read_json(path, label)
    if not isinstance(value, dict):
        raise UserError(
            f"{label}: {path} is damaged: it must hold a mapping, and holds {type(value).__name__}"
        )
    return value


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a metrics file: its whole lines, and how many are torn or of another shape."""
    if not path.exists():
        return [], 0
    lines: list[dict[str, Any]] = []
    num_torn = 0
    for raw_line in path.read_bytes().splitlines():
        line = _parse_line(raw_line)
        if is_log_line(line):
            lines.append(line)
        else:
            num_torn += 1
    return lines, num_torn


def _parse_line(raw_line: bytes) -> object:
    """Parse a line of JSON; None where it is torn."""
    try:
        line = json.loads(raw_line.decode("utf-8"))
        # An escape may stand for half a character, which no table can hold.
        if b"\\u" in raw_line:
            line = json.loads(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return line


def is_log_line(value: object) -> TypeGuard[dict[str, Any]]:
    """Say whether a value is a line of a log: values by name, with a step if it has one."""
    return isinstance(value, dict) and isinstance(value.get("step", 0), int | float)


def truncate_after_step(path: Path, last_step: int) -> None:
    """Drop the lines of a metrics file that will be written again.

    They are those of later steps, and what follows the line that closes a run. Torn lines go too.
    """
    lines, _ = read_log(path)
    kept = []
    for line in lines:
        if line.get("step", 0) <= last_step:
            kept.append(line)
            if "train_runtime" in line:
                break
    write_lines(path, kept)


def drop_closing_line(path: Path) -> None:
    """Drop the line that closes a run's metrics file: a run that trains on writes it again."""
    lines, _ = read_log(path)
    write_lines(path, [line for line in lines if "train_runtime" not in line])


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
