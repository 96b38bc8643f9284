"""unteach: teach language models, make them forget, and prove what they still know."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "train": "unteach.verbs.train",
    "evaluate": "unteach.verbs.evaluate",
    "infer": "unteach.verbs.infer",
    "load": "unteach.verbs.load",
    "get_history": "unteach.verbs.history",
}
__all__ = ["evaluate", "get_history", "infer", "load", "train"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'unteach' has no attribute {name!r}")
