"""How the models of a report were made, from what each run keeps of itself: settings, versions,
losses."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unteach import json_files, run_dir
from unteach.config.schema import PATH
from unteach.report.collect import RunResult, finite
from unteach.report.origin import at, read_config

MOST_POINTS = 200
"""Of one loss curve; more would only make the page larger."""
HEADER_LENGTH = 8
"""Bytes at the start of a safetensors file that hold the length of its header."""
PATH_KEYS = ("path", "data_dir", "data_files", "name", "split", "part")


@dataclass(frozen=True)
class Recipe:
    """One run: a line that sums it up, and (what, value) of all that its folder says of how it was
    made."""

    summary: str
    facts: list[tuple[str, str]]


Curve = tuple[int, list[int], list[float]]
"""A run's place in the list, its steps, its values."""


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
    folder = trained_in(run.folder, config)
    if folder != run.folder:
        config = read_config(folder)
    manifest = _read_manifest(folder)
    facts = [
        ("model", _describe_model(config)),
        ("parameters", _count_parameters(folder)),
        *_method_facts(config),
        *_schedule_facts(config, manifest, folder),
        ("seed", _text(config.get("seed"))),
        *_data_facts(config),
        ("made on", _date(folder, manifest)),
        ("versions", _pairs(manifest.get("versions"), " ")),
        ("git commit", _text(manifest.get("git"))),
        ("command", _text(manifest.get("command"))),
        ("folder", os.path.relpath(run.folder, beside)),
    ]
    if folder != run.folder:
        facts.append(("trained in", os.path.relpath(folder, beside)))
    told = [(what, value) for what, value in facts if value]
    return Recipe(_summarize(dict(told)), told)


def trained_in(folder: Path, config: dict[str, Any]) -> Path:
    """Give the folder of the run that trained a model: the run's own, or the one that an evaluation
    names."""
    path = at(config, "model", "model_args", PATH)
    if config.get("trainer") is None and path and read_config(Path(str(path))):
        return Path(str(path))
    return folder


def loss_curves(runs: list[RunResult]) -> dict[str, list[Curve]]:
    """Read every loss that the runs logged, by its name: the whole loss first, then its terms."""
    found: dict[str, list[Curve]] = {}
    for place, run in enumerate(runs):
        if run.kind == "start":  # its folder is another run's
            continue
        for name, (steps, values) in _read_losses(
            trained_in(run.folder, read_config(run.folder))
        ).items():
            found.setdefault(name, []).append((place, *_thin(steps, values)))
    names = sorted(found, key=lambda name: (name != "loss", name))
    return {name: found[name] for name in names}


def _read_losses(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    losses: dict[str, tuple[list[int], list[float]]] = {}
    try:
        lines = (folder / run_dir.METRICS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            logged = json.loads(line)
        except ValueError:  # the line that a run is just writing
            continue
        for name, logged_value in logged.items():
            value = finite(logged_value)
            if (
                value is not None
                and (name == "loss" or name.endswith("_loss"))
                and "step" in logged
            ):
                steps, values = losses.setdefault(name, ([], []))
                steps.append(int(logged["step"]))
                values.append(value)
    return {name: curve for name, curve in losses.items() if len(curve[0]) > 1}


def _thin(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Keep at most MOST_POINTS points of a curve, evenly, and its last."""
    stride = -(-len(steps) // MOST_POINTS)
    places = sorted({*range(0, len(steps), stride), len(steps) - 1})
    return [steps[place] for place in places], [float(f"{values[place]:.5g}") for place in places]


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / run_dir.MANIFEST
    found = json_files.read_json(file, "the run's manifest") if file.exists() else {}
    return found if isinstance(found, dict) else {}


def _describe_model(config: dict[str, Any]) -> str:
    args = at(config, "model", "model_args") or {}
    if path := args.get(PATH):
        return str(path)
    sizes = _pairs({key: value for key, value in args.items() if isinstance(value, int)}, "=")
    return f"a new one ({sizes})" if sizes else ""


def _count_parameters(folder: Path) -> str:
    """Count the values in a run's final weights, from the headers of their files."""
    final = folder / run_dir.FINAL
    files = sorted(final.glob("*.safetensors"))
    count = 0
    for file in files:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(HEADER_LENGTH), "little")
            try:
                header = json.loads(opened.read(length))
            except ValueError:
                return ""
        for name, entry in header.items():
            if name != "__metadata__":
                size = 1
                for side in entry["shape"]:
                    size *= side
                count += size
    what = " in the adapter" if (final / "adapter_config.json").exists() else ""
    return f"{count:,}{what}" if count else ""


def _method_facts(config: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("method", _text(at(config, "trainer", "handler"))),
        ("its settings", _pairs(at(config, "trainer", "method_args"), "=")),
        ("adapter", _pairs(at(config, "model", "peft_args"), "=")),
        ("template", _text(config.get("template"))),
        ("compat", _text(config.get("compat"))),
    ]


def _schedule_facts(
    config: dict[str, Any], manifest: dict[str, Any], folder: Path
) -> list[tuple[str, str]]:
    args = at(config, "trainer", "args") or {}
    warmup = next(
        (f", warmup {args[key]}" for key in ("warmup_steps", "warmup_ratio") if args.get(key)), ""
    )
    schedule = args.get("lr_scheduler_type")
    rate = args.get("learning_rate")
    rows = args.get("per_device_train_batch_size")
    gathered = args.get("gradient_accumulation_steps") or 1
    processes = manifest.get("world") or 1
    batch = ""
    if isinstance(rows, int) and isinstance(gathered, int):
        batch = f"{rows * gathered * processes} rows a step"
        if gathered > 1 or processes > 1:
            batch += f" ({rows} a pass × {gathered} passes × {processes} processes)"
    last = run_dir.read_last_metrics(folder) or {}
    planned = f"{args['max_steps']} steps" if (args.get("max_steps") or 0) > 0 else ""
    if not planned and args.get("num_train_epochs"):
        planned = f"{args['num_train_epochs']} epochs"
    done = f", {last['step']} steps done" if last.get("step") else ""
    learning = (
        ""
        if rate is None
        else ", ".join([str(rate), *([str(schedule)] if schedule else [])]) + warmup
    )
    return [
        ("learning rate", learning),
        ("optimizer", _text(args.get("optim"))),
        ("weight decay", _text(args.get("weight_decay"))),
        ("batch", batch),
        ("length", f"{planned}{done}".removeprefix(", ")),
    ]


def _data_facts(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of each stream: where they are, and which of them."""
    facts = []
    data = config.get("data")
    for stream, parts in (data if isinstance(data, dict) else {}).items():
        if not isinstance(parts, dict):
            continue
        sources = []
        for part in parts.values():
            args = at(part, "args", "hf_args") or {}
            words = [str(args[key]) for key in PATH_KEYS if args.get(key)]
            sources.append(" ".join(words))
        if told := ", ".join(source for source in sources if source):
            facts.append((f"{stream} rows", told))
    return facts


def _date(folder: Path, manifest: dict[str, Any]) -> str:
    """When a run was begun, or went on; of older ones, when its manifest was written."""
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


def _pairs(mapping: Any, sign: str) -> str:
    """`a=1, b=2` of a mapping's plain values; what is null is left out."""
    if not isinstance(mapping, dict):
        return ""
    return ", ".join(
        f"{key}{sign}{_text(value)}" for key, value in mapping.items() if value is not None
    )


def _text(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{_pairs(value, ': ')}}}"
    return "" if value is None else str(value)
