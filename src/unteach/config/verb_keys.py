"""The keys of verbs that compose no configuration, and what people call them from habit."""

from dataclasses import fields

from unteach.config.tokenize import TokenizeConfig
from unteach.errors import nearest, unknown

KEYS = {
    "report": ("out", "suite"),
    "compare": ("suite",),
    "history": ("to",),
    "fetch": ("to",),
    "export": ("to", "as", "dtype", "push", "private", "model.base_path", "model.peft_args"),
    "tokenize": tuple(one.name for one in fields(TokenizeConfig)),
}
"""Verb -> its keys, all of them."""
FOLDER = ("out", "output", "output_dir", "output_file", "save_dir", "dir", "to")
"""Words for the place that a command writes to."""
NEAR = 0.75
"""How like a key a word must be to be taken for a slip of the hand."""
HABITS = {
    "eval": "suite",
    "benchmark": "suite",
    "format": "as",
    "torch_dtype": "dtype",
    "push_to_hub": "push",
    "repo": "push",
    "base": "model.base_path",
    "base_model": "model.base_path",
    "model": "tokenizer_path",
    "data": "input_file",
    "file": "input_file",
}


def key_of(verb: str, name: str) -> str | None:
    """Give the key that a verb calls `name`, itself or by another word for it; None where it has
    nothing like it."""
    allowed = KEYS.get(verb, ())
    if name in allowed:
        return name
    if name in FOLDER:
        return next((key for key in ("to", "out", "output_file") if key in allowed), None)
    meant = HABITS.get(name)
    return meant if meant in allowed else nearest(name, allowed, NEAR)


def unknown_key(verb: str, name: str) -> str:
    """Say that a verb has no such key, which it most likely means, and which it has."""
    key = key_of(verb, name)
    if key is None:
        return unknown(f"key of {verb}", name, KEYS[verb])
    return (
        f"there is no key of {verb} called {name!r}; did you mean {key}? Allowed: "
        f"{', '.join(sorted(KEYS[verb]))}"
    )
