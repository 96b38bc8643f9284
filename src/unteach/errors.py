"""What a user, a run and a scheduler are told when something stops: one clear message and one exit
code each."""

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator

EXIT_BUG, EXIT_MISTAKE, EXIT_DIVERGED, EXIT_ROWS_FAILED, EXIT_PREEMPTED = 1, 2, 3, 4, 75
EXIT_INTERRUPTED = 130
"""Ended at once by Ctrl-C, as a shell says it."""


class UserError(ValueError):
    """The user's mistake: what, where, what is allowed and how to mend it. Ends the command without
    a traceback."""

    exit_code = EXIT_MISTAKE
    of_all = False
    """whether every process of the run has it, so that the first may say it for all"""


class AbsentData(UserError):
    """Rows that are asked for do not exist where they were looked for (a split that a corpus does
    not have)."""


class Diverged(RuntimeError):
    """A loss or a gradient stopped being finite; raised before the optimiser step that would have
    spread it."""

    exit_code = EXIT_DIVERGED


class RowsFailed(RuntimeError):
    """Some rows have no answer, and their error stands in its place; the same command asks just
    those again."""

    exit_code = EXIT_ROWS_FAILED


class Preempted(RuntimeError):
    """It was asked to stop; all that was done is on disk, and the same command goes on from
    there."""

    exit_code = EXIT_PREEMPTED


class Ended(RuntimeError):
    """The processes that a command started ended badly, and said themselves why; theirs is the exit
    code."""

    def __init__(self, said: str, exit_code: int):
        super().__init__(said)
        self.exit_code = exit_code


NO_ROOM = (
    "no space left on device",
    "file too large",
    "disk quota exceeded",
    "pytorchstreamwriter failed writing",
    "inline_container.cc:672",  # the last bytes of a file that torch writes
)
NO_MEMORY = (
    "out of memory",
    "outofmemoryerror",
    "memoryerror",
    "can't allocate memory",
    "not enough memory",
)
NOT_INSTALLED = (
    "need to install",
    "to be installed",
    "is required by this application",
    "pip install",
)
NETWORK = {
    "HfHubHTTPError",
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "RequestException",
    "TransportError",
}
NETWORK |= {"ConnectTimeout", "ReadTimeout", "ConnectError", "ClientError", "URLError", "gaierror"}
"""What the libraries that talk to the hub raise where it does not answer, by name."""
LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "communicator was aborted",
    "gloo",
)


def chain(error: BaseException) -> list[BaseException]:
    """An error and what it came from, step by step."""
    links = [error]
    while (cause := links[-1].__cause__ or links[-1].__context__) and cause not in links:
        links.append(cause)
    return links


def outside(error: BaseException) -> tuple[str, int] | None:
    """What to say, and the exit code, where the machine failed and not the code: memory, disk,
    network, a process."""
    links = chain(error)
    said = " ".join(f"{type(link).__name__} {link}" for link in links).lower()
    names = {kind.__name__ for link in links for kind in type(link).__mro__}
    if any(sign in said for sign in NO_ROOM):
        file = next(
            (link.filename for link in links if isinstance(link, OSError) and link.filename), None
        )
        file = file or next(
            (note for link in links for note in getattr(link, "__notes__", ())), None
        )
        where = f" ({shorten_name(str(file))}{_describe_mount(str(file))})" if file else ""
        return (
            f"the disk is full{where}. What was whole before is still there: make room and run the "
            "same command again, it goes on from there",
            EXIT_MISTAKE,
        )
    if any(sign in said for sign in NO_MEMORY):
        return (
            "out of memory. Halve trainer.args.per_device_train_batch_size and double "
            "gradient_accumulation_steps (the step stays the same), set "
            "trainer.args.gradient_checkpointing=true or model.pure_bf16=true; in an evaluation "
            "lower eval.<suite>.batch_size or max_length. `unteach check` tells the memory of a "
            "run",
            EXIT_MISTAKE,
        )
    if names & NETWORK:
        return (
            f"the network or the hub failed ({first_line(error)}). Run the same command again; "
            "what was downloaded stays. Without a network, name local folders "
            "(model.model_args.pretrained_model_name_or_path, tofu_path)",
            EXIT_MISTAKE,
        )
    if isinstance(error, ImportError | RuntimeError) and any(
        sign in said for sign in NOT_INSTALLED
    ):
        return f"a package that this asks for is not here: {first_line(error)}", EXIT_MISTAKE
    if isinstance(error, RuntimeError | OSError) and any(sign in said for sign in LOST):
        return (
            "another process of this run is gone (killed, or out of memory: its own output says "
            "more). Run the same command again; it goes on from the last whole checkpoint",
            EXIT_PREEMPTED,
        )
    if isinstance(error, OSError) and error.errno:
        where = f"{shorten_name(str(error.filename))}: " if error.filename else ""
        return where + REMEDIES.get(error.errno, os.strerror(error.errno)), EXIT_MISTAKE
    return None


