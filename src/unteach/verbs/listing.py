"""`unteach list`: what there is of a kind, a line each; of one name, its fields."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from unteach import plugins, registry
from unteach.errors import UserError, unknown

REGISTRIES = {"methods": registry.method, "metrics": registry.metric, "collators": registry.collator}
REGISTRIES |= {"datasets": registry.dataset}
GROUPS = {"models": "model", "suites": "eval", "experiments": "experiment", "studies": "study"}
GROUPS |= {"methods": "trainer", "datasets": "data/datasets", "launch": "launch"}
KINDS = sorted({*REGISTRIES, *GROUPS})


def command(words: list[str], config_dirs: Iterable[str] = ()) -> None:
    if len(words) != 1:
        raise UserError(f"unteach list takes one of {', '.join(KINDS)}")
    if words[0] not in KINDS:
        raise UserError(unknown("list", words[0], KINDS))
    lines = listed(words[0], tuple(config_dirs))
    width = min(48, max(len(name) for name, _, _ in lines))
    for name, line, origin in lines:
        print(f"{name:<{width}}  {line}  [{origin}]")
    for sentence in REGISTRIES[words[0]].broken() if words[0] in REGISTRIES else ():
        print(f"note: {sentence}")


def listed(kind: str, config_dirs: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    """(name, one line, origin) of everything of a kind: classes, then files that say more than a class's name."""
    entries = REGISTRIES[kind].entries() if kind in REGISTRIES else []
    classes = [(entry.name, _with_facts(entry), entry.origin) for entry in entries]
    files = _configs(GROUPS[kind], config_dirs) if kind in GROUPS else []
    named = {entry.name for entry in entries}
    return classes + [line for line in files if line[0] not in named]


def _with_facts(entry: registry.Entry) -> str:
    facts = "; ".join(f"{key}: {value}" for key, value in entry.facts.items())
    return f"{entry.line} ({facts})" if facts else entry.line


def _configs(group: str, config_dirs: tuple[str, ...]) -> list[tuple[str, str, str]]:
    from unteach.config.groups import CONFIGS

    found = []
    for home in (CONFIGS, *plugins.config_folders(), *map(Path, config_dirs)):
        for file in sorted((home / group).rglob("*.yaml")):
            shipped = home == CONFIGS and group != "launch"  # accelerate and torchrun want the whole path
            origin = f"unteach/configs/{file.relative_to(home)}" if shipped else str(file)
            found.append((str(file.relative_to(home / group).with_suffix("")), _says(file), origin))
    return found


def _says(file: Path) -> str:
    """The first sentence that a YAML file says of itself in its first comment, or the handler and place it names."""
    lines = re.sub(r"\A# @package .*\n", "", file.read_text(encoding="utf-8")).splitlines()
    comment = [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    if comment:
        return re.split(r"(?<=\.) (?=[A-Z])", " ".join(comment))[0]
    told = [
        line.strip()
        for line in lines
        if line.strip().startswith(("handler:", "name:", "pretrained_model_name_or_path:"))
    ]
    return ", ".join(dict.fromkeys(told))
