"""What a user, a run and a scheduler are told when something stops: one clear message and one exit code each."""

import difflib
from collections.abc import Iterable

EXIT_BUG, EXIT_MISTAKE, EXIT_DIVERGED, EXIT_ROWS_FAILED, EXIT_PREEMPTED = 1, 2, 3, 4, 75


class UserError(ValueError):
    """The user's mistake: what, where, what is allowed and how to mend it. Ends the command without a traceback."""

    exit_code = EXIT_MISTAKE


class AbsentData(UserError):
    """Rows that are asked for do not exist where they were looked for (a split that a corpus does not have)."""


class Diverged(RuntimeError):
    """A loss or a gradient stopped being finite; raised before the optimiser step that would have spread it."""

    exit_code = EXIT_DIVERGED


class Preempted(RuntimeError):
    """The scheduler asked for the machine; all that was done is on disk, and the same command goes on from there."""

    exit_code = EXIT_PREEMPTED


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that `name` was most likely meant to be, or None."""
    by_folded = {option.lower(): option for option in allowed}
    found = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def unknown(kind: str, name: str, allowed: Iterable[str]) -> str:
    """One line that refuses `name`, offers the nearest allowed one and lists the rest."""
    allowed = sorted(allowed)
    guess = nearest(name, allowed)
    meant = f"; did you mean {guess}?" if guess else "."
    return f"there is no {kind} called {name!r}{meant} Allowed: {', '.join(allowed) or '(none)'}"
