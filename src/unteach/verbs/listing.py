"""`unteach list methods|metrics|collators|datasets|models|suites|experiments`: name, one line, origin."""

from collections.abc import Iterable
from pathlib import Path

from unteach import plugins, registry
from unteach.errors import UserError, unknown

REGISTRIES = {"methods": registry.method, "metrics": registry.metric, "collators": registry.collator}
GROUPS = {"models": "model", "suites": "eval", "experiments": "experiment", "datasets": "data/datasets"}
KINDS = sorted([*REGISTRIES, *GROUPS])


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
    """(name, one line, origin) of everything of a kind."""
    if kind in REGISTRIES:
        return [(entry.name, _with_facts(entry), entry.origin) for entry in REGISTRIES[kind].entries()]
    lines = _configs(GROUPS[kind], config_dirs)
    if kind == "datasets":
        lines += [(entry.name, entry.line, entry.origin) for entry in registry.dataset.entries()]
    return lines


def _with_facts(entry: registry.Entry) -> str:
    facts = "; ".join(f"{key}: {value}" for key, value in entry.facts.items())
    return f"{entry.line} ({facts})" if facts else entry.line


def _configs(group: str, config_dirs: tuple[str, ...]) -> list[tuple[str, str, str]]:
    from unteach.compose import CONFIGS

    found = []
    for home in (CONFIGS, *plugins.config_folders(), *map(Path, config_dirs)):
        for file in sorted((home / group).rglob("*.yaml")):
            origin = f"unteach/configs/{file.relative_to(home)}" if home == CONFIGS else str(file)
            found.append((str(file.relative_to(home / group).with_suffix("")), _says(file), origin))
    return found


def _says(file: Path) -> str:
    """What a YAML file says of itself in its first comment, or the handler and place it names."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    if lines and lines[0].startswith("#"):
        return lines[0].lstrip("# ")
    told = [
        line.strip()
        for line in lines
        if line.strip().startswith(("handler:", "name:", "pretrained_model_name_or_path:"))
    ]
    return ", ".join(dict.fromkeys(told))
