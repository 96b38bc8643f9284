"""How what is printed reaches its reader: drawn again in place on a terminal, as plain flushed
lines elsewhere."""

import errno
import io
import os
import re
import sys
from typing import Any

EARLIEST_SPEED = 3600.0
"""Seconds over which a live bar measures its speed: where no step ends within rich's own 30, no
time is told."""

STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of a text, and half characters, which cannot be
printed."""


def is_live() -> bool:
    """Say whether what was printed can be drawn again in place.

    It cannot in a file, a pipe or a notebook, and it should not where NO_COLOR is set or the
    terminal is dumb. Every display asks here: the bar of a training run, the passes of an
    evaluation, the pace of inference, a study's board.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    return sys.stdout.isatty()


class _Lasting(io.FileIO):
    """A descriptor that takes what is written even after its reader left: printing is not the
    work."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


_replaced: list[io.TextIOWrapper] = []
"""Streams whose place is taken; let go, they would close their descriptors."""


def survive_closed_pipes() -> None:
    """Go on with the work where the reader of our output leaves (`| head`, a dead `tee`, a closed
    terminal)."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or isinstance(
            getattr(stream.buffer, "raw", None), _Lasting
        ):
            continue
        try:
            is_ours = stream.fileno() == descriptor
        except (OSError, ValueError):
            continue
        if is_ours:
            stream.flush()
            raw = io.BufferedWriter(_Lasting(descriptor, "w", closefd=False))
            lasting = io.TextIOWrapper(
                raw, stream.encoding, stream.errors, line_buffering=stream.line_buffering
            )
            _replaced.append(stream)
            setattr(sys, name, lasting)


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
