"""Runs a command of unteach in a process of its own, and says what it took."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Used:
    """What a command took: seconds on the clock, seconds of all its processors, MiB of resident
    memory at most; and all that it said."""

    wall: float
    cpu: float
    peak: float
    said: str


def run_unteach(
    words: list[str],
    folder: Path,
    src: Path,
    program: tuple[str, ...] = ("-m", "unteach"),
    **variables: str,
) -> Used:
    """Run a command in a folder, by the code under `src`, with one thread and these variables of
    the environment.

    Args:
        program: what Python runs, where that is not unteach itself.

    Raises:
        SystemExit: it fails, but for rows that have no answer.
    """
    environment = {**os.environ, "PYTHONPATH": str(src), "HF_HUB_OFFLINE": "1"}
    environment.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", **variables)
    log = folder / "log.txt"
    began = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *program, *words],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - began
    said = log.read_text()
    if process.returncode not in (0, 4):
        raise SystemExit(f"{' '.join(words)}: {said[-2000:]}")
    return Used(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said)
