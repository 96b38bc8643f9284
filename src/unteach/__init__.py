"""unteach: teach language models, make them forget, and prove what they still know."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unteach.api import evaluate as evaluate
    from unteach.api import get_history as get_history
    from unteach.api import infer as infer
    from unteach.api import load as load
    from unteach.api import train as train
    from unteach.api import unlearn as unlearn
    from unteach.api_forget import audit as audit
    from unteach.api_forget import forget as forget

__version__ = "0.2.0"
__all__ = ["audit", "evaluate", "forget", "get_history", "infer", "load", "train", "unlearn"]


def __getattr__(name: str) -> Any:
    # By name and late: `import unteach` is cheap.
    if name in __all__:
        module = "unteach.api_forget" if name in ("audit", "forget") else "unteach.api"
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'unteach' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
