"""How a model card begins: what the hub shows of a folder, and finds it by."""

from collections.abc import Sequence
from pathlib import Path

import yaml

CARD = "README.md"


def build_front_matter(library: str, base: str | None, tags: Sequence[str]) -> str:
    """Build the lines between two rows of dashes.

    Args:
        library: which loads the folder, by the hub's name for it.
        base: the model that this one was made from; a folder of this machine is left out.
        tags: words to find it by.
    """
    values: dict[str, object] = {"library_name": library}
    if base and not Path(base).exists():
        values["base_model"] = base
    values["tags"] = list(tags)
    lines = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return f"---\n{lines}---\n"
