"""One writer at a time: who holds a folder or a file, and how that is known.

`.NAME.lock` beside the place is held by flock, which the operating system lets go of when its
process ends, however it ends. Where a file system has no flock (NFS without a lock daemon),
`.NAME.owner` is made exclusively instead, and its time is a sign of life: a dead or silent owner's
place is taken over, and said. Either file names the owner.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from unteach import atomic, console
from unteach.errors import UserError

NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
OWNER = ".owner"
LOOKS = 3
"""How often a lock is asked for: whoever only looks whether it is held, holds it for a moment."""
HEARTBEAT = 20.0
"""Seconds between two signs of life of an owner whose file system has no flock."""
SILENT_AFTER = 300.0
"""Seconds without a sign of life after which an owner on another machine is taken for dead."""
_held_descriptors: set[int] = set()


class Busy(UserError):
    """Another process writes there."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a place, and since when, in seconds since 1970. token tells it from
    its successors."""

    host: str
    pid: int
    started: float
    token: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, since {since}"


@contextlib.contextmanager
def own(place: Path) -> Iterator[None]:
    """Hold a folder or a file that this process is about to write. Raises Busy where another
    process does."""
    with hold(lock_of(place), f"{place}: another process is writing there"):
        yield


def refuse_unwritable(place: Path) -> None:
    """Raise what `own` and the writing would raise where a folder cannot be written; nothing of the
    trial is left."""
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    lock = lock_of(place)
    with _made_folders(lock.parent):
        _try_file(lock)
        if place.is_dir():
            _try_file(place / lock.name)


def _try_file(path: Path) -> None:
    """Make an empty file beside a path and take it away."""
    trial = atomic.temporary_of(path)
    try:
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileNotFoundError:
        raise _takes_no_file(path.parent) from None
    except OSError as error:
        error.filename = str(path.parent)
        raise
    trial.unlink()


def _takes_no_file(folder: Path) -> UserError:
    return UserError(f"{folder}: no file can be made there; name another place")


def lock_of(place: Path) -> Path:
    """The lock of a place: beside it, or in it where this user may write nothing beside it."""
    place = place.resolve()
    if place.is_dir() and not os.access(place.parent, os.W_OK):
        return place / ".unteach.lock"
    return place.with_name(f".{place.name}.lock")


@contextlib.contextmanager
def hold(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file. Raises Busy with the refusal and the owner's name where another process
    does.

    Folders that are made for it go again where nothing came into them, as where a command is
    refused.
    """
    with _made_folders(lock.parent), _held(lock, refusal):
        yield


@contextlib.contextmanager
def _made_folders(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; afterwards take those away that were made and are empty."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    atomic.make_folder(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty, or taken away by another
            for one in made:
                one.rmdir()


@contextlib.contextmanager
def _held(lock: Path, refusal: str) -> Iterator[None]:
    me = Owner(socket.gethostname(), os.getpid(), round(time.time(), 3), secrets.token_hex(8))
    try:
        descriptor = _flock(lock, refusal)
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
        # The name goes while the lock is still held, so nobody can lock a file that is about to
        # vanish unnoticed.
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
    """Who holds a lock file, as far as it says so."""
    try:
        return Owner(**json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _as_bytes(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()


def _flock(lock: Path, refusal: str) -> int:
    """Lock the file that stands under this name now; gives its descriptor, which forked children
    close."""
    looks_left = LOOKS
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process, which was refused, took its empty folder away
            atomic.make_folder(lock.parent)
            looks_left -= 1
            if not looks_left:  # the folder is there, and takes no file, as /proc does not
                raise _takes_no_file(lock.parent) from None
            continue
        _held_descriptors.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _close(descriptor)
            looks_left -= 1
            if not looks_left:
                raise _busy(refusal, read_owner(lock)) from None
            time.sleep(0.02)
            continue
        except OSError as error:
            _close(descriptor)
            if error.errno in NO_FLOCK:
                lock.unlink(missing_ok=True)  # it locks nothing here
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                return descriptor
        _close(descriptor)  # its holder took the name away meanwhile


def _close(descriptor: int) -> None:
    _held_descriptors.discard(descriptor)
    os.close(descriptor)


def _close_inherited() -> None:
    """In a forked child, which may outlive its parent: the lock is the parent's alone."""
    for descriptor in list(_held_descriptors):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held_descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _busy(refusal: str, owner: Owner | None) -> Busy:
    who = str(owner) if owner else "a process that did not say its name"
    return Busy(f"{refusal} ({who}). Wait until it ends, or name another place")


@contextlib.contextmanager
def _hold_owner_file(lock: Path, refusal: str, me: Owner) -> Iterator[None]:
    """Hold a lock by being the one who made its file, with a sign of life every HEARTBEAT
    seconds."""
    while not _make_exclusively(lock, me):
        owner = read_owner(lock)
        if not _is_gone(lock, owner):
            raise _busy(refusal, owner)
        if _take_away(lock, owner):
            said = str(owner) if owner else "a process that did not say its name"
            console.say(
                f"note: {lock.name}: its owner is gone ({said}); this process takes the place over"
            )
    ended = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(lock, me, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if read_owner(lock) == me:
            lock.unlink(missing_ok=True)


def _make_exclusively(lock: Path, me: Owner) -> bool:
    """Make the file, whole; False where it is there. A hard link is exclusive on every NFS, and
    never half-written."""
    written = atomic.temporary_of(lock)
    written.write_bytes(_as_bytes(me))
    try:
        os.link(written, lock)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _make_by_open(lock, me)
    finally:
        written.unlink()
    return True


def _make_by_open(lock: Path, me: Owner) -> bool:
    try:
        descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(_as_bytes(me))
    return True


def _keep_alive(lock: Path, me: Owner, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            if read_owner(lock) == me:
                os.utime(lock)


def _is_gone(lock: Path, owner: Owner | None) -> bool:
    """Whether an owner is dead (on this machine) or has been silent for long (on another, or
    without a name)."""
    if owner is not None and owner.host == socket.gethostname():
        return not atomic.is_alive(owner.pid) or _began_after(owner.pid, owner.started)
    try:
        return _now_of(lock.parent) - lock.stat().st_mtime > SILENT_AFTER
    except FileNotFoundError:
        return True


def _began_after(pid: int, moment: float) -> bool:
    """Whether a process with this number began only after a moment, so that it is another one."""
    try:
        began: float = psutil.Process(pid).create_time()
    except psutil.Error:
        return False
    return began > moment + 2.0  # the two clocks differ by some hundredths of a second


def _now_of(folder: Path) -> float:
    """What time it is by the clock that stamps the folder's files: another machine's may be
    wrong."""
    probe = atomic.temporary_of(folder / "clock")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _take_away(lock: Path, owner: Owner | None) -> bool:
    """Take a gone owner's file away; False where somebody else was quicker, whose file is given
    back."""
    aside = atomic.temporary_of(lock)
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return False
    if (taken := read_owner(aside)) == owner:
        aside.unlink()
        return True
    if taken is not None:
        with contextlib.suppress(FileExistsError):
            os.link(aside, lock)
    aside.unlink()
    return False
