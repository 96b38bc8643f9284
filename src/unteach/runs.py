"""A run's folder: what is in it, and how files come into it whole or not at all.

config.yaml        the resolved configuration
manifest.json      command, date, versions, git commit, seeds, fingerprints of data and weights
metrics.jsonl      one line per logged step
method.json        what a method had of its own: RMU's control vector, PDU's multiplier
final_checkpoint/  the model, its tokenizer and template
evals/             <SUITE>_EVAL.json, <SUITE>_SUMMARY.json, <SUITE>_ABSENT.json…
evals_before/      the same of the weights that the run started from
DONE.json          written last: the run is finished
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from unteach.errors import UserError

FINAL, DONE, CONFIG, MANIFEST = "final_checkpoint", "DONE.json", "config.yaml", "manifest.json"
METRICS, EVALS, FINGERPRINTS, METHOD = "metrics.jsonl", "evals", "fingerprints.json", "method.json"
EVALS_BEFORE = "evals_before"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder; on success it is synced to disk and takes `path`'s place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; NaN and infinity, which JSON does not have, become null."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def read_json(path: Path, what: str) -> Any:
    """Reads a JSON file that the user named, or says what is wrong with it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what}: there is no file {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what}: {path} is not whole JSON ({error}); make it again or name another file") from None


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `folder`; on success it is synced to disk and takes `folder`'s place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in (path for path in temporary.rglob("*") if path.is_file()):
            with file.open("rb") as written:
                os.fsync(written.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def model_folder(path: str) -> str:
    """A run folder stands for the model it holds: gives its `final_checkpoint`; any other path or hub id as it is."""
    final = Path(path) / FINAL
    return str(final) if final.is_dir() and not (Path(path) / "config.json").exists() else path


def digest(value: Any) -> str:
    """A short hash of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sweep(folder: Path, name: str = "*") -> None:
    """Removes what a killed process left half-written: temporary names that never took their place."""
    for leftover in folder.glob(f".{name}.????????"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def keep_lines(path: Path, last_step: int) -> None:
    """Drops the lines of a metrics file that are of later steps, or torn."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            if json.loads(line).get("step", 0) <= last_step:
                kept.append(line + "\n")
    write_text(path, "".join(kept))


def last_metrics(folder: Path) -> dict[str, Any] | None:
    """The last whole line of a run's metrics file, if there is one."""
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            found: dict[str, Any] = json.loads(line)
            return found
    return None


def is_done(folder: Path) -> bool:
    return (folder / DONE).exists()


def has_begun(folder: Path) -> bool:
    """Say whether a run's folder holds anything that was learned or measured: a step, a checkpoint, a result."""
    if last_metrics(folder) is not None or any((folder / name).exists() for name in (FINAL, DONE, EVALS)):
        return True
    return any(any(folder.glob(pattern)) for pattern in ("checkpoint-*", "*_EVAL.json"))


def fingerprint(path: Path) -> str:
    """sha256 of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        if file != path:
            digest.update(file.name.encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weights_fingerprint(path: Path, memory: Path) -> str:
    """sha256 of a model folder's weight files, remembered by their size, time and inode in the file `memory`."""
    told = [path / "config.json", path / "adapter_config.json"]
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.bin"), *told])
    files = [file for file in files if file.exists()]
    seen = [[str(file.resolve()), (s := file.stat()).st_size, s.st_mtime_ns, s.st_ino] for file in files]
    name = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    try:
        remembered = json.loads(memory.read_text())
    except (OSError, ValueError):
        remembered = {}
    if name not in remembered:
        digest = hashlib.sha256("".join(fingerprint(file) for file in files).encode()).hexdigest()
        remembered[name] = digest
        write_json(memory, remembered)
    return str(remembered[name])


def manifest(seed: int, **facts: Any) -> dict[str, Any]:
    """What a run needs to be told apart from every other: date, versions, commit, seed, and the facts given."""
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
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        if asked.returncode == 0:
            return asked.stdout.strip()
    return None


MAY_CHANGE = (
    "resume",
    "launch",
    "nproc",
    "retain_logs_path",
    "retain_model",
    "before_logs_path",
    "classifier_path",
    "eval",
    "trainer.args.logging_",
    "trainer.args.report_to",
    "trainer.args.run_name",
    "trainer.samples",
    "trainer.profiler",
    "wandb",
    "paths.model_cache_dir",
    "paths.data_cache_dir",
    "model.model_args.cache_dir",
    "model.tokenizer_args.cache_dir",
    "model.model_args.token",  # which runs kept before, and keep no more
    "model.tokenizer_args.token",
    "trainer.args.dataloader_",
    "trainer.args.do_eval",
)
"""Beginnings of the keys that may change between two calls, because they do not change what is learned."""
UNUSED_VARIABLES = (
    "tofu_path",
    "muse_path",
    "muse_train_path",
    "wmdp_path",
    "data_split",
    "data_sub_set",
    "world_seed",
    "forget_split",
    "retain_split",
    "holdout_split",
    "forget_set",
    "question_key",
    "retain_logs_path",
    "retain_model",
    "before_logs_path",
    "classifier_path",
    "max_new_tokens",
)
"""Variables of benchmarks: a configuration has those of them that something in it refers to, or that a command set."""


def open_run(folder: Path, tree: dict[str, Any], resume: str) -> str:
    """Says how a run's folder stands: `new`, `again` (begun, not finished), `done`, or `back`.

    `back`: it was begun, and now a checkpoint is named to go on from. resume=never moves an old folder aside. A run
    that ended before its first step has nothing to lose: with another configuration it is `new`.
    Raises UserError where the folder, or the checkpoint, belongs to another configuration.
    """
    named = resume not in ("auto", "never")
    if named and not Path(resume).is_dir():
        raise UserError(f"resume={resume}: must be auto, never, or a checkpoint folder; there is no such folder")
    if resume == "never" and folder.exists():
        print(f"moved the old {folder} to {move_aside(folder)}")
    if named and (owner := Path(resume).parent / CONFIG).exists():
        _refuse_another(Path(resume), _read_yaml(owner), tree, (*MAY_CHANGE, "task_name", "paths."))
    kept = folder / CONFIG
    if not kept.exists():
        return "new"
    old = _read_yaml(kept)
    if not has_begun(folder) and old != tree:
        return "new"
    _refuse_another(folder, old, tree, MAY_CHANGE)
    if named and old.get("resume") != resume:
        return "back"
    return "done" if is_done(folder) else "again"


def refuse_changed_files(folder: Path) -> None:
    """Raise UserError where a file of rows that a finished run was trained on is there and has changed since."""
    began = read_json(folder / MANIFEST, "the run's manifest").get("files", {}) if (folder / MANIFEST).exists() else {}
    changed = [name for name, digest in began.items() if Path(name).is_file() and fingerprint(Path(name)) != digest]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not what {folder} was trained on. resume=never trains anew and moves the old "
            "folder aside; another task_name keeps both"
        )


