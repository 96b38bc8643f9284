"""Write checkpoints that count only once they are whole, and find the one to go on from.

A checkpoint's files are written in place; `COMPLETE.json`, written last and after all of them are
on disk, lists them with their sizes and digests. A folder without it, or whose files do not match
it, is skipped and named. Only what it lists is ever deleted; of a checkpoint that was cut off,
whose folder has `BEGUN.json` since a run of ours made it, everything but the evaluations.
"""

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from unteach import atomic, fingerprints, json_files, run_dir
from unteach.errors import UserError

MARKER, BEGUN = "COMPLETE.json", "BEGUN.json"
STATE = "unteach_state.json"
KEPT = {run_dir.EVALS}
"""What outlives a checkpoint's own files: evaluations made at its step."""
WEIGHTS = ("*.safetensors", "*.bin")
HASHING_THREADS = 4


class FileRecord(TypedDict):
    """What a marker says of one file; earlier versions of unteach listed sizes alone."""

    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class CheckpointPolicy:
    """When checkpoints are written and kept, and when training stops early.

    Attributes:
        limit: whole checkpoints that are kept, beside the best one.
        at_steps: steps after which one is written, whatever `save_strategy` says.
        patience: evaluations in a row without a better one after which training stops; None: never.
        threshold: by how much an evaluation must be better to count.
    """

    limit: int = 1
    at_steps: Sequence[int] = ()
    patience: int | None = None
    threshold: float = 0.0

    def refuse_steps_after(self, num_steps: int) -> None:
        """Raise UserError where a checkpoint is asked for after the last step."""
        last = max(self.at_steps, default=0)
        if last > num_steps:
            raise UserError(
                f"trainer.args.save_at_steps: step {last} is after the last one of this run, "
                f"{num_steps}"
            )


def begin(folder: Path) -> None:
    """Withdraw the marker of a checkpoint that is about to be written, and note that its folder is
    ours."""
    if (folder / MARKER).exists() or not _has_files(folder):
        atomic.write_json(folder / BEGUN, {})
    (folder / MARKER).unlink(missing_ok=True)


