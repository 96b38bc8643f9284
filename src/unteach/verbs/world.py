"""`unteach world`: a world of your own, of authors or people, as a dataset folder."""

import json
from pathlib import Path
from typing import Any

from unteach import owner
from unteach.atomic import atomic_write_folder
from unteach.config.reader import Reader, join_problems
from unteach.config.tree import to_yaml
from unteach.config.verb_configs import WorldConfig
from unteach.data.synthetic import worlds
from unteach.errors import UserError, describe_unknown

SETTINGS = "world.yaml"
DESCRIPTIONS = {
    "authors": "Invented authors, their books and publishers, as questions and answers.",
    "people": "Invented people, five facts each, as questions, answers and statements.",
}
"""What a dataset card says of each kind of world."""


def run(config: WorldConfig) -> None:
    """Write a world into a folder, and print how many rows each of its sets has."""
    to = config.to
    folder = Path(to)
    with owner.own(folder):
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        if not is_free:
            if not _is_made_of(folder, config):
                raise UserError(
                    f"to={to}: something else is there already; name another folder, or move it "
                    f"away"
                )
            print(f"written before: {to} (tofu_path={to})")
            return
        sizes = write(config.kind, config.settings, folder)
    for name, size in sizes.items():
        print(f"{name:<24}{size:>7,} rows")
    print(f"written: {to} (tofu_path={to})")


def write(kind: str, settings: dict[str, Any], folder: Path) -> dict[str, int]:
    """Write the world as a dataset folder, whole or not at all.

    Args:
        kind: of world, authors or people.
        settings: its fields.
        folder: where it is written.

    Returns:
        The number of rows of each config.

    Raises:
        UserError: there is no such kind, or no such world.
    """
    if kind not in worlds.WORLDS:
        raise UserError(f"kind={kind}: {describe_unknown('kind of world', kind, worlds.WORLDS)}")
    reader = Reader()
    world = reader.record(worlds.WORLDS[kind], settings, "")
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    sizes = {}
    with atomic_write_folder(folder) as temporary:
        for name in worlds.list_configs(world):
            rows = worlds.build_world_rows(world, name)
            sizes[name] = len(rows)
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            file = temporary / f"{name}.jsonl"
            file.write_text("".join(lines), encoding="utf-8")
        (temporary / SETTINGS).write_text(_write_settings(kind, settings), encoding="utf-8")
        (temporary / "README.md").write_text(card(kind, sizes), encoding="utf-8")
    return sizes


def _write_settings(kind: str, settings: dict[str, Any]) -> str:
    """Write the settings of a world as a file that `config=` takes."""
    if kind == "authors":
        return to_yaml(settings)
    return to_yaml({"kind": kind, **settings})


def _is_made_of(folder: Path, config: WorldConfig) -> bool:
    """Whether a folder is a world that these settings gave."""
    file = folder / SETTINGS
    if not file.is_file():
        return False
    return file.read_bytes() == _write_settings(config.kind, config.settings).encode()


def card(kind: str, sizes: dict[str, int]) -> str:
    """Write a dataset card that tells `datasets` which file each config is."""
    configs = []
    for name in sizes:
        config = {"config_name": name, "data_files": f"{name}.jsonl"}
        configs.append(config)
    header = to_yaml({"configs": configs})
    return (
        f"---\n{header}---\n\n# A world of {kind}\n\n"
        f"{DESCRIPTIONS[kind]} Made by `unteach world` with the settings in {SETTINGS}.\n"
    )
