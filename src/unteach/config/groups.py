"""The groups of configuration files, and the names in each."""

import functools
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
    names = set(_list_shipped(group))
    for home in config_dirs:
        names.update(_list_files(Path(home) / group))
    return sorted(names)


@functools.cache
def _list_shipped(group: str) -> tuple[str, ...]:
    """List the package's own files of a group, which do not change while this process lives."""
    return tuple(_list_files(CONFIGS / group))


def _list_files(group_dir: Path) -> list[str]:
    names = []
    for file in group_dir.rglob("*.yaml"):
        name = file.relative_to(group_dir).with_suffix("")
        names.append(str(name))
    return names
