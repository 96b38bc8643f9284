"""Files and folders that come whole or not at all, and what killed processes left of them.

Until it is whole, a file is `.NAME.HOST-PID-TOKEN.unteach-tmp` beside its place. Nobody else names
files so, and the name tells whether its writer still lives. Nothing but such names is ever swept.
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
from typing import Any

from unteach.errors import UserError, name_file

SUFFIX = ".unteach-tmp"
NAME = re.compile(
    rf"\..+\.(?P<host>[0-9a-f]{{6}})-(?P<pid>\d+)-[0-9a-f]{{8}}{re.escape(SUFFIX)}", re.DOTALL
)
LONGEST_TARGET = 180
"""Bytes of a target's name that are in its temporary name: file systems allow 255."""
ABANDONED_AFTER = 24 * 3600
"""Seconds after which a temporary file of another machine is taken for abandoned."""
_being_written: set[str] = set()
"""The temporary names of this process; a later process may have the same number."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it is synced to disk and takes `path`'s
    place at once."""
    make_folder(path.parent)
    remove_stale(path.parent)
    temporary = temporary_of(path)
    with _noted(temporary), name_file(path):
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            # some writers make a file of their own in its place
            temporary.chmod(0o666 & ~current_umask())
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it is synced to disk and takes `folder`'s
    place.

    `folder` may be there only if it is empty: the rename fails otherwise, and nothing is lost.
    """
    make_folder(folder.parent)
    remove_stale(folder.parent)
    temporary = temporary_of(folder)
    with _noted(temporary), name_file(folder):
        try:
            temporary.mkdir()
            yield temporary
            mode = 0o666 & ~current_umask()
            for file in (
                path for path in temporary.rglob("*") if path.is_file() and not path.is_symlink()
            ):
                file.chmod(mode)  # some libraries make theirs for one user alone
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
    write_text(
        path, json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )


def _finite(value: object) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises UserError where the system has no place for it, as
    under /proc."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        raise UserError(f"{folder}: this folder cannot be made there; name another place") from None


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk when this returns."""
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
    """Have everything under a folder on disk, the names too."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir() or path.is_file():
            sync(path)


def rename(path: Path, to: Path) -> None:
    """Rename within a folder, on disk when this returns."""
    path.rename(to)
    sync(to.parent)


def temporary_of(path: Path) -> Path:
    """Give a new temporary name for a file or folder; whoever uses it without `atomic_write`
    removes it himself."""
    target = os.fsencode(path.name)[:LONGEST_TARGET].decode(errors="ignore")
    return path.with_name(f".{target}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")


def remove_stale(folder: Path) -> None:
    """Remove everything that killed processes left half-written right in a folder."""
    for leftover in _temporaries(folder):
        if is_stale(leftover):
            _remove(leftover)


def remove_stale_under(folder: Path) -> None:
    """Remove everything that killed processes left half-written in a folder and in the folders
    below it."""
    for inner in [
        folder,
        *(path for path in folder.rglob("*") if path.is_dir() and not is_temporary(path)),
    ]:
        remove_stale(inner)


def is_temporary(path: Path) -> bool:
    """Say whether a name is one of ours for something half-written."""
    return NAME.fullmatch(path.name) is not None


def is_stale(temporary: Path) -> bool:
    """Say whether the process that was writing this is gone."""
    named = _parsed(temporary)
    if named["host"] != _host():
        with contextlib.suppress(FileNotFoundError):
            return time.time() - temporary.stat().st_mtime > ABANDONED_AFTER
        return False
    pid = int(named["pid"])
    if pid == os.getpid():
        return temporary.name not in _being_written
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _temporaries(folder: Path) -> list[Path]:
    # glob() would read a folder's name as a pattern
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [
            folder / name
            for name in os.listdir(folder)
            if name.endswith(SUFFIX) and NAME.fullmatch(name)
        ]
    return []


def _parsed(temporary: Path) -> dict[str, str]:
    found = NAME.fullmatch(temporary.name)
    assert found is not None
    return found.groupdict()


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


@contextlib.contextmanager
def _noted(temporary: Path) -> Iterator[None]:
    _being_written.add(temporary.name)
    try:
        yield
    finally:
        _being_written.discard(temporary.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
