"""Print for a terminal, which can be redrawn in place, and for files and pipes, as plain flushed
lines."""

import errno
import io
import os
import re
import sys
from typing import Any, TypeGuard

EARLIEST_SPEED = 3600.0
"""Seconds over which a live bar measures its speed: with rich's own 30, steps that take longer
would leave the time that remains unknown."""
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of a text, and half characters, which cannot be
printed."""


def is_live() -> bool:
    """Say whether what was printed can be redrawn in place.

    It cannot in a file, a pipe or a notebook, and it should not where NO_COLOR is set or the
    terminal is dumb. Every display asks it: the bar of a training run, the passes of an
    evaluation, the speed of inference, a study's board.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    return sys.stdout.isatty()


class _LastingFile(io.FileIO):
    """A descriptor that takes what is written even after its reader left: printing is not the
    work."""

    def write(self, data: Any) -> int:  # a buffer of any kind
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            # From now on it leads nowhere.
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.fileno())
            os.close(devnull)
            return super().write(data)


_replaced_streams: list[io.TextIOWrapper] = []
"""Kept, because they would close their descriptors when they are collected."""


def survive_closed_pipes() -> None:
    """Go on with the work where the reader of our output leaves (`| head`, a dead `tee`, a closed
    terminal)."""
    if _is_replaceable(sys.stdout, 1):
        sys.stdout = _replace_stream(sys.stdout, 1)
    if _is_replaceable(sys.stderr, 2):
        sys.stderr = _replace_stream(sys.stderr, 2)


def _is_replaceable(stream: object, descriptor: int) -> TypeGuard[io.TextIOWrapper]:
    """Say whether a stream writes to a standard descriptor, and is not replaced yet."""
    if not isinstance(stream, io.TextIOWrapper):
        return False
    if isinstance(getattr(stream.buffer, "raw", None), _LastingFile):
        return False
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _replace_stream(stream: io.TextIOWrapper, descriptor: int) -> io.TextIOWrapper:
    stream.flush()
    _replaced_streams.append(stream)
    buffer = io.BufferedWriter(_LastingFile(descriptor, "w", closefd=False))
    return io.TextIOWrapper(
        buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering
    )


def say(line: str) -> None:
    """Print a line that is there at once, also in a log file; what is quoted in it steers no
    terminal."""
    print(neutralize(line), flush=True)


def neutralize(text: str) -> str:
    """Replace what would steer a terminal, in a text of data or of a model: colours, titles, the
    cursor, bidi marks.

    Line ends and tabs stay.
    """
    return STEERING.sub("\ufffd", text.replace("\r\n", "\n"))


def format_duration(seconds: float) -> str:
    """Write a duration as `0:05`, `12:40` or `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
