"""Remove the locks that killed processes left while torch built DeepSpeed's extensions.

Every later start would wait for such a lock without end.
"""

import contextlib
import os
from pathlib import Path

import psutil


def find_build_dir() -> Path:
    """Find where torch builds extensions; each has a folder there, with `lock` in it while one
    process builds."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions")


def remove_abandoned_locks() -> list[Path]:
    """Remove the locks that no process of this machine holds open, and return their paths.

    Of a run over several machines none is removed: the process that holds it may be on another.
    """
    if os.environ.get("LOCAL_WORLD_SIZE", "1") != os.environ.get("WORLD_SIZE", "1"):
        return []
    locks = {lock.resolve() for lock in find_build_dir().glob("**/lock")}
    if not locks:
        return []
    for process in psutil.process_iter():
        # Other users' processes cannot be looked into.
        with contextlib.suppress(psutil.Error, OSError):
            locks -= {Path(file.path) for file in process.open_files()}
    for lock in locks:
        lock.unlink(missing_ok=True)
    return sorted(locks)
