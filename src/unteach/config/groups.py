"""The groups of configuration files, and the names in each."""

import re
from collections.abc import Iterable
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
GROUPS = {
    "model",
    "trainer",
    "data",
    "collator",
    "eval",
    "audit",
    "paths",
    "experiment",
}


def list_options(group: str, config_dirs: Iterable[str] = ()) -> list[str]:
    """List the names that `group=` takes, of this package and of the user's folders."""
    if not re.fullmatch(r"\w+(/\w+)*", group):
        return []
    names = set()
    for home in (CONFIGS, *map(Path, config_dirs)):
        group_dir = home / group
        for file in group_dir.rglob("*.yaml"):
            name = file.relative_to(group_dir).with_suffix("")
            names.add(str(name))
    return sorted(names)
