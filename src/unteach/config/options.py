"""Words that begin with dashes and are no options: which key each most likely means."""

from collections.abc import Iterable

from unteach.config import inference, synonyms, verb_keys
from unteach.errors import UserError, find_nearest

TOP = frozenset(
    "model data trainer experiment eval task_name forget retain seed template launch nproc "
    "plugins resume forget_split retain_split retain_logs_path input_file output_file".split()
)
"""Keys that stand at the top of a configuration, which people write with dashes."""


def unknown_options(
    options: list[tuple[str, str | None]],
    known: Iterable[str],
    verb: str,
) -> UserError:
    """The error for words that begin with dashes and are no options: settings of a run are written
    key=value.

    Args:
        options: each option with its value, None where it has none.
        known: the options that there are.
        verb: the verb that they were given to.
    """
    known = sorted(known)
    lines = []
    for option, value in options:
        name = option.lstrip("-").replace("-", "_")
        near = find_nearest(option, known, synonyms.NEAR)
        key = _find_option_key(name, verb)
        if near and not key:
            lines.append(f"there is no option called {option!r}; did you mean {near}?")
        elif key:
            shown = "…" if value is None else value
            lines.append(f"{option}: write {key}={shown}, without dashes")
        else:
            lines.append(
                f"there is no option called {option!r}; settings are written key=value, without "
                f"dashes"
            )
    allowed = ", ".join(known)
    lines.append(f"Options: {allowed}")
    return UserError("\n  ".join(lines))


def _find_option_key(name: str, verb: str) -> str | None:
    if verb in verb_keys.CONFIGS:
        return verb_keys.find_key(verb, name)
    if verb in ("infer", "ask"):
        return name if name in inference.KEYS else synonyms.find_key(name, "infer")
    return synonyms.find_key(name, verb) or (name if name in TOP or "." in name else None)
