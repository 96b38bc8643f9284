"""The errors that end a command, each with one clear message for the user and one exit code for a
scheduler."""

import contextlib
import difflib
import errno
import importlib.util
import os
from collections.abc import Iterable, Iterator

EXIT_BUG, EXIT_MISTAKE, EXIT_DIVERGED, EXIT_ROWS_FAILED, EXIT_PREEMPTED = 1, 2, 3, 4, 75
EXIT_LEAK = 5
"""An audit found more than its `fail_if` allows."""
EXIT_INTERRUPTED = 130
"""Ended at once by Ctrl-C, as shells number it."""


class UserError(ValueError):
    """The user's mistake: what, where, what is allowed and how to mend it. Ends the command without
    a traceback."""

    exit_code = EXIT_MISTAKE
    of_all = False
    """whether every process of the run raises it, so that the main one may print it for all"""


class AbsentData(UserError):
    """Rows do not exist where they were looked for, such as a split that a corpus does not have."""


class Diverged(RuntimeError):
    """A loss or a gradient stopped being finite; raised before the optimiser step that would have
    spread it."""

    exit_code = EXIT_DIVERGED


class RowsFailed(RuntimeError):
    """Some rows have an error in place of an answer; the same command asks just those again."""

    exit_code = EXIT_ROWS_FAILED


class LeakFound(RuntimeError):
    """An audit found more than its condition allows; all results are written."""

    exit_code = EXIT_LEAK


class NotForgotten(RuntimeError):
    """No model that was tried meets both the budget and the audit; the best of them is kept, under
    another name."""

    exit_code = EXIT_ROWS_FAILED


class Preempted(RuntimeError):
    """The run was asked to stop; all that was done is on disk, and the same command goes on from
    there."""

    exit_code = EXIT_PREEMPTED


class Ended(RuntimeError):
    """The processes that a command started ended badly, and have printed why; theirs is the exit
    code."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


DISK_FULL = (
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
    "ConnectTimeout",
    "ReadTimeout",
    "ConnectError",
    "ClientError",
    "URLError",
    "gaierror",
}
"""The names of what the libraries that talk to the hub raise where it does not answer."""
PROCESS_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "communicator was aborted",
    "gloo",
)


def list_causes(error: BaseException) -> list[BaseException]:
    """List an error, what it came from, what that came from, and so on."""
    causes = [error]
    while True:
        cause = causes[-1].__cause__ or causes[-1].__context__
        if cause is None or cause in causes:
            return causes
        causes.append(cause)


def describe_machine_failure(error: BaseException) -> tuple[str, int] | None:
    """Describe an error where the machine failed and not the code: memory, disk, network, a
    process.

    Returns:
        The message and the exit code; None for any other error.
    """
    causes = list_causes(error)
    text = " ".join(f"{type(cause).__name__} {cause}" for cause in causes).lower()

    def has_sign(signs: tuple[str, ...]) -> bool:
        return any(sign in text for sign in signs)

    # The order counts: an error may bear several of these signs, and the first is the cause.
    if has_sign(DISK_FULL):
        return _describe_full_disk(causes), EXIT_MISTAKE
    if has_sign(NO_MEMORY):
        return (
            "out of memory. Halve trainer.args.per_device_train_batch_size and double "
            "gradient_accumulation_steps (the step stays the same), set "
            "trainer.args.gradient_checkpointing=true or model.pure_bf16=true; in an evaluation "
            "lower eval.<suite>.batch_size or max_length. `unteach check` tells the memory of a "
            "run",
            EXIT_MISTAKE,
        )
    if _is_network_failure(causes):
        return (
            f"the network or the hub failed ({get_first_line(error)}). Run the same command again; "
            "what was downloaded stays. Without a network, name local folders "
            "(model.model_args.pretrained_model_name_or_path, tofu_path)",
            EXIT_MISTAKE,
        )
    if any(type(cause).__module__.startswith("wandb.") for cause in causes):
        return (
            f"Weights & Biases did not take the run ({get_first_line(error)}). Log in with `wandb "
            "login`, or set WANDB_MODE=offline and `wandb sync` it later, or leave "
            "trainer.args.report_to out; the same command goes on",
            EXIT_MISTAKE,
        )
    if isinstance(error, ImportError | RuntimeError) and has_sign(NOT_INSTALLED):
        return f"a package that this asks for is not here: {get_first_line(error)}", EXIT_MISTAKE
    if isinstance(error, RuntimeError | OSError) and has_sign(PROCESS_LOST):
        return (
            "another process of this run is gone (killed, or out of memory: its own output says "
            "more). Run the same command again; it goes on from the last whole checkpoint",
            EXIT_PREEMPTED,
        )
    if isinstance(error, OSError) and error.errno:
        where = f"{shorten_name(str(error.filename))}: " if error.filename else ""
        return where + REMEDIES.get(error.errno, os.strerror(error.errno)), EXIT_MISTAKE
    return None


def _describe_full_disk(causes: list[BaseException]) -> str:
    """Describe a full disk, with the file that was being written as far as an error names it."""
    file: object = None
    for cause in causes:
        if isinstance(cause, OSError) and cause.filename:
            file = cause.filename
            break
    if file is None:
        for cause in causes:
            notes = getattr(cause, "__notes__", [])  # by name_file
            if notes:
                file = notes[0]
                break
    where = f" ({shorten_name(str(file))}{_describe_mount(str(file))})" if file else ""
    return (
        f"the disk is full{where}. What was whole before is still there: make room and run the "
        "same command again, it goes on from there"
    )


def _is_network_failure(causes: list[BaseException]) -> bool:
    for cause in causes:
        # What `datasets` raises; Python's own name a lost process too, and have a number.
        if type(cause) is ConnectionError and cause.errno is None:
            return True
        for cls in type(cause).__mro__:
            if cls.__name__ in NETWORK:
                return True
    return False


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
MAX_NAME_LENGTH = 120
"""Characters of a path that a message shows in full."""


def _describe_mount(file: str) -> str:
    """Name the file system that a file is on, where that is not the machine's first."""
    folder = os.path.realpath(os.path.dirname(file) or ".")
    while folder != "/" and not os.path.ismount(folder):
        folder = os.path.dirname(folder)
    return "" if folder == "/" else f", on {folder}"


