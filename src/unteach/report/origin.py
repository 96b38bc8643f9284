"""What a run was, by its configuration: its part in a comparison, and what it was to forget."""

import re
import shlex
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.config.schema import PATH
from unteach.strict_yaml import read_yaml

CONFIGS = (run_dir.CONFIG, ".hydra/config.yaml")
KIND_NAMES = {
    "forget": re.compile(r"unlearn(ed)?|forget\d*"),
    "retain": re.compile(r"retain(ed)?\d*|retrain(ed)?"),
    "full": re.compile(r"full|target"),
    "base": re.compile(r"base|pretrain(ed)?"),
}
MOST_NAMED = 3
"""Rows or entities of a forget set that are named; the others are counted."""
NOT_DESCRIBED = ("seed", "kinds_path", "author_block")
"""Settings of a forget set that do not say what is forgotten."""
OWN_FILES = {
    "train_file": "data",
    "forget_file": "forget",
    "retain_file": "retain",
    "holdout_file": "holdout",
}
"""Keys of files of one's own, and the short words that name them on the command line."""


def infer_kind(folder: Path) -> str:
    """Infer a run's part from its configuration; where it has none, or that is silent, from the
    words of its name."""
    config = read_config(folder)
    if not config:
        return _infer_kind_by_name(folder.absolute().name)
    if config.get("mode") == "unlearn":
        return "forget"
    if config.get("mode") == "eval":
        model_dir = Path(str(get_nested(config, "model", "model_args", PATH)))
        if read_config(model_dir):
            kind = infer_kind(model_dir)
        else:
            kind = _infer_kind_by_name(model_dir.name)
        return kind or _infer_kind_by_name(str(config.get("task_name"))) or "eval"

    train = get_nested(config, "data", "train")
    for part in train.values() if isinstance(train, dict) else ():
        source = get_nested(part, "args", "hf_args") or {}
        if kind := _infer_kind_by_name(str(source.get("part") or source.get("name"))):
            return kind
    return ""


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a run, ours or OpenUnlearning's; of a checkpoint, its run's.

    Empty where there is none.
    """
    homes = [folder, folder.parent] if folder.name.startswith("checkpoint-") else [folder]
    for home in homes:
        for name in CONFIGS:
            if (home / name).is_file():
                config = read_yaml(home / name)
                return config if isinstance(config, dict) else {}
    return {}


def _infer_kind_by_name(name: str) -> str:
    words = re.split(r"[^a-z0-9]+", name.lower())
    for kind, pattern in KIND_NAMES.items():
        if any(pattern.fullmatch(word) for word in words):
            return kind
    return ""


def get_nested(tree: Any, *keys: str) -> Any:
    """Get what lies in nested mappings under these keys; None where one is not there."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def build_eval_command(run: Path, suite: str | None = None) -> str:
    """Give the command that evaluates a run: on the rows of the user's own that it was trained on,
    if it was.

    Args:
        suite: the suite that is wanted; None where any will do.
    """
    files = _list_own_files(read_config(run)) if suite in (None, "ROWS") else {}
    if files:
        words = [f"model={run}", "eval=rows", *(f"{key}={file}" for key, file in files.items())]
        return shlex.join(["unteach", "eval", *words])
    words = [f"model={run}", f"eval={suite.lower() if suite else 'SUITE'}", "task_name=NAME"]
    hint = "" if suite else " (`unteach list suites`)"
    return shlex.join(["unteach", "eval", *words]) + hint


def _list_own_files(config: dict[str, Any]) -> dict[str, str]:
    """List the files of one's own that a run was trained on, by the short words that name them."""
    files = {word: get_nested(config, "data", key) for key, word in OWN_FILES.items()}
    return {word: file for word, file in files.items() if isinstance(file, str)}


def describe_forget_set(config: dict[str, Any]) -> str:
    """Say shortly what a run is to forget, or is judged by: its forget set or split."""
    forget_set = config.get("forget_set")
    if not isinstance(forget_set, dict):
        return str(config.get("forget_split") or "")
    values = [
        value for key, value in forget_set.items() if value is not None and key not in NOT_DESCRIBED
    ]
    return " ".join(map(_format_setting, values))


def _format_setting(value: object) -> str:
    if isinstance(value, list):
        num_more = len(value) - MOST_NAMED
        more = f" and {num_more} more" if num_more > 0 else ""
        return ", ".join(map(_format_setting, value[:MOST_NAMED])) + more
    return f"{value:.3g}" if isinstance(value, float) else str(value)
