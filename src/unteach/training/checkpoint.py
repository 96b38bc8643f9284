"""Checkpoints that count only once they are whole, and which of them to go on from.

A checkpoint's files are written in place; `COMPLETE.json`, written last and after all of them are
on disk, lists them with their sizes and digests. A folder without it, or whose files do not match
it, is skipped and named. Only what it lists is ever deleted; of a checkpoint that was cut off,
whose folder `BEGUN.json` says that a run of ours made it, all but the evaluations.
"""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files, run_dir
from unteach.errors import UserError

MARKER, BEGUN = "COMPLETE.json", "BEGUN.json"
STATE = "unteach_state.json"
KEPT = {run_dir.EVALS}
"""What outlives a checkpoint's own files: evaluations made at its step."""


WEIGHTS = ("*.safetensors", "*.bin")
HASHING_THREADS = 4


def begin(folder: Path) -> None:
    """Withdraw the marker of a checkpoint that is about to be written, and note that its folder is
    ours."""
    if (folder / MARKER).exists() or not _has_files(folder):
        atomic.write_json(folder / BEGUN, {})
    (folder / MARKER).unlink(missing_ok=True)


def complete(folder: Path) -> None:
    """Put every file of a checkpoint, or of a final model, on disk, then say that it is whole."""
    atomic.sync_tree(folder)
    files = _files_of(folder)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        digests = list(pool.map(fingerprints.hash_files, files))
    listed = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": digest}
        for file, digest in zip(files, digests, strict=True)
    }
    atomic.write_json(folder / MARKER, listed)
    (folder / BEGUN).unlink(missing_ok=True)


def _files_of(folder: Path) -> list[Path]:
    """The files of a checkpoint, without its markers, its evaluations, and what is half-written."""
    found = []
    for path in sorted(folder.rglob("*")):
        is_apart = path.relative_to(folder).parts[0] in {
            *KEPT,
            MARKER,
            BEGUN,
        } or atomic.is_temporary(path)
        if path.is_file() and not is_apart:
            found.append(path)
    return found


def fault(folder: Path, by_digest: bool = False) -> str | None:
    """Why a checkpoint cannot be used; None where it is whole.

    by_digest: read every file and compare its sha256; otherwise sizes are enough.
    """
    if not (folder / MARKER).exists():
        return "it was not finished"
    listed = _listed(folder)
    if listed is None:
        return f"its {MARKER} is damaged"
    for name, told in listed.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != told["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {told['bytes']}"
    if by_digest:
        checked = [name for name, told in listed.items() if told["sha256"]]
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            digests = list(pool.map(lambda name: fingerprints.hash_files(folder / name), checked))
        for name, digest in zip(checked, digests, strict=True):
            if digest != listed[name]["sha256"]:
                return f"{name} is damaged: its digest is not the one that it was written with"
    return None


def _listed(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What a checkpoint's marker lists; None where it is damaged. Earlier versions listed sizes
    alone."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    listed: dict[str, dict[str, Any]] = {}
    for name, told in content.items():
        entry = {"bytes": told, "sha256": None} if isinstance(told, int) else told
        is_inside = not name.startswith("/") and ".." not in Path(name).parts
        if not is_inside or not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            return None
        listed[name] = entry
    return listed


def model_fault(folder: Path) -> str | None:
    """Why a final model cannot be used; None where it is whole, or of a version that left no marker
    beside weights."""
    if (folder / MARKER).exists():
        return fault(folder)
    has_weights = any(file for pattern in WEIGHTS for file in folder.glob(pattern))
    return None if has_weights else "it holds no weights"


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.name not in KEPT for path in folder.iterdir())


def of_run(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything that looks like a checkpoint of a run, newest first."""
    found = []
    for path in folder.glob("checkpoint-*"):
        numbered = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if numbered and _has_files(path):
            found.append((int(numbered[1]), path))
    return sorted(found, reverse=True)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run that can be gone on from, and a sentence for each newer one
    that is skipped."""
    skipped: list[str] = []
    for _, path in of_run(folder):
        reason = fault(path, by_digest=True) or unresumable(path)
        if reason is None:
            return path, skipped
        skipped.append(f"skipping the checkpoint {path}: {reason}")
    return None, skipped


def unresumable(folder: Path) -> str | None:
    """Why a whole checkpoint has too little in it to go on from; None where it has all."""
    return (
        None
        if read_state(folder).get("resumable", True)
        else "it holds the model only (save_only_model)"
    )


def start_of(folder: Path, resume: str) -> tuple[Path | None, list[str]]:
    """The checkpoint a run goes on from, and what is said of those that are skipped.

    A checkpoint that `resume` names is where the run starts; interrupted after that, it goes on
    from its own newest.
    """
    own, skipped = newest(folder)
    return (own or chosen(resume) if resume not in ("auto", "never") else own), skipped


def go_back(folder: Path, start: Path) -> None:
    """Takes a run back to the checkpoint `start`: its later checkpoints go, its final model is
    moved aside."""
    (folder / run_dir.DONE).unlink(missing_ok=True)
    if (folder / run_dir.FINAL).exists():
        print(
            f"going back to {start}: the model made before is now "
            f"{run_dir.move_aside(folder / run_dir.FINAL)}"
        )
    inside = start.resolve().parent == folder.resolve()
    for step, path in of_run(folder):
        if not inside or step > step_of(start):
            clear(path)


def step_of(folder: Path | None) -> int:
    return int(folder.name.rpartition("-")[2]) if folder else 0


def chosen(path: str) -> Path:
    """The checkpoint that `resume=PATH` names, if it is whole."""
    folder = Path(path)
    run_dir.refuse_no_folder(path)
    if reason := fault(folder, by_digest=True) or unresumable(folder):
        raise UserError(f"resume={path}: this checkpoint cannot be used, {reason}")
    return folder


def rotate(folder: Path, limit: int, best: str | None) -> None:
    """Keeps the newest `limit` whole checkpoints and the best one; the evaluations of the others
    stay."""
    whole = [path for _, path in of_run(folder) if fault(path) is None]
    for path in whole[max(1, limit) :]:
        if best is None or path.resolve() != Path(best).resolve():
            clear(path)


def clear(folder: Path) -> None:
    """Delete a checkpoint that a run of ours wrote, its marker last, and leave its evaluations and
    what is not ours."""
    listed = _listed(folder)
    if listed is not None:
        # Cut off from here on, the folder says itself what of it may go.
        atomic.write_json(folder / BEGUN, {"files": list(listed)})
        (folder / MARKER).unlink()
    if not (folder / BEGUN).exists():
        return
    names = json_files.read_mapping(folder / BEGUN, "the note of a checkpoint").get("files")
    if names is None:
        names = [path.name for path in folder.iterdir() if path.name not in {*KEPT, BEGUN}]
    doomed = [folder / name for name in names]
    for path in doomed:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (folder / BEGUN).unlink(missing_ok=True)
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(inner.iterdir()):
            inner.rmdir()
    if not any(folder.iterdir()):
        folder.rmdir()


def clear_all(folder: Path) -> None:
    """Delete every checkpoint of a finished run; evaluations made during training stay."""
    for _, path in of_run(folder):
        clear(path)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    atomic.write_json(folder / STATE, state)


def read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    return json_files.read_mapping(path, "the checkpoint's state") if path.exists() else {}