def complete(folder: Path) -> None:
    """Put every file of a checkpoint, or of a final model, on disk, then mark it as whole."""
    atomic.sync_tree(folder)
    files = _list_files(folder)
    records: dict[str, FileRecord] = {}
    for file, digest in zip(files, _hash_in_parallel(files), strict=True):
        records[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": digest}
    atomic.write_json(folder / MARKER, records)
    (folder / BEGUN).unlink(missing_ok=True)


def _list_files(folder: Path) -> list[Path]:
    """List the files of a checkpoint, without its markers, its evaluations, and temporary files."""
    left_out = {*KEPT, MARKER, BEGUN}
    files = []
    for path in sorted(folder.rglob("*")):
        top_name = path.relative_to(folder).parts[0]
        if path.is_file() and top_name not in left_out and not atomic.is_temporary(path):
            files.append(path)
    return files


def _hash_in_parallel(files: Iterable[Path]) -> list[str]:
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return list(pool.map(fingerprints.hash_files, files))


def find_fault(folder: Path, by_digest: bool = False) -> str | None:
    """Say why a checkpoint cannot be used; None where it is whole.

    Args:
        folder: the checkpoint.
        by_digest: read every file and compare its sha256; otherwise sizes are enough.
    """
    if not (folder / MARKER).exists():
        return "it was not finished"
    records = _read_marker(folder)
    if records is None:
        return f"its {MARKER} is damaged"
    for name, record in records.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != record["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {record['bytes']}"
    if by_digest:
        names = [name for name, record in records.items() if record["sha256"]]
        digests = _hash_in_parallel(folder / name for name in names)
        for name, digest in zip(names, digests, strict=True):
            if digest != records[name]["sha256"]:
                return f"{name} is damaged: its digest is not the one that it was written with"
    return None


def _read_marker(folder: Path) -> dict[str, FileRecord] | None:
    """Read the records of a checkpoint's marker by file name; None where it is damaged."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    records: dict[str, FileRecord] = {}
    for name, record in content.items():
        if isinstance(record, int):
            record = {"bytes": record, "sha256": None}
        # Files are deleted by these names: none may lead out of the folder.
        is_inside = not name.startswith("/") and ".." not in Path(name).parts
        if not is_inside or not isinstance(record, dict) or set(record) != {"bytes", "sha256"}:
            return None
        records[name] = FileRecord(bytes=record["bytes"], sha256=record["sha256"])
    return records


def find_model_fault(folder: Path) -> str | None:
    """Say why a final model cannot be used; None where it is whole.

    Earlier versions of unteach left no marker beside the weights.
    """
    if (folder / MARKER).exists():
        return find_fault(folder)
    for pattern in WEIGHTS:
        if any(folder.glob(pattern)):
            return None
    return "it holds no weights"


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.name not in KEPT for path in folder.iterdir())


def list_checkpoints(run_folder: Path) -> list[tuple[int, Path]]:
    """List (step, folder) of everything in a run's folder that looks like a checkpoint, newest
    first."""
    checkpoints = []
    for path in run_folder.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and _has_files(path):
            checkpoints.append((int(match[1]), path))
    return sorted(checkpoints, reverse=True)


def find_newest(run_folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that a run can go on from, and a note for each newer one that is
    skipped."""
    notes: list[str] = []
    for _, path in list_checkpoints(run_folder):
        reason = _find_resume_fault(path)
        if reason is None:
            return path, notes
        notes.append(f"skipping the checkpoint {path}: {reason}")
    return None, notes


def _find_resume_fault(folder: Path) -> str | None:
    """Say why a run cannot go on from a checkpoint; None where it can."""
    fault = find_fault(folder, by_digest=True)
    if fault is not None:
        return fault
    if not read_state(folder).get("resumable", True):
        return "it holds the model only (save_only_model)"
    return None


def find_start(run_folder: Path, resume: str) -> tuple[Path | None, list[str]]:
    """Find the checkpoint that a run goes on from, and a note for each that is skipped.

    A checkpoint that `resume` names is where the run starts; interrupted after that, it goes on
    from its own newest.
    """
    newest, notes = find_newest(run_folder)
    is_named = resume not in ("auto", "never")
    if newest is None and is_named:
        return open_named(resume), notes
    return newest, notes


def open_named(resume: str) -> Path:
    """Check that the checkpoint which `resume=PATH` names is whole, and return its folder."""
    folder = Path(resume)
    run_dir.refuse_no_folder(resume)
    reason = _find_resume_fault(folder)
    if reason:
        raise UserError(f"resume={resume}: this checkpoint cannot be used, {reason}")
    return folder


def go_back(run_folder: Path, start: Path) -> None:
    """Take a run back to the checkpoint `start`: delete its later checkpoints, move its final model
    aside."""
    (run_folder / run_dir.DONE).unlink(missing_ok=True)
    final = run_folder / run_dir.FINAL
    if final.exists():
        print(f"going back to {start}: the model made before is now {run_dir.move_aside(final)}")
    # From a checkpoint of another run, none of this one's own is gone on from.
    is_own = start.resolve().parent == run_folder.resolve()
    for step, path in list_checkpoints(run_folder):
        if not is_own or step > parse_step(start):
            clear(path)


def parse_step(folder: Path | None) -> int:
    """Read the step from the name of a checkpoint's folder; 0 for None, a run's beginning."""
    return int(folder.name.rpartition("-")[2]) if folder else 0


def rotate(run_folder: Path, limit: int, best: str | None) -> None:
    """Keep the newest `limit` whole checkpoints and the best one, and delete the others but their
    evaluations."""
    complete_paths = []
    for _, path in list_checkpoints(run_folder):
        if find_fault(path) is None:
            complete_paths.append(path)
    for path in complete_paths[max(1, limit) :]:
        if best is None or path.resolve() != Path(best).resolve():
            clear(path)


def clear(folder: Path) -> None:
    """Delete a checkpoint that a run of ours wrote; leave its evaluations and what is not ours."""
    # The list of what may be deleted goes into BEGUN.json before the marker goes: cut off from
    # here on, the folder itself still says it.
    records = _read_marker(folder)
    if records is not None:
        atomic.write_json(folder / BEGUN, {"files": list(records)})
        (folder / MARKER).unlink()
    if not (folder / BEGUN).exists():
        return

    names = json_files.read_mapping(folder / BEGUN, "the note of a checkpoint").get("files")
    if names is None:  # it was never whole, and all of it is ours
        names = [path.name for path in folder.iterdir() if path.name not in {*KEPT, BEGUN}]
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (folder / BEGUN).unlink(missing_ok=True)

    # Folders that are empty now, the innermost first.
    inner_folders = [path for path in folder.rglob("*") if path.is_dir()]
    for inner in [*sorted(inner_folders, reverse=True), folder]:
        if not any(inner.iterdir()):
            inner.rmdir()


def clear_all(run_folder: Path) -> None:
    """Delete every checkpoint of a finished run; evaluations made during training stay."""
    for _, path in list_checkpoints(run_folder):
        clear(path)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    atomic.write_json(folder / STATE, state)


def read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    return json_files.read_mapping(path, "the checkpoint's state") if path.exists() else {}
