"""Let one process at a time write a folder or a file.

`.NAME.lock` beside it is held by flock, which the operating system releases when its process ends,
however it ends. Where a file system has no flock (NFS without a lock daemon), `.NAME.owner` is
created exclusively instead, and its time is a heartbeat: the lock of a dead or silent owner is
taken over, with a note. Either file names the owner.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from unteach import atomic
from unteach.errors import UserError

logger = logging.getLogger(__name__)

NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
OWNER = ".owner"
MAX_ATTEMPTS = 3
"""How often a lock is tried: a process that only looks whether it is held holds it for a moment."""
RETRY_SECONDS = 0.02
HEARTBEAT = 20.0
"""Seconds between two heartbeats of an owner whose file system has no flock."""
SILENT_AFTER = 300.0
"""Seconds without a heartbeat after which an owner on another machine is taken for dead."""
CLOCK_TOLERANCE = 2.0
"""Seconds by which the time that a process started and the time that it wrote may be apart: the two
clocks differ by some hundredths."""
UNNAMED = "a process that did not say its name"
_held_descriptors: set[int] = set()


class Busy(UserError):
    """Another process writes there."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
        host: its machine.
        pid: on that machine.
        started: since when it holds the lock, in seconds since 1970.
        token: tells it from its successors.
    """

    host: str
    pid: int
    started: float
    token: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, since {since}"


@contextlib.contextmanager
def own(target: Path) -> Iterator[None]:
    """Hold a folder or a file that this process is about to write.

    Raises:
        Busy: where another process holds it.
    """
    with hold(find_lock(target), f"{target}: another process is writing there"):
        yield


def refuse_unwritable(folder: Path) -> None:
    """Raise what `own` and the writing would raise where a folder cannot be written.

    Nothing of the trial is left.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    lock = find_lock(folder)
    with _temporary_parents(lock.parent):
        _try_file(lock)
        if folder.is_dir():
            _try_file(folder / lock.name)


def refuse_unwritable_beside(target: Path) -> None:
    """Raise what the writing would raise where something that is written beside its name, and then
    takes the name, cannot be.

    Nothing of the trial is left.
    """
    with _temporary_parents(target.parent):
        _try_file(target)


def _try_file(path: Path) -> None:
    """Create an empty file beside a path, and delete it."""
    trial = atomic.make_temporary_path(path)
    try:
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileNotFoundError:
        raise _build_no_file_error(path.parent) from None
    except OSError as error:
        error.filename = str(path.parent)
        raise
    trial.unlink()


def _build_no_file_error(folder: Path) -> UserError:
    return UserError(f"{folder}: no file can be made there; name another place")


def find_lock(target: Path) -> Path:
    """Find the lock of a folder or file: beside it, or in it where this user may write nothing
    beside it."""
    target = target.resolve()
    if target.is_dir() and not os.access(target.parent, os.W_OK):
        return target / ".unteach.lock"
    return target.with_name(f".{target.name}.lock")


@contextlib.contextmanager
def hold(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file.

    Folders that are created for it are deleted again where nothing came into them, as where a
    command is refused.

    Raises:
        Busy: with the refusal and the owner's name, where another process holds it.
    """
    with _temporary_parents(lock.parent), _hold_file(lock, refusal):
        yield


@contextlib.contextmanager
def _temporary_parents(folder: Path) -> Iterator[None]:
    """Create a folder and those above it; afterwards delete the new ones that are empty."""
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    atomic.make_folder(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty, or deleted by another process
            for path in new_folders:
                path.rmdir()


@contextlib.contextmanager
def _hold_file(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file by flock or, where the file system has none, by its existence."""
    me = Owner(socket.gethostname(), os.getpid(), round(time.time(), 3), secrets.token_hex(8))
    try:
        descriptor = _acquire_flock(lock, refusal)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        with _hold_owner_file(lock.with_suffix(OWNER), refusal, me):
            yield
        return
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _as_bytes(me))
        yield
    finally:
        # The file is deleted while the lock is still held, so that no process locks a file that is
        # about to vanish.
        lock.unlink(missing_ok=True)
        _close(descriptor)


def is_held(lock: Path) -> bool:
    """Say whether some process holds a lock file at this moment."""
    owner_file = lock.with_suffix(OWNER)
    if owner_file.exists() and not _is_gone(owner_file, read_owner(owner_file)):
        return True
    try:
        with lock.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
    return False


