"""Checkpoints that count only once they are whole, and which of them to go on from.

A checkpoint's files are written in place; `COMPLETE.json`, written last and after all of them are on disk, lists them
with their sizes. A folder without it, or whose files do not match it, is skipped and named.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from unteach import runs
from unteach.errors import UserError

MARKER = "COMPLETE.json"
STATE = "unteach_state.json"
KEPT = {runs.EVALS}
"""What outlives a checkpoint's own files: evaluations made at its step."""


def begin(folder: Path) -> None:
    """Withdraws the marker of a checkpoint that is about to be written."""
    (folder / MARKER).unlink(missing_ok=True)


def complete(folder: Path) -> None:
    """Puts every file of a checkpoint on disk, then says that it is whole."""
    sizes = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER):
        if file.relative_to(folder).parts[0] in KEPT:
            continue
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        sizes[str(file.relative_to(folder))] = file.stat().st_size
    runs.write_json(folder / MARKER, sizes)


def fault(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None where it is whole."""
    marker = folder / MARKER
    if not marker.exists():
        return "it was not finished"
    try:
        sizes = json.loads(marker.read_text())
    except ValueError:
        return f"its {MARKER} is damaged"
    for name, size in sizes.items():
        file = folder / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def of_run(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything that looks like a checkpoint of a run, newest first."""
    found = [
        (int(m[1]), path) for path in folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return sorted(
        ((step, path) for step, path in found if any(p.name not in KEPT for p in path.iterdir())), reverse=True
    )


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run that can be gone on from, and a sentence for each newer one that is skipped."""
    skipped: list[str] = []
    for _, path in of_run(folder):
        reason = fault(path) or unresumable(path)
        if reason is None:
            return path, skipped
        skipped.append(f"skipping the checkpoint {path}: {reason}")
    return None, skipped


def unresumable(folder: Path) -> str | None:
    """Why a whole checkpoint has too little in it to go on from; None where it has all."""
    return None if read_state(folder).get("resumable", True) else "it holds the model only (save_only_model)"


def start_of(folder: Path, resume: str) -> tuple[Path | None, list[str]]:
    """The checkpoint a run goes on from, and what is said of those that are skipped.

    A checkpoint that `resume` names is where the run starts; interrupted after that, it goes on from its own newest.
    """
    own, skipped = newest(folder)
    return (own or chosen(resume) if resume not in ("auto", "never") else own), skipped


def go_back(folder: Path, start: Path) -> None:
    """Takes a run back to the checkpoint `start`: its later checkpoints go, its final model is moved aside."""
    (folder / runs.DONE).unlink(missing_ok=True)
    if (folder / runs.FINAL).exists():
        print(f"going back to {start}: the model made before is now {runs.move_aside(folder / runs.FINAL)}")
    inside = start.resolve().parent == folder.resolve()
    for step, path in of_run(folder):
        if not inside or step > step_of(start):
            clear(path)


def step_of(folder: Path | None) -> int:
    return int(folder.name.rpartition("-")[2]) if folder else 0


def chosen(path: str) -> Path:
    """The checkpoint that `resume=PATH` names, if it is whole."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"resume={path}: must be auto, never, or a checkpoint folder; there is no such folder")
    if reason := fault(folder) or unresumable(folder):
        raise UserError(f"resume={path}: this checkpoint cannot be used, {reason}")
    return folder


def rotate(folder: Path, limit: int, best: str | None) -> None:
    """Keeps the newest `limit` whole checkpoints and the best one; the evaluations of the others stay."""
    whole = [path for _, path in of_run(folder) if fault(path) is None]
    for path in whole[max(1, limit) :]:
        if best is None or path.resolve() != Path(best).resolve():
            clear(path)


def clear(folder: Path) -> None:
    """Deletes a checkpoint, its marker first, and leaves its evaluations."""
    begin(folder)
    for item in list(folder.iterdir()):
        if item.name in KEPT:
            continue
        shutil.rmtree(item) if item.is_dir() else item.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def clear_all(folder: Path) -> None:
    """Deletes every checkpoint of a finished run; evaluations made during training stay."""
    for _, path in of_run(folder):
        clear(path)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    runs.write_json(folder / STATE, state)


def read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    return runs.read_json(path, "the checkpoint's state") if path.exists() else {}
