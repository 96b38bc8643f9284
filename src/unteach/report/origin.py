"""What a run was, by its configuration: its part in a comparison, and what it was to forget."""

import re
import shlex
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.config.schema import PATH
from unteach.strict_yaml import read_yaml

CONFIGS = (run_dir.CONFIG, ".hydra/config.yaml")
NAMED = {
    "forget": re.compile(r"unlearn(ed)?|forget\d*"),
    "retain": re.compile(r"retain(ed)?\d*|retrain(ed)?"),
    "full": re.compile(r"full|target"),
    "base": re.compile(r"base|pretrain(ed)?"),
}
SHOWN = 3
"""Rows or entities of a forget set that are named; the others are counted."""


def kind_of(folder: Path) -> str:
    """A run's part: from its configuration; where it has none, or that is silent, from the words of
    its name."""
    config = read_config(folder)
    if not config:
        return _kind_by_name(folder.absolute().name)
    if config.get("mode") == "unlearn":
        return "forget"
    if config.get("mode") == "eval":
        model = at(config, "model", "model_args", PATH)
        source = Path(str(model))
        known = kind_of(source) if read_config(source) else _kind_by_name(source.name)
        return known or _kind_by_name(str(config.get("task_name"))) or "eval"
    train = at(config, "data", "train")
    read = (
        [at(one, "args", "hf_args") or {} for one in train.values()]
        if isinstance(train, dict)
        else []
    )
    splits = [one.get("part") or one.get("name") for one in read]
    return next((kind for split in splits if (kind := _kind_by_name(str(split)))), "")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, ours or OpenUnlearning's; of a checkpoint, its run's. Empty where
    there is none."""
    homes = [folder, folder.parent] if folder.name.startswith("checkpoint-") else [folder]
    file = next(
        (home / name for home in homes for name in CONFIGS if (home / name).is_file()), None
    )
    if file is None:
        return {}
    found = read_yaml(file)
    return found if isinstance(found, dict) else {}


def _kind_by_name(name: str) -> str:
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next(
        (kind for kind, said in NAMED.items() if any(said.fullmatch(word) for word in words)), ""
    )


def at(tree: Any, *keys: str) -> Any:
    """What lies in nested mappings under these keys; None where one is not there."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def command_to_evaluate(run: Path, suite: str | None = None) -> str:
    """Give the command that evaluates a run: on the rows of the user's own that it was trained on,
    if it was.

    suite: the suite that is wanted; None where any will do.
    """
    files = _own_files(read_config(run)) if suite in (None, "ROWS") else {}
    if files:
        words = [f"model={run}", "eval=rows", *(f"{key}={file}" for key, file in files.items())]
    else:
        words = [f"model={run}", f"eval={suite.lower() if suite else 'SUITE'}", "task_name=NAME"]
    return shlex.join(["unteach", "eval", *words]) + (
        "" if files or suite else " (`unteach list suites`)"
    )


def _own_files(config: dict[str, Any]) -> dict[str, str]:
    """The files of one's own that a run was trained on, by the short words that name them."""
    words = {
        "train_file": "data",
        "forget_file": "forget",
        "retain_file": "retain",
        "holdout_file": "holdout",
    }
    named = {word: at(config, "data", key) for key, word in words.items()}
    return {word: file for word, file in named.items() if isinstance(file, str)}


def what_goes(config: dict[str, Any]) -> str:
    """What a run is to forget, or is judged by: its forget set or split, shortly."""
    chosen = config.get("forget_set")
    if isinstance(chosen, dict):
        told = [
            value
            for key, value in chosen.items()
            if value is not None and key not in ("seed", "kinds_path", "author_block")
        ]
        return " ".join(map(_shortly, told))
    return str(config.get("forget_split") or "")


def _shortly(value: object) -> str:
    if isinstance(value, list):
        more = f" and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
        return ", ".join(map(_shortly, value[:SHOWN])) + more
    return f"{value:.3g}" if isinstance(value, float) else str(value)
