"""One command in a forked child of this process, in which everything is imported already."""

import contextlib
import io
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unteach import cli

MEMORY = 16 << 30
"""Bytes of address space that a child may take: what wants more is out of memory, and not this
machine."""
LONGEST_OUTPUT = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, or below zero the signal that ended it, and what it
    printed."""

    code: int
    output: str
    is_late: bool = False

    @property
    def is_fault(self) -> bool:
        """Whether it ended in a way that no input may cause."""
        return (
            self.is_late
            or self.code < 0
            or self.code == 1
            or "Traceback (most recent call last)" in self.output
        )

    @property
    def kind(self) -> str:
        """What tells this fault from others: the last line of its traceback, or its signal."""
        if self.is_late:
            return "no end"
        if self.code < 0:
            return signal.Signals(-self.code).name
        lines = [
            line
            for line in self.output.splitlines()
            if line and not line.startswith((" ", "unteach"))
        ]
        places = [
            line.split(", in ")[0]
            for line in self.output.splitlines()
            if line.startswith("  File ")
        ]
        own = [place for place in places if "/unteach/" in place]
        return f"{(lines or ['?'])[-1][:80]} at {(own or places or ['?'])[-1].strip()}"


def warm_up() -> None:
    """Import what commands import, so that a child need not."""
    import datasets  # noqa: F401
    import hydra  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import unteach.studies.study_file
    import unteach.verbs.check
    import unteach.verbs.infer
    import unteach.verbs.report
    import unteach.verbs.tokenize
    import unteach.verbs.train  # noqa: F401

    torch.set_num_threads(1)


def run_forked(action: Callable[[], None], folder: Path, seconds: float = 60.0) -> Outcome:
    """Let a child carry out an action as `unteach` does a command, with `folder` as its current
    folder."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _become_command(action, folder, writing)
    os.close(writing)
    output, is_late = _read(reading, time.monotonic() + seconds)
    if is_late:
        os.killpg(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, output.decode(errors="replace"), is_late)


def _become_command(action: Callable[[], None], folder: Path, writing: int) -> None:
    """Be the command; never come back."""
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        # The streams of the parent may be somebody's who captures them.
        sys.stdout = io.TextIOWrapper(
            os.fdopen(1, "wb", closefd=False),
            encoding="utf-8",
            errors="replace",
            line_buffering=True,
        )
        sys.stderr = io.TextIOWrapper(
            os.fdopen(2, "wb", closefd=False),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        cli._command = lambda words: action()
        try:
            cli.main([])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _read(reading: int, until: float) -> tuple[bytes, bool]:
    """Give what comes until the other side ends, and whether it did not in time."""
    chunks, length = list[bytes](), 0
    while (left := until - time.monotonic()) > 0:
        if not select.select([reading], [], [], left)[0]:
            break
        chunk = os.read(reading, 65536)
        if not chunk:
            return b"".join(chunks), False
        if length < LONGEST_OUTPUT:
            chunks.append(chunk)
            length += len(chunk)
    return b"".join(chunks), True


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """Give an empty folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="unteach-fuzz-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
