"""What only its owner may know, kept out of all that a run writes down: its command and its
configuration."""

import re
from typing import Any

HIDDEN = "…"
NAMES = (
    r"(?:token|secret|password|passwd|credentials?"
    r"|(?:api|access|secret|private)_?key|auth(?:orization)?)"
)
NO_SECRET = r"(?:pad|eos|bos|unk|cls|sep|mask|image|video|audio|bo[iv]|eo[iv])_token"
"""Tokens of a vocabulary, which are called alike."""
SECRET_KEY = re.compile(rf"(?:^|[._-]){NAMES}$", re.IGNORECASE)
NO_SECRET_KEY = re.compile(rf"(?:^|[._-]){NO_SECRET}$", re.IGNORECASE)
SECRET_VALUES = (
    # A key inside a mapping's text, quoted or not: {token: abc, 'api_key': 'a, b'}.
    re.compile(
        rf"((?<![\w-])(?!(?:\w+_)?{NO_SECRET})(?:\w+[_-])?{NAMES}['\"]?\s*[:=]\s*)"
        r"(?:'[^']*'|\"[^\"]*\"|(?:(?:Bearer|Basic)\s+)?[^,}\]\s&]+)",
        re.IGNORECASE,
    ),
    # A password inside an address, and the signed part of one.
    re.compile(r"(\w+://)[^/@\s]+(?=@)"),
    re.compile(r"([?&][\w-]*(?:sig|signature|token|key|credential)=)[^&\s'\"]+", re.IGNORECASE),
    # What tokens of known services look like.
    re.compile(r"(\b)(?:hf_|sk-|gh[pousr]_|github_pat_)[A-Za-z0-9_-]{16,}"),
)


def is_secret(key: str) -> bool:
    """Say whether the value of a key is for its owner alone."""
    return SECRET_KEY.search(key) is not None and NO_SECRET_KEY.search(key) is None


def hide_secrets(word: str) -> str:
    """Replace what only its owner may know in one word of a command line."""
    key, equals, value = word.partition("=")
    if not equals:
        return _hide_values(word)
    if is_secret(key) and value not in ("null", "true", "false", ""):
        return f"{key}={HIDDEN}"
    return f"{key}={_hide_values(value)}"


def _hide_values(text: str) -> str:
    for pattern in SECRET_VALUES:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


ARGUMENTS = ("model_args", "tokenizer_args", "hf_args", "storage_options")
"""Mappings that are given to the hub's libraries, in which a token may stand."""


def drop_secrets(tree: dict[str, Any], of_hub: bool = False) -> Any:
    """Copy a configuration without the tokens that are given to the hub's libraries.

    A run that is made again from it takes them from the environment (HF_TOKEN), or is told them
    again.
    """
    if isinstance(tree, list):
        return [drop_secrets(item, of_hub) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kept = {}
    for name, value in tree.items():
        if of_hub and isinstance(value, str) and is_secret(str(name)):
            continue
        kept[name] = drop_secrets(value, of_hub or name in ARGUMENTS)
    return kept
