"""How the models of a report were made, from what each run keeps of itself: settings, versions."""

import json
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unteach import json_files, run_dir
from unteach.config.schema import PATH
from unteach.report.collect import RunResult
from unteach.report.origin import get_nested, read_config

HEADER_LENGTH = 8
"""Bytes at the start of a safetensors file that hold the length of its header."""
PATH_KEYS = ("path", "data_dir", "data_files", "name", "split", "part")


@dataclass(frozen=True)
class Recipe:
    """One run.

    Attributes:
        summary: a line that sums it up.
        facts: (what, value) of all that its folder says of how it was made.
    """

    summary: str
    facts: list[tuple[str, str]]


def read_recipe(run: RunResult, beside: Path) -> Recipe | None:
    """Read how a run's model was made; None where its folder has no configuration.

    Args:
        run: the run; of an evaluation, the run that trained its model is read too, where it is
            there.
        beside: the folder that the paths of runs are told from.
    """
    config = read_config(run.folder)
    if not config:
        return None
    folder = find_training_folder(run.folder, config)
    if folder != run.folder:
        config = read_config(folder)
    manifest = _read_manifest(folder)
    facts = [
        ("model", _describe_model(config)),
        ("parameters", _count_parameters(folder)),
        *_list_method_facts(config),
        *_list_schedule_facts(config, manifest, folder),
        ("seed", _format(config.get("seed"))),
        *_list_data_facts(config),
        ("made on", _find_date(folder, manifest)),
        ("versions", _format_pairs(manifest.get("versions"), " ")),
        ("git commit", _format(manifest.get("git"))),
        ("command", _format(manifest.get("command"))),
        ("folder", os.path.relpath(run.folder, beside)),
    ]
    if folder != run.folder:
        facts.append(("trained in", os.path.relpath(folder, beside)))
    known = [(what, value) for what, value in facts if value]
    return Recipe(_summarize(dict(known)), known)


def find_training_folder(folder: Path, config: dict[str, Any]) -> Path:
    """Find the folder of the run that trained a model: the run's own, or the one that an evaluation
    names."""
    path = get_nested(config, "model", "model_args", PATH)
    if config.get("trainer") is None and path and read_config(Path(str(path))):
        return Path(str(path))
    return folder


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / run_dir.MANIFEST
    manifest = json_files.read_json(file, "the run's manifest") if file.exists() else {}
    return manifest if isinstance(manifest, dict) else {}


def _describe_model(config: dict[str, Any]) -> str:
    args = get_nested(config, "model", "model_args") or {}
    if path := args.get(PATH):
        return str(path)
    sizes = _format_pairs(
        {key: value for key, value in args.items() if isinstance(value, int)}, "="
    )
    return f"a new one ({sizes})" if sizes else ""


def _count_parameters(folder: Path) -> str:
    """Count the values in a run's final weights, from the headers of their files."""
    final = folder / run_dir.FINAL
    count = 0
    for file in sorted(final.glob("*.safetensors")):
        try:
            header = _read_header(file)
        except ValueError:
            return ""
        for name, entry in header.items():
            if name != "__metadata__":
                count += math.prod(entry["shape"])
    what = " in the adapter" if (final / "adapter_config.json").exists() else ""
    return f"{count:,}{what}" if count else ""


def _read_header(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(HEADER_LENGTH), "little")
        return dict(json.loads(opened.read(length)))


def _list_method_facts(config: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("method", _format(get_nested(config, "trainer", "handler"))),
        ("its settings", _format_pairs(get_nested(config, "trainer", "method_args"), "=")),
        ("adapter", _format_pairs(get_nested(config, "model", "peft_args"), "=")),
        ("template", _format(config.get("template"))),
        ("compat", _format(config.get("compat"))),
    ]


def _list_schedule_facts(
    config: dict[str, Any], manifest: dict[str, Any], folder: Path
) -> list[tuple[str, str]]:
    args = get_nested(config, "trainer", "args") or {}
    return [
        ("learning rate", _describe_learning_rate(args)),
        ("optimizer", _format(args.get("optim"))),
        ("weight decay", _format(args.get("weight_decay"))),
        ("batch", _describe_batch(args, manifest.get("world") or 1)),
        ("length", _describe_length(args, folder)),
    ]


def _describe_learning_rate(args: dict[str, Any]) -> str:
    if args.get("learning_rate") is None:
        return ""
    words = [str(args["learning_rate"])]
    if schedule := args.get("lr_scheduler_type"):
        words.append(str(schedule))
    for key in ("warmup_steps", "warmup_ratio"):
        if args.get(key):
            return ", ".join([*words, f"warmup {args[key]}"])
    return ", ".join(words)


def _describe_batch(args: dict[str, Any], num_processes: int) -> str:
    """Say how many rows a step has, and how they are gathered where that is not one pass."""
    num_rows = args.get("per_device_train_batch_size")
    num_passes = args.get("gradient_accumulation_steps") or 1
    if not isinstance(num_rows, int) or not isinstance(num_passes, int):
        return ""
    batch = f"{num_rows * num_passes * num_processes} rows a step"
    if num_passes > 1 or num_processes > 1:
        batch += f" ({num_rows} a pass × {num_passes} passes × {num_processes} processes)"
    return batch


def _describe_length(args: dict[str, Any], folder: Path) -> str:
    words = []
    if (args.get("max_steps") or 0) > 0:
        words.append(f"{args['max_steps']} steps")
    elif args.get("num_train_epochs"):
        words.append(f"{args['num_train_epochs']} epochs")
    last = run_dir.read_last_metrics(folder) or {}
    if last.get("step"):
        words.append(f"{last['step']} steps done")
    return ", ".join(words)


def _list_data_facts(config: dict[str, Any]) -> list[tuple[str, str]]:
    """List the rows of each stream: where they are, and which of them."""
    facts = []
    data = config.get("data")
    for stream, parts in (data if isinstance(data, dict) else {}).items():
        if not isinstance(parts, dict):
            continue
        sources = []
        for part in parts.values():
            args = get_nested(part, "args", "hf_args") or {}
            sources.append(" ".join(str(args[key]) for key in PATH_KEYS if args.get(key)))
        if any(sources):
            facts.append((f"{stream} rows", ", ".join(filter(None, sources))))
    return facts


def _find_date(folder: Path, manifest: dict[str, Any]) -> str:
    """Find when a run was begun, or went on; of older ones, when its manifest was written."""
    file = folder / run_dir.MANIFEST
    try:
        begun = datetime.fromisoformat(str(manifest["date"]))
    except (KeyError, ValueError):
        if not file.exists():
            return ""
        begun = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return begun.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _summarize(facts: dict[str, str]) -> str:
    rate = f"learning rate {facts['learning rate']}" if "learning rate" in facts else ""
    words = [facts.get("method", ""), facts.get("its settings", ""), rate, facts.get("length", "")]
    return (
        ", ".join(word for word in words if word)
        or f"{facts.get('model', 'as it came')}, not trained"
    )


def _format_pairs(mapping: object, sign: str) -> str:
    """Write `a=1, b=2` of a mapping's plain values; what is null is left out."""
    if not isinstance(mapping, dict):
        return ""
    items = [(key, value) for key, value in mapping.items() if value is not None]
    return ", ".join(f"{key}{sign}{_format(value)}" for key, value in items)


def _format(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{_format_pairs(value, ': ')}}}"
    return "" if value is None else str(value)
