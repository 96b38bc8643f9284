"""Hash values, files and weights, and build the manifest that says what a run is made of."""

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

DECODING_FILE = "decoding.json"
"""What makes a folder one of two models whose logits are combined (models/decoding_folder.py)."""
MEMORY_FILE = "fingerprints.json"
"""The file of a cache folder in which digests of weights are remembered."""
BLOCK_BYTES = 1 << 20


def hash_value(value: object) -> str:
    """Compute a short hash of a plain value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_files(path: Path) -> str:
    """Compute the sha256 of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    if path.is_file():
        _update_from_file(digest, path)
        return digest.hexdigest()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(file.name.encode())
        _update_from_file(digest, file)
    return digest.hexdigest()


def _update_from_file(digest: "hashlib._Hash", file: Path) -> None:
    with file.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            digest.update(block)


def hash_weights(path: Path, memory: Path) -> str:
    """Compute the sha256 of a model folder's weight files.

    Of a folder of two models, those of both and what says how their logits are combined.

    Args:
        path: the model's folder.
        memory: the file in which digests are remembered, by size, time and inode of the files.
    """
    candidates = []
    folders = [path]
    if (path / DECODING_FILE).exists():
        candidates.append(path / DECODING_FILE)
        folders += [child for child in path.iterdir() if child.is_dir()]
    for folder in folders:
        candidates += [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        candidates += [folder / "config.json", folder / "adapter_config.json"]
    files = sorted(file for file in candidates if file.exists())
    stats = []
    for file in files:
        stat = file.stat()
        stats.append([str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    key = hashlib.sha256(json.dumps(stats).encode()).hexdigest()

    remembered = _read_memory(memory)
    if key not in remembered:
        digests = "".join(hash_files(file) for file in files)
        remembered[key] = hashlib.sha256(digests.encode()).hexdigest()
        write_json(memory, remembered)
    return str(remembered[key])


def _read_memory(memory: Path) -> dict[str, Any]:
    """Read the digests that are remembered; none where the file is missing or damaged."""
    try:
        remembered = json.loads(memory.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


def hash_models(paths: list[str | None], memory: Path) -> dict[str, str]:
    """Compute the sha256 of the weights in each path that is a folder of this machine."""
    hashes = {}
    for path in paths:
        if path and Path(path).is_dir():
            hashes[str(Path(path))] = hash_weights(Path(path), memory)
    return hashes


def build_manifest(seed: int, **facts: object) -> dict[str, Any]:
    """Build what tells a run apart from every other: date, versions, commit, seed, and `facts`."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": list_versions(),
        "git": _read_git_commit(),
        "seed": seed,
        **facts,
    }


def list_versions() -> dict[str, str]:
    """List the versions of what a run computes with, by package; none of one that is absent."""
    versions = {}
    for package in ("unteach", "torch", "transformers", "accelerate", "peft", "datasets"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _read_git_commit() -> str | None:
    """Read the commit of the working folder; None where it is in no repository."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