def read_owner(lock: Path) -> Owner | None:
    """Read who holds a lock file; None where it does not say so."""
    try:
        return Owner(**json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _as_bytes(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()


def _acquire_flock(lock: Path, refusal: str) -> int:
    """Lock the file that has this name now, and return its descriptor, which forked children
    close."""
    attempts_left = MAX_ATTEMPTS
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            # Another process, which was refused, has deleted its empty folder.
            atomic.make_folder(lock.parent)
            attempts_left -= 1
            if not attempts_left:  # the folder exists, and takes no file, as /proc does not
                raise _build_no_file_error(lock.parent) from None
            continue

        _held_descriptors.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _close(descriptor)
            attempts_left -= 1
            if not attempts_left:
                raise _build_busy_error(refusal, read_owner(lock)) from None
            time.sleep(RETRY_SECONDS)
            continue
        except OSError as error:
            _close(descriptor)
            if error.errno in NO_FLOCK:
                lock.unlink(missing_ok=True)  # it locks nothing on this file system
            raise

        # The holder may have deleted the file between the two calls: then another file has its
        # name by now, or none, and this lock keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                return descriptor
        _close(descriptor)


def _close(descriptor: int) -> None:
    _held_descriptors.discard(descriptor)
    os.close(descriptor)


def _close_inherited() -> None:
    """Close the locks in a forked child, which may outlive its parent: they are the parent's."""
    for descriptor in list(_held_descriptors):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held_descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _build_busy_error(refusal: str, owner: Owner | None) -> Busy:
    return Busy(f"{refusal} ({owner or UNNAMED}). Wait until it ends, or name another place")


@contextlib.contextmanager
def _hold_owner_file(lock: Path, refusal: str, me: Owner) -> Iterator[None]:
    """Hold a lock by having created its file, with a heartbeat every HEARTBEAT seconds."""
    while not _create_exclusively(lock, me):
        owner = read_owner(lock)
        if not _is_gone(lock, owner):
            raise _build_busy_error(refusal, owner)
        if _remove_from_gone_owner(lock, owner):
            logger.info(
                f"{lock.name}: its owner is gone ({owner or UNNAMED}); this process takes "
                "the place over"
            )
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(lock, me, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        if read_owner(lock) == me:
            lock.unlink(missing_ok=True)


def _create_exclusively(lock: Path, me: Owner) -> bool:
    """Create the file, whole; False where it exists.

    A hard link is exclusive on every NFS, and never half-written.
    """
    temporary = atomic.make_temporary_path(lock)
    temporary.write_bytes(_as_bytes(me))
    try:
        os.link(temporary, lock)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _create_by_open(lock, me)
    finally:
        temporary.unlink()
    return True


def _create_by_open(lock: Path, me: Owner) -> bool:
    try:
        descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(_as_bytes(me))
    return True


def _beat(lock: Path, me: Owner, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            if read_owner(lock) == me:
                os.utime(lock)


def _is_gone(lock: Path, owner: Owner | None) -> bool:
    """Say whether an owner is dead (on this machine) or has been silent for long (on another, or
    without a name)."""
    if owner is not None and owner.host == socket.gethostname():
        return not atomic.is_alive(owner.pid) or _has_started_after(owner.pid, owner.started)
    try:
        return _read_file_clock(lock.parent) - lock.stat().st_mtime > SILENT_AFTER
    except FileNotFoundError:
        return True


def _has_started_after(pid: int, moment: float) -> bool:
    """Say whether the process of this number started only after a moment: then it is another
    one."""
    try:
        started: float = psutil.Process(pid).create_time()
    except psutil.Error:
        return False
    return started > moment + CLOCK_TOLERANCE


def _read_file_clock(folder: Path) -> float:
    """Read the time by the clock that stamps the folder's files, which may be another machine's."""
    probe = atomic.make_temporary_path(folder / "clock")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _remove_from_gone_owner(lock: Path, owner: Owner | None) -> bool:
    """Remove a gone owner's file; False where another process was quicker."""
    # It is renamed before it is looked at: only one process can do that. Where the file is by now
    # that of a new owner, it gets its name back.
    aside = atomic.make_temporary_path(lock)
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return False
    actual_owner = read_owner(aside)
    if actual_owner != owner and actual_owner is not None:
        with contextlib.suppress(FileExistsError):
            os.link(aside, lock)
    aside.unlink()
    return actual_owner == owner
