"""Write files and folders that come whole or not at all, and remove what killed processes left.

Until it is whole, a file is `.NAME.HOST-PID-TOKEN.unteach-tmp` beside its target. Nobody else names
files so, and the name tells whether its writer still lives. Only files of such names are ever
removed.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from unteach.errors import UserError, name_file

SUFFIX = ".unteach-tmp"
TEMPORARY_NAME = re.compile(
    rf"\..+\.(?P<host>[0-9a-f]{{6}})-(?P<pid>\d+)-[0-9a-f]{{8}}{re.escape(SUFFIX)}", re.DOTALL
)
MAX_TARGET_BYTES = 180
"""How much of a target's name is in its temporary name: file systems allow 255 bytes."""
ABANDONED_AFTER = 24 * 3600
"""Seconds after which a temporary file of another machine is taken for abandoned."""
_names_in_use: set[str] = set()
"""The temporary names of this process; a later process may have the same pid."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it is synced to disk and replaces `path`
    at once."""
    make_folder(path.parent)
    remove_stale_temp_files(path.parent)
    temporary = make_temporary_path(path)
    with _register_name(temporary), name_file(path):
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            # Some writers replace it by a file of their own, for one user alone.
            temporary.chmod(0o666 & ~read_umask())
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it is synced to disk and renamed to
    `folder`.

    `folder` may exist only if it is empty: the rename fails otherwise, and nothing is lost.
    """
    make_folder(folder.parent)
    remove_stale_temp_files(folder.parent)
    temporary = make_temporary_path(folder)
    with _register_name(temporary), name_file(folder):
        try:
            temporary.mkdir()
            yield temporary
            # Some libraries make their files for one user alone.
            mode = 0o666 & ~read_umask()
            for path in temporary.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    path.chmod(mode)
            sync_tree(temporary)
            temporary.replace(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all; NaN and infinity, which JSON does not have, become null."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        # Piece by piece: the whole text of a long list takes ten times the file in memory.
        json.dump(replace_nan(value), file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def replace_nan(value: object) -> object:
    """Copy a value of plain types with None for every number that is not finite."""
    if isinstance(value, dict):
        return {str(key): replace_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nan(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        UserError: where the system has no room for it, as under /proc.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        raise UserError(f"{folder}: this folder cannot be made there; name another place") from None
    except (FileExistsError, NotADirectoryError) as error:
        # The error names the folder that was to be made, and not the file that is in the way.
        for path in (folder, *folder.parents):
            if path.exists():
                error.filename = str(path)
                break
        raise


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some file systems refuse to sync a folder; its names are as safe there as they can be.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush everything under a folder to disk, the names too."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir() or path.is_file():
            sync(path)


def rename(path: Path, to: Path) -> None:
    """Rename within a folder, and flush the new name to disk."""
    path.rename(to)
    sync(to.parent)


def make_temporary_path(path: Path) -> Path:
    """Make up a temporary path for a file or folder; one that is used without `atomic_write` has to
    be removed by its user."""
    target = os.fsencode(path.name)[:MAX_TARGET_BYTES].decode(errors="ignore")
    return path.with_name(f".{target}.{_hash_host()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")


def remove_stale_temp_files(folder: Path) -> None:
    """Remove what killed processes left half-written right in a folder."""
    for temporary in _list_temporaries(folder):
        if is_stale(temporary):
            _remove(temporary)


def remove_stale_temp_files_under(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder and in the folders below it."""
    folders = [path for path in folder.rglob("*") if path.is_dir() and not is_temporary(path)]
    for inner in [folder, *folders]:
        remove_stale_temp_files(inner)


def is_temporary(path: Path) -> bool:
    """Say whether a name is one of ours for something half-written."""
    return TEMPORARY_NAME.fullmatch(path.name) is not None


def is_stale(temporary: Path) -> bool:
    """Say whether the process that was writing a temporary file is gone."""
    match = TEMPORARY_NAME.fullmatch(temporary.name)
    assert match is not None
    if match["host"] != _hash_host():
        # Processes of another machine cannot be seen: only the age of the file tells.
        with contextlib.suppress(FileNotFoundError):
            return time.time() - temporary.stat().st_mtime > ABANDONED_AFTER
        return False
    pid = int(match["pid"])
    if pid == os.getpid():
        return temporary.name not in _names_in_use
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_umask() -> int:
    """Read this process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _list_temporaries(folder: Path) -> list[Path]:
    # Not by glob(), which would read the folder's name as a pattern.
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in names if TEMPORARY_NAME.fullmatch(name)]


def _hash_host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


@contextlib.contextmanager
def _register_name(temporary: Path) -> Iterator[None]:
    """Remember a temporary name as one of this process while it is being written."""
    _names_in_use.add(temporary.name)
    try:
        yield
    finally:
        _names_in_use.discard(temporary.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
