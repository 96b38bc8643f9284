"""The command line that a run is made with, as it is kept in the run's folder: no key of the user's is in it."""

import re
import shlex
from collections.abc import Iterable

VERBS = {"train": "train", "unlearn": "unlearn", "eval": "eval"}
HIDDEN = "…"
SECRET_KEY = re.compile(r"(?:^|[._])(?:token|secret|password|passwd|credentials?|api_key|auth)$", re.IGNORECASE)
SPECIAL_TOKEN = re.compile(r"(?:pad|eos|bos|unk|cls|sep|mask)_token$")
SECRET_VALUES = (
    re.compile(
        r"((?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)(?<!cls_)(?<!sep_)(?<!mask_)"
        r"(?:token|secret|password|passwd|credentials?|api_key)['\"]?\s*[:=]\s*)[^,}\]\s]+",
        re.IGNORECASE,
    ),
    re.compile(r"(\w+://)[^/@\s]+(?=@)"),
    re.compile(r"(\b)(?:hf_|sk-)[A-Za-z0-9_-]{16,}"),
)
"""Keys inside a mapping's text, a password inside an address, and what tokens of known services look like."""


def command_line(config_name: str, overrides: Iterable[str], config_dirs: Iterable[str]) -> str:
    """Write the command that composes a configuration, quoted for a shell, with secrets left out."""
    verb = VERBS.get(config_name)
    words = [verb] if verb else ["train", f"--config-name={config_name}"]
    words += [f"--config-dir={folder}" for folder in config_dirs]
    words += [hide_secrets(word) for word in overrides]
    return shlex.join(["unteach", *words])


def hide_secrets(word: str) -> str:
    """Replace what only its owner may know in one word of a command line."""
    key, equals, value = word.partition("=")
    if (
        equals
        and SECRET_KEY.search(key)
        and not SPECIAL_TOKEN.search(key)
        and value not in ("null", "true", "false", "")
    ):
        return f"{key}={HIDDEN}"
    for pattern in SECRET_VALUES:
        value = pattern.sub(rf"\g<1>{HIDDEN}", value)
        key = pattern.sub(rf"\g<1>{HIDDEN}", key) if not equals else key
    return f"{key}{equals}{value}"