@contextlib.contextmanager
def name_file(path: object) -> Iterator[None]:
    """Add the name of the file that is being written to any error: writing itself does not name
    it."""
    try:
        yield
    except Exception as error:
        error.add_note(str(path))
        raise


def shorten_name(name: str) -> str:
    """Shorten a path for a message to its two ends, where it is too long for a file system."""
    if len(name) <= MAX_NAME_LENGTH:
        return name
    return f"{name[:60]}…{name[-40:]}"


@contextlib.contextmanager
def refuse_unreadable(where: str, expected: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a parser raises for a broken input into one UserError.

    It is the boundary of everything that is read.

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
        if isinstance(error, OSError) and error.errno:  # the machine failed, and not the input
            raise
        raise UserError(f"{where}: {expected} ({explain_unreadable(error)})") from None


def refuse_path(name: str, source: object) -> None:
    """Raise UserError where a name that stands in a file (`source`) leads out of its folder."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(
            f"{source}: names the file {name!r}, and only a file of the same folder may stand there"
        )


def explain_unreadable(error: BaseException) -> str:
    """Explain in a few words why something could not be read."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if "integer string conversion" in str(error):
        return "a number of more than 4,300 digits"
    return " ".join(str(error).split())[:300] or type(error).__name__


def get_first_line(error: BaseException) -> str:
    """Give the first line of an error's message, or the name of its class where it has none."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip()
    return type(error).__name__


def describe_missing_extra(extra: str, needed_for: str) -> str:
    """Write the message that optional packages are missing, and how to install them.

    unteach is on no package index yet, so extras are installed from a clone.

    Args:
        extra: name under `[project.optional-dependencies]` in pyproject.toml.
        needed_for: what the user asked for, as the subject of the sentence: "answering with vLLM".
    """
    return (
        f"{needed_for} needs packages that are not installed. In a clone of unteach, run: pip "
        f'install ".[{extra}]"'
    )


EXTRA_MODULES = {
    "report": ("matplotlib",),
    "vision": ("PIL", "httpx2"),
    "openai": ("httpx2",),
    "quant": ("bitsandbytes",),
    "gguf": ("gguf",),
    "evidence": ("securesystemslib", "cryptography", "in_toto_attestation"),
}
"""What an extra brings, by the names under which it is imported."""


def has_extra(extra: str) -> bool:
    """Say whether the packages of an extra are installed, without importing them."""
    return all(importlib.util.find_spec(module) for module in EXTRA_MODULES[extra])


def require_extra(extra: str, needed_for: str) -> None:
    """Raise UserError, before any work is done, where the packages of an extra are missing.

    Args:
        extra: one of EXTRA_MODULES.
        needed_for: what the user asked for, as in `describe_missing_extra`.
    """
    if not has_extra(extra):
        raise UserError(describe_missing_extra(extra, needed_for))


def find_nearest(name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Find the allowed name that `name` was most likely meant to be; None where none is near."""
    by_lower_case = {option.lower(): option for option in allowed}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=cutoff)
    return by_lower_case[matches[0]] if matches else None


def describe_unknown(kind: str, name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str:
    """Write the message that refuses `name`, offers the nearest allowed one and lists all of
    them."""
    allowed = sorted(allowed)
    guess = find_nearest(name, allowed, cutoff)
    suggestion = f"; did you mean {guess}?" if guess else "."
    names = ", ".join(allowed) or "(none)"
    return f"there is no {kind} called {name!r}{suggestion} Allowed: {names}"


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that there is no memory left."""
    message = f"{type(error).__name__} {error}".lower()
    return any(sign in message for sign in NO_MEMORY)
