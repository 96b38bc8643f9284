"""What a run was, by its configuration: its part in a comparison, and what it was to forget."""

import functools
import re
import shlex
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.config.schema import PATH
from unteach.strict_yaml import read_kept_yaml

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

ConfigTree = dict[str, Any]
"""A run's configuration, as its file has it."""


def infer_kind(folder: Path) -> str:
    """Infer a run's part from its configuration; where it has none, or that is silent, from the
    words of its name."""
    config = read_config(folder)
    if not config:
        return _infer_kind_by_name(folder.absolute().name)
    if config.get("mode") == "unlearn":
        return "forget"
    if config.get("mode") == "eval":
        return _infer_evaluated_kind(config)
    return _infer_kind_by_data(config)


def _infer_evaluated_kind(config: ConfigTree) -> str:
    """Infer the part of the model that an evaluation was of."""
    model_dir = Path(str(get_nested(config, "model", "model_args", PATH)))
    has_config = bool(read_config(model_dir))
    kind = infer_kind(model_dir) if has_config else _infer_kind_by_name(model_dir.name)
    if not kind:
        kind = _infer_kind_by_name(str(config.get("task_name")))
    return kind or "eval"


def _infer_kind_by_data(config: ConfigTree) -> str:
    """Infer a training run's part from the names of what it was trained on."""
    train = get_nested(config, "data", "train")
    if not isinstance(train, dict):
        return ""
    for part in train.values():
        source = get_nested(part, "args", "hf_args") or {}
        name = source.get("part") or source.get("name")
        kind = _infer_kind_by_name(str(name))
        if kind:
            return kind
    return ""


def read_config(folder: Path) -> ConfigTree:
    """Read the configuration of a run, ours or OpenUnlearning's; of a checkpoint, its run's.

    Empty where there is none. It is shared with whoever reads it, and not to be changed.
    """
    homes = [folder]
    if folder.name.startswith("checkpoint-"):
        homes.append(folder.parent)
    for home in homes:
        for name in CONFIGS:
            file = home / name
            if file.is_file():
                written = file.stat()
                return _read_config_file(file, written.st_mtime_ns, written.st_size)
    return {}


@functools.lru_cache(maxsize=8192)
def _read_config_file(file: Path, mtime_ns: int, size: int) -> ConfigTree:
    """Read a configuration once for all parts of a report, as long as nobody writes it anew."""
    config = read_kept_yaml(file)
    return config if isinstance(config, dict) else {}


def _infer_kind_by_name(name: str) -> str:
    """Infer a run's part from the words of a name, "" where none tells."""
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
    command = ["unteach", "eval", f"model={run}"]
    if suite in (None, "ROWS"):
        files = _list_own_files(read_config(run))
        if files:
            words = [f"{word}={file}" for word, file in files.items()]
            return shlex.join([*command, "eval=rows", *words])
    if suite is None:
        words = [*command, "eval=SUITE", "task_name=NAME"]
        return f"{shlex.join(words)} (`unteach list suites`)"
    return shlex.join([*command, f"eval={suite.lower()}", "task_name=NAME"])


def _list_own_files(config: ConfigTree) -> dict[str, str]:
    """List the files of one's own that a run was trained on, by the short words that name them."""
    files = {}
    for key, word in OWN_FILES.items():
        file = get_nested(config, "data", key)
        if isinstance(file, str):
            files[word] = file
    return files


def describe_forget_set(config: ConfigTree) -> str:
    """Say shortly what a run is to forget, or is judged by: its forget set or split."""
    forget_set = config.get("forget_set")
    if not isinstance(forget_set, dict):
        return str(config.get("forget_split") or "")
    words = []
    for key, value in forget_set.items():
        if value is not None and key not in NOT_DESCRIBED:
            words.append(_format_setting(value))
    return " ".join(words)


def _format_setting(value: object) -> str:
    """Write a setting of a forget set shortly: of a list, its first members and a count."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if not isinstance(value, list):
        return str(value)
    first = [_format_setting(member) for member in value[:MOST_NAMED]]
    text = ", ".join(first)
    num_more = len(value) - MOST_NAMED
    if num_more > 0:
        text += f" and {num_more} more"
    return text
