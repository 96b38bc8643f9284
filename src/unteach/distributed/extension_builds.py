"""The locks under which torch builds the extensions that DeepSpeed asks for at its start.

Whoever is killed while it builds leaves its lock, and every later start would wait for it without
end.
"""

import contextlib
import os
from pathlib import Path

import psutil


def home() -> Path:
    """Where torch builds extensions; each has a folder of its own, with `lock` in it while one
    process builds."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions")


def release_abandoned() -> list[Path]:
    """Removes the locks that no process of this machine holds open; returns them.

    Of a run over several machines it removes none: the process that holds one may be on another.
    """
    if os.environ.get("LOCAL_WORLD_SIZE", "1") != os.environ.get("WORLD_SIZE", "1"):
        return []
    locks = {lock.resolve() for lock in home().glob("**/lock")}
    for process in psutil.process_iter() if locks else ():
        with contextlib.suppress(psutil.Error, OSError):
            locks -= {Path(file.path) for file in process.open_files()}
    for lock in locks:
        lock.unlink(missing_ok=True)
    return sorted(locks)
