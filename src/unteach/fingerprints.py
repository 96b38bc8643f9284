"""Hashes of values, files and weights, and the manifest that says what a run is made of."""

import contextlib
import hashlib
import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from unteach.atomic import write_json

MEMORY_FILE = "fingerprints.json"
"""The file of a cache folder in which digests of weights are remembered."""


def hash_value(value: object) -> str:
    """Take a short hash of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def hash_files(path: Path) -> str:
    """Take the sha256 of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        if file != path:
            digest.update(file.name.encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def hash_weights(path: Path, memory: Path) -> str:
    """Take the sha256 of a model folder's weight files, remembered by their size, time and inode in
    the file `memory`."""
    configs = [path / "config.json", path / "adapter_config.json"]
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.bin"), *configs])
    files = [file for file in files if file.exists()]
    stats = []
    for file in files:
        stat = file.stat()
        stats.append([str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    name = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    try:
        remembered = json.loads(memory.read_text())
    except (OSError, ValueError, RecursionError):
        remembered = {}
    if not isinstance(remembered, dict):
        remembered = {}
    if name not in remembered:
        digests = "".join(hash_files(file) for file in files)
        remembered[name] = hashlib.sha256(digests.encode()).hexdigest()
        write_json(memory, remembered)
    return str(remembered[name])


def hash_models(paths: list[str | None], memory: Path) -> dict[str, str]:
    """Take the sha256 of the weights in each of these that is a folder here, by its name."""
    folders = [Path(path) for path in paths if path and Path(path).is_dir()]
    return {str(folder): hash_weights(folder, memory) for folder in folders}


def build_manifest(seed: int, **facts: object) -> dict[str, Any]:
    """Say what tells a run apart from every other: date, versions, commit, seed, and the
    facts given."""
    versions = {}
    for package in ("unteach", "torch", "transformers", "accelerate", "peft", "datasets"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
        "git": _git_commit(),
        "seed": seed,
        **facts,
    }


def _git_commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return None
