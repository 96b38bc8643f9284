"""Which module carries a verb out."""

import importlib
from typing import Any

MODULES = {
    "train": "train",
    "unlearn": "train",
    "eval": "evaluate",
    "audit": "audit",
    "forget": "forget",
    "check forget": "check_forget",
    "check infer": "check_infer",
    "check tokenize": "check_tokenize",
    "check export": "check_export",
    "audit verify": "audit",
    "infer": "infer",
    "ask": "ask",
    "check": "check",
    "study": "study",
    "tokenize": "tokenize",
    "report": "report",
    "compare": "compare",
    "export": "export",
    "history": "history",
    "demo": "demo",
    "fetch": "fetch",
    "world": "world",
    "list": "listing",
    "help": "explain",
    "schema": "schema",
    "completion": "completion",
    "env": "env",
}
"""The module of `unteach.verbs` whose `run(config)` carries a verb out."""


def carry_out(verb: str, config: object) -> Any:
    """Carry a verb out that is told `config`; give what it gives.

    Its module is imported by name, and only now that its configuration is known to be right: it
    costs torch.
    """
    module = importlib.import_module(f"unteach.verbs.{MODULES[verb]}")
    return module.run(config)
