"""`unteach world`: an authors world of your own, as a dataset folder."""

import json
from pathlib import Path
from typing import Any

from unteach import owner
from unteach.atomic import atomic_write_folder
from unteach.config.reader import Reader, join_problems
from unteach.config.tree import to_yaml
from unteach.config.verb_configs import WorldConfig
from unteach.data.synthetic import authors
from unteach.data.synthetic.world import World
from unteach.errors import UserError

SETTINGS = "world.yaml"


def run(config: WorldConfig) -> None:
    """Write a world into a folder, and print how many rows each of its sets has."""
    to = config.to
    folder = Path(to)
    with owner.own(folder):
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        if not is_free:
            if not _is_made_of(folder, config.settings):
                raise UserError(
                    f"to={to}: something else is there already; name another folder, or move it "
                    f"away"
                )
            print(f"written before: {to} (tofu_path={to})")
            return
        sizes = write(config.settings, folder)
    for name, size in sizes.items():
        print(f"{name:<24}{size:>7,} rows")
    print(f"written: {to} (tofu_path={to})")


def write(settings: dict[str, Any], folder: Path) -> dict[str, int]:
    """Write the world as a dataset folder, whole or not at all.

    Returns:
        The number of rows of each config.
    """
    reader = Reader()
    world = reader.record(World, settings, "")
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    sizes = {}
    with atomic_write_folder(folder) as temporary:
        for name in authors.NAMES:
            rows = authors.build_world_rows(world, name)
            sizes[name] = len(rows)
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            file = temporary / f"{name}.jsonl"
            file.write_text("".join(lines), encoding="utf-8")
        (temporary / SETTINGS).write_text(to_yaml(settings), encoding="utf-8")
        (temporary / "README.md").write_text(card(sizes), encoding="utf-8")
    return sizes


def _is_made_of(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder is a world that these settings gave."""
    file = folder / SETTINGS
    if not file.is_file():
        return False
    return file.read_bytes() == to_yaml(settings).encode()


def card(sizes: dict[str, int]) -> str:
    """Write a dataset card that tells `datasets` which file each config is."""
    configs = []
    for name in sizes:
        config = {"config_name": name, "data_files": f"{name}.jsonl"}
        configs.append(config)
    header = to_yaml({"configs": configs})
    return (
        f"---\n{header}---\n\n# An authors world\n\n"
        "Invented authors, their books and publishers, as questions and answers. Made by `unteach "
        f"world` with the settings in {SETTINGS}.\n"
    )
