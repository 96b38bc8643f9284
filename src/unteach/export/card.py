"""How a model card begins: what the hub shows of a folder, and finds it by."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

CARD = "README.md"


def build_front_matter(library: str, base: str | None, tags: Sequence[str]) -> str:
    """Build the lines between two rows of dashes.

    Args:
        library: which loads the folder, by the hub's name for it.
        base: the model that this one was made from; what is no name of the hub is left out.
        tags: words to find it by.
    """
    values: dict[str, object] = {"library_name": library}
    if base and _is_hub_name(base):
        values["base_model"] = base
    values["tags"] = list(tags)
    lines = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return f"---\n{lines}---\n"


def _is_hub_name(name: str) -> bool:
    """Whether a name may be a model's on the hub, and is no folder, be it one that is gone."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None and not Path(name).exists()
