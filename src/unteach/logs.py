"""The package's one logger, `unteach`: what the main process has to say beside its results, on the
standard error output.

Results go to the standard output. A module logs by `logging.getLogger(__name__)`.
"""

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator

from unteach.console import neutralize
from unteach.errors import UserError, describe_unknown

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "quiet": logging.WARNING}
"""What `verbose` takes. quiet: results, warnings and errors alone."""
PREFIXES = {logging.DEBUG: "debug", logging.INFO: "note", logging.WARNING: "warning"}
VERBOSE = "verbose"
"""The word that says how much is logged, for every verb."""
SILENT = logging.CRITICAL + 1
ROOT = logging.getLogger("unteach")


class _StderrHandler(logging.Handler):
    """Write to what is the standard error output at that moment; what is quoted steers no
    terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            prefix = PREFIXES.get(record.levelno, record.levelname.lower())
            text = neutralize(self.format(record))
            print(f"{prefix}: {text}", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def set_verbosity(verbose: str | None = None, is_main: bool = True) -> None:
    """Say how much is logged from now on, in this process.

    Args:
        verbose: `debug`, `info` or `quiet`; None: as it was set before, at first `info`.
        is_main: whether this is the process that speaks for all; the others log nothing.

    Raises:
        UserError: where `verbose` is none of these.
    """
    if verbose is not None:
        _check_verbosity(verbose)
    if not any(isinstance(handler, _StderrHandler) for handler in ROOT.handlers):
        ROOT.addHandler(_StderrHandler())
        ROOT.propagate = False
        ROOT.setLevel(LEVELS["info"])
    if not is_main:
        ROOT.setLevel(SILENT)
    elif verbose is not None:
        ROOT.setLevel(LEVELS[verbose])


def _check_verbosity(verbose: object) -> None:
    """Raise UserError for what `verbose` does not take."""
    if not isinstance(verbose, str) or verbose not in LEVELS:
        unknown = describe_unknown("verbosity", str(verbose), LEVELS)
        raise UserError(f"verbose={verbose}: {unknown}")


def take_verbose(words: Iterable[str]) -> tuple[list[str], str | None]:
    """Take `verbose=` out of the words of a command; give the others, and the last such value.

    Raises:
        UserError: where any such value is none that `verbose` takes.
    """
    verbose = None
    others = []
    for word in words:
        key, equals, value = word.partition("=")
        if key == VERBOSE and equals:
            verbose = value.strip("'\"")
            _check_verbosity(verbose)
        else:
            others.append(word)
    return others, verbose


def spell_verbose() -> list[str]:
    """Spell how much is logged as a word, for a process that carries the same command out."""
    names = [name for name, level in LEVELS.items() if level == ROOT.level]
    return [f"{VERBOSE}={name}" for name in names if name != "info"]


def is_quiet() -> bool:
    """Whether results and errors alone are wanted."""
    return ROOT.getEffectiveLevel() > logging.INFO and bool(ROOT.handlers)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.notes.append(record.getMessage())


@contextlib.contextmanager
def collect_notes() -> Iterator[list[str]]:
    """Within it, collect what is logged instead of showing it."""
    collector = _Collector()
    handlers, level, propagate = ROOT.handlers[:], ROOT.level, ROOT.propagate
    ROOT.handlers[:] = [collector]
    ROOT.propagate = False
    ROOT.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield collector.notes
    finally:
        ROOT.handlers[:] = handlers
        ROOT.propagate = propagate
        ROOT.setLevel(level)
