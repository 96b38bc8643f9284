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
from unteach.report.origin import ConfigTree, get_nested, read_config

HEADER_LENGTH = 8
"""Bytes at the start of a safetensors file that hold the length of its header."""
PATH_KEYS = ("path", "data_dir", "data_files", "name", "split", "part")
WARMUP_KEYS = ("warmup_steps", "warmup_ratio")

Manifest = dict[str, Any]
Fact = tuple[str, str]
"""What is said, and its value; "" where the folder does not say it."""


@dataclass(frozen=True)
class Recipe:
    """One run.

    Attributes:
        summary: a line that sums it up.
        facts: (what, value) of all that its folder says of how it was made.
    """

    summary: str
    facts: list[Fact]


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
    run_folder = os.path.relpath(run.folder, beside)
    versions = _format_pairs(manifest.get("versions"), " ")
    facts = [
        ("model", _describe_model(config)),
        ("parameters", _count_parameters(folder)),
        *_list_method_facts(config),
        *_list_schedule_facts(config, manifest, folder),
        ("seed", _format(config.get("seed"))),
        *_list_data_facts(config),
        ("made on", _find_date(folder, manifest)),
        ("versions", versions),
        ("git commit", _format(manifest.get("git"))),
        ("command", _format(manifest.get("command"))),
        ("folder", run_folder),
    ]
    if folder != run.folder:
        trained_in = os.path.relpath(folder, beside)
        facts.append(("trained in", trained_in))
    known = [(what, value) for what, value in facts if value]
    summary = _summarize(dict(known))
    return Recipe(summary, known)


def find_training_folder(folder: Path, config: ConfigTree) -> Path:
    """Find the folder of the run that trained a model: the run's own, or the one that an evaluation
    names."""
    path = get_nested(config, "model", "model_args", PATH)
    if config.get("trainer") is not None or not path:
        return folder
    model_dir = Path(str(path))
    return model_dir if read_config(model_dir) else folder


def _read_manifest(folder: Path) -> Manifest:
    file = folder / run_dir.MANIFEST
    if not file.exists():
        return {}
    manifest = json_files.read_json(file, "the run's manifest")
    return manifest if isinstance(manifest, dict) else {}


def _describe_model(config: ConfigTree) -> str:
    """Name the weights that training began from; of new ones, say their sizes."""
    args = get_nested(config, "model", "model_args") or {}
    path = args.get(PATH)
    if path:
        return str(path)
    numbers = {}
    for key, value in args.items():
        if isinstance(value, int):
            numbers[key] = value
    sizes = _format_pairs(numbers, "=")
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
    if not count:
        return ""
    is_adapter = (final / "adapter_config.json").exists()
    return f"{count:,} in the adapter" if is_adapter else f"{count:,}"


def _read_header(file: Path) -> dict[str, Any]:
    """Read what a safetensors file says of its tensors, by name, without the tensors.

    Raises:
        ValueError: the file is not one.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(HEADER_LENGTH), "little")
        header = json.loads(opened.read(length))
    return dict(header)


def _list_method_facts(config: ConfigTree) -> list[Fact]:
    """List how the loss was made, and what it was taken of."""
    handler = get_nested(config, "trainer", "handler")
    method_args = get_nested(config, "trainer", "method_args")
    peft_args = get_nested(config, "model", "peft_args")
    return [
        ("method", _format(handler)),
        ("its settings", _format_pairs(method_args, "=")),
        ("adapter", _format_pairs(peft_args, "=")),
        ("template", _format(config.get("template"))),
        ("compat", _format(config.get("compat"))),
    ]


def _list_schedule_facts(
    config: dict[str, Any],
    manifest: dict[str, Any],
    folder: Path,
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
    """Say the rate, its schedule and its warm-up."""
    rate = args.get("learning_rate")
    if rate is None:
        return ""
    words = [str(rate)]
    schedule = args.get("lr_scheduler_type")
    if schedule:
        words.append(str(schedule))
    warmups = [args[key] for key in WARMUP_KEYS if args.get(key)]
    if warmups:
        words.append(f"warmup {warmups[0]}")
    return ", ".join(words)


def _describe_batch(args: dict[str, Any], num_processes: int) -> str:
    """Say how many rows a step has, and how they are gathered where that is not one pass."""
    num_rows = args.get("per_device_train_batch_size")
    num_passes = args.get("gradient_accumulation_steps") or 1
    if not isinstance(num_rows, int) or not isinstance(num_passes, int):
        return ""
    total = num_rows * num_passes * num_processes
    batch = f"{total} rows a step"
    if num_passes > 1 or num_processes > 1:
        batch += f" ({num_rows} a pass × {num_passes} passes × {num_processes} processes)"
    return batch


def _describe_length(args: dict[str, Any], folder: Path) -> str:
    """Say how long training was to be, and how many steps of it were done."""
    words = []
    max_steps = args.get("max_steps") or 0
    num_epochs = args.get("num_train_epochs")
    if max_steps > 0:
        words.append(f"{max_steps} steps")
    elif num_epochs:
        words.append(f"{num_epochs} epochs")
    last = run_dir.read_last_metrics(folder) or {}
    num_done = last.get("step")
    if num_done:
        words.append(f"{num_done} steps done")
    return ", ".join(words)


def _list_data_facts(config: ConfigTree) -> list[Fact]:
    """List the rows of each stream: where they are, and which of them."""
    data = config.get("data")
    if not isinstance(data, dict):
        return []
    facts = []
    for stream, parts in data.items():
        if not isinstance(parts, dict):
            continue
        sources = []
        for part in parts.values():
            args = get_nested(part, "args", "hf_args") or {}
            words = [str(args[key]) for key in PATH_KEYS if args.get(key)]
            if words:
                sources.append(" ".join(words))
        if sources:
            rows = ", ".join(sources)
            facts.append((f"{stream} rows", rows))
    return facts


def _find_date(folder: Path, manifest: Manifest) -> str:
    """Find when a run was begun, or went on; of older ones, when its manifest was written."""
    file = folder / run_dir.MANIFEST
    try:
        begun = datetime.fromisoformat(str(manifest["date"]))
    except (KeyError, ValueError):
        if not file.exists():
            return ""
        written = file.stat().st_mtime
        begun = datetime.fromtimestamp(written, UTC)
    begun = begun.astimezone(UTC)
    return begun.strftime("%Y-%m-%d %H:%M UTC")


def _summarize(facts: dict[str, str]) -> str:
    """Sum a recipe up in a line: its method, and how that was run."""
    words = []
    if "method" in facts:
        words.append(facts["method"])
    if "its settings" in facts:
        words.append(facts["its settings"])
    if "learning rate" in facts:
        words.append(f"learning rate {facts['learning rate']}")
    if "length" in facts:
        words.append(facts["length"])
    if not words:
        model = facts.get("model", "as it came")
        return f"{model}, not trained"
    return ", ".join(words)


def _format_pairs(mapping: object, sign: str) -> str:
    """Write `a=1, b=2` of a mapping's plain values; what is null is left out."""
    if not isinstance(mapping, dict):
        return ""
    pairs = []
    for key, value in mapping.items():
        if value is not None:
            pairs.append(f"{key}{sign}{_format(value)}")
    return ", ".join(pairs)


def _format(value: object) -> str:
    """Write a value of a configuration, "" of null."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return f"{{{_format_pairs(value, ': ')}}}"
    return str(value)
