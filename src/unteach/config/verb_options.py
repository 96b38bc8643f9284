"""What stands on a command line beside its words, by dashes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """--config-name, --config-dir, --write and --print."""

    config_name: str | None = None
    config_dirs: tuple[str, ...] = ()
    write: str | None = None
    prints_tree: bool = False