def _refuse_another(folder: Path, old: Any, new: Any, may_change: tuple[str, ...]) -> None:
    found = differences(_used_by_both(old, new), _used_by_both(new, old))
    changed = [key for key in found if not key.startswith(may_change)]
    if changed:
        raise UserError(
            f"{folder} holds a run of another configuration; these keys differ: {', '.join(changed)}.\n"
            f"  Use another task_name ({free_name(folder)} is free), or resume=never to move the old folder aside."
        )


def free_name(folder: Path) -> str:
    """Give the first name of the form <name>-N, N from 2 on, that no folder beside this one has."""
    return next(name for n in range(2, 10_000) if not folder.with_name(name := f"{folder.name}-{n}").exists())


def _used_by_both(tree: Any, other: Any) -> Any:
    """A tree without the variables that the other one lacks: nothing there refers to them, so they change nothing."""
    if not (isinstance(tree, dict) and isinstance(other, dict)):
        return tree
    return {name: value for name, value in tree.items() if name in other or name not in UNUSED_VARIABLES}


def move_aside(path: Path) -> Path:
    """Gives a file or folder the first free name of the form <name>.oldN; returns it."""
    aside = next(p for i in range(1, 10_000) if not (p := path.with_name(f"{path.name}.old{i}")).exists())
    return path.rename(aside)


def _read_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The dotted keys at which two trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [d for key in keys for d in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)]
    return [] if old == new else [path]