REMEDIES = {
    errno.ENOENT: "it is not there, and cannot be made there; name another place, or see whether "
    "something removed it",
    errno.ENAMETOOLONG: "this name is longer than the file system takes (most take 255 bytes "
    "between two slashes)",
    errno.ELOOP: "its links lead in a circle",
    errno.EMFILE: "this process has as many open files as it may have; raise the limit (`ulimit -n "
    "4096`)",
    errno.ENFILE: "this machine has as many open files as it may have; end other programs, or "
    "raise fs.file-max",
    errno.EACCES: "this user may not read or write it; mend its rights, or name another place "
    "(paths.output_dir, "
    "paths.cache_dir)",
    errno.EROFS: "nothing can be written there; name another place (paths.output_dir, "
    "paths.cache_dir)",
    errno.EISDIR: "it is a folder, and a file is expected there",
    errno.ENOTDIR: "a file stands where a folder is expected; name another place, or move that "
    "file",
    errno.EEXIST: "a file stands where a folder is expected; name another place, or move that file",
}
REMEDIES[errno.EPERM] = REMEDIES[errno.EACCES]
LONGEST_NAME = 120
"""Characters of a path that a message shows in full."""


def _describe_mount(file: str) -> str:
    """Name the file system that a file is on, where that is not the machine's first."""
    folder = os.path.realpath(os.path.dirname(file) or ".")
    while folder != "/" and not os.path.ismount(folder):
        folder = os.path.dirname(folder)
    return "" if folder == "/" else f", on {folder}"


@contextlib.contextmanager
def name_file(path: object) -> Iterator[None]:
    """Note on whatever goes wrong which file was being written: writing itself does not say it."""
    try:
        yield
    except Exception as error:
        error.add_note(str(path))
        raise


def shorten_name(name: str) -> str:
    """Give a path as a message shows it: one that is too long for a file system by its ends."""
    return name if len(name) <= LONGEST_NAME else f"{name[:60]}…{name[-40:]}"


@contextlib.contextmanager
def refuse_unreadable(where: str, expected: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a parser raises of a broken input into one UserError: the boundary of everything
    that is read.

    Parsers raise more than their own exception: ValueError for a number with too many digits,
    RecursionError for deep nesting, OverflowError and SystemError for values that Python does not
    have, OSError for a damaged file.

    Args:
        where: the file, the line or the word that is read.
        expected: what it should have been, as "cannot be read as YAML".
        kinds: exceptions of the parser's own that are none of these.
    """
    unreadable: tuple[type[Exception], ...] = (
        ValueError,
        RecursionError,
        OverflowError,
        SystemError,
        OSError,
        *kinds,
    )
    try:
        yield
    except UserError:
        raise
    except unreadable as error:
        if isinstance(error, OSError) and error.errno:  # the machine's trouble, and not the input's
            raise
        raise UserError(f"{where}: {expected} ({explain_unreadable(error)})") from None


def refuse_path(name: str, told_by: object) -> None:
    """Raise UserError where a name that a file tells of leads out of that file's folder."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(
            f"{told_by}: names the file {name!r}, and only a file of the same folder may stand "
            f"there"
        )


def explain_unreadable(error: BaseException) -> str:
    """Say in a few words why something could not be read."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if "integer string conversion" in str(error):
        return "a number of more than 4,300 digits"
    return " ".join(str(error).split())[:300] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Give the first line of an error that says something, or the error's kind."""
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


def missing_extra(extra: str, needed_for: str) -> str:
    """Say which optional packages are missing and how to install them.

    unteach is on no package index yet, so extras are installed from a clone.

    Args:
        extra: name under `[project.optional-dependencies]` in pyproject.toml.
        needed_for: what the user asked for, as the subject of the sentence: "answering with vLLM".
    """
    return (
        f"{needed_for} needs packages that are not installed. In a clone of unteach, run: pip "
        f'install ".[{extra}]"'
    )


def nearest(name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The allowed name that `name` was most likely meant to be, or None."""
    by_folded = {option.lower(): option for option in allowed}
    found = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def unknown(kind: str, name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str:
    """One line that refuses `name`, offers the nearest allowed one and lists the rest."""
    allowed = sorted(allowed)
    guess = nearest(name, allowed, cutoff)
    meant = f"; did you mean {guess}?" if guess else "."
    return f"there is no {kind} called {name!r}{meant} Allowed: {', '.join(allowed) or '(none)'}"


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that there is no memory left."""
    message = f"{type(error).__name__} {error}".lower()
    return any(sign in message for sign in NO_MEMORY)
