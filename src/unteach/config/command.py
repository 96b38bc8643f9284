"""The command line that a run is made with, as it is kept in the run's folder: no key of the user's
is in it."""

import shlex
from collections.abc import Iterable

from unteach.config.secrets import hide_secrets

VERBS = ("train", "unlearn", "eval", "audit")
"""Verbs whose primary configuration has their name."""


def command_line(
    config_name: str,
    overrides: Iterable[str],
    config_dirs: Iterable[str],
) -> str:
    """Write the command that composes a configuration, quoted for a shell, with secrets left
    out."""
    words = [config_name] if config_name in VERBS else ["train", f"--config-name={config_name}"]
    words += [f"--config-dir={folder}" for folder in config_dirs]
    words += [hide_secrets(word) for word in overrides]
    return shlex.join(["unteach", *words])
