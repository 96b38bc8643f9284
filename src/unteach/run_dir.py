"""A run's folder: what is in it, whose it is, and how it stands.

config.yaml        the resolved configuration
manifest.json      command, date, versions, git commit, seeds, fingerprints of data and weights
metrics.jsonl      one line per logged step
method.json        what a method had of its own: RMU's control vector, PDU's multiplier
final_checkpoint/  the model, its tokenizer and template
adapter/           the adapter that was merged into the final model (model.merge_adapter)
evals/             <SUITE>_EVAL.json, <SUITE>_SUMMARY.json, <SUITE>_ABSENT.json…
evals_before/      the same of the weights that the run started from
DONE.json          written last: the run is finished

A folder with anything in it that is not a run of ours is refused, never cleared. How files come
into a folder whole or not at all is in `atomic`, who may write there at a time in `owner`.
"""

import contextlib
import hashlib
import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeGuard

from unteach.atomic import is_temporary, rename, replacing, replacing_folder, write_json, write_text
from unteach.errors import UserError, explain_unreadable
from unteach.strict_yaml import read_yaml

__all__ = ["replacing", "replacing_folder", "write_json", "write_text"]

FINAL, DONE, CONFIG, MANIFEST = "final_checkpoint", "DONE.json", "config.yaml", "manifest.json"
METRICS, EVALS, FINGERPRINTS, METHOD = "metrics.jsonl", "evals", "fingerprints.json", "method.json"
EVALS_BEFORE, ADAPTER = "evals_before", "adapter"


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file that the user named, or say what is wrong with it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what}: there is no file {path}") from None
    except (ValueError, RecursionError) as error:
        said = explain_unreadable(error)
        raise UserError(
            f"{what}: {path} is not whole JSON ({said}); make it again or name another file"
        ) from None


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file of ours that holds a mapping, or say what is wrong with it."""
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise UserError(
            f"{what}: {path} is damaged: it must hold a mapping, and holds {type(value).__name__}"
        )
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration that a run's folder holds, or say what is wrong with it."""
    path = folder / CONFIG
    try:
        tree = read_yaml(path)
    except UserError as error:
        said = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{path}: is no run's configuration, or it is damaged ({said}). {ELSEWHERE}"
        ) from None
    if not isinstance(tree, dict):
        found = type(tree).__name__
        raise UserError(
            f"{path}: is no run's configuration, or it is damaged (it holds {found}). {ELSEWHERE}"
        )
    return tree


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a metrics file: its whole lines, and how many are torn or of another shape."""
    lines: list[dict[str, Any]] = []
    num_torn = 0
    for line in path.read_bytes().splitlines() if path.exists() else []:
        value = None
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line.decode("utf-8"))
            if b"\\u" in line:  # half a character, which no table can hold
                value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        if is_line(value):
            lines.append(value)
        else:
            num_torn += 1
    return lines, num_torn


def is_line(value: Any) -> TypeGuard[dict[str, Any]]:
    """Say whether a value is a line of a log: what was logged, at a step if it has one."""
    return isinstance(value, dict) and isinstance(value.get("step", 0), int | float)


def model_folder(path: str) -> str:
    """A run folder stands for the model it holds: gives its `final_checkpoint`; any other path or
    hub id as it is."""
    final = Path(path) / FINAL
    return str(final) if final.is_dir() and not (Path(path) / "config.json").exists() else path


def digest(value: Any) -> str:
    """A short hash of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def keep_lines(path: Path, last_step: int) -> None:
    """Drop the lines of a metrics file that will be written again: those of later steps, and what
    follows the line that closes a run. Torn lines go too."""
    lines = [line for line in read_lines(path)[0] if line.get("step", 0) <= last_step]
    closing = next(
        (index for index, line in enumerate(lines) if "train_runtime" in line), len(lines)
    )
    _write_lines(path, lines[: closing + 1])


def drop_closing_line(path: Path) -> None:
    """Drop the line that closes a run's metrics file: whoever trains on writes it again."""
    _write_lines(path, [line for line in read_lines(path)[0] if "train_runtime" not in line])


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def last_metrics(folder: Path) -> dict[str, Any] | None:
    """The last whole line of a run's metrics file, if there is one."""
    try:
        lines, _ = read_lines(folder / METRICS)
    except OSError:
        return None
    return lines[-1] if lines else None


def is_done(folder: Path) -> bool:
    return (folder / DONE).exists()


def has_begun(folder: Path) -> bool:
    """Say whether a run's folder holds anything that was learned or measured: a step, a checkpoint,
    a result."""
    if last_metrics(folder) is not None or any(
        (folder / name).exists() for name in (FINAL, DONE, EVALS)
    ):
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
    """sha256 of a model folder's weight files, remembered by their size, time and inode in the file
    `memory`."""
    told = [path / "config.json", path / "adapter_config.json"]
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.bin"), *told])
    files = [file for file in files if file.exists()]
    seen = [
        [str(file.resolve()), (s := file.stat()).st_size, s.st_mtime_ns, s.st_ino] for file in files
    ]
    name = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    try:
        remembered = json.loads(memory.read_text())
    except (OSError, ValueError, RecursionError):
        remembered = {}
    if not isinstance(remembered, dict):
        remembered = {}
    if name not in remembered:
        digest = hashlib.sha256("".join(fingerprint(file) for file in files).encode()).hexdigest()
        remembered[name] = digest
        write_json(memory, remembered)
    return str(remembered[name])


def manifest(seed: int, **facts: Any) -> dict[str, Any]:
    """What a run needs to be told apart from every other: date, versions, commit, seed, and the
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
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
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
"""Beginnings of the keys that may change between two calls, because they do not change what is
learned."""
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
"""Variables of benchmarks: a configuration has those of them that something in it refers to, or
that a command set."""


ELSEWHERE = "Name another folder (task_name, paths.output_dir), or move what is there away"


def open_run(folder: Path, tree: dict[str, Any], resume: str) -> str:
    """Say how a run's folder stands: `new`, `again` (begun, not finished), `done`, or `back`.

    `back`: it was begun, and now a checkpoint is named to go on from. resume=never moves an old run
    aside. A run that ended before its first step has nothing to lose: with another configuration it
    is `new`. Raises UserError where the folder holds anything but a run, or it or the checkpoint is
    of another configuration.
    """
    named = resume not in ("auto", "never")
    if named:
        refuse_no_folder(resume)
    refuse_foreign(folder)
    kept = folder / CONFIG
    if resume == "never" and kept.exists():
        read_config(folder)
        _refuse_working_folder(folder)
        print(f"moved the old {folder} to {move_aside(folder)}")
    if named and (Path(resume).parent / CONFIG).exists():
        old = read_config(Path(resume).parent)
        _refuse_another(Path(resume), old, tree, (*MAY_CHANGE, "task_name", "paths."))
    if not kept.exists():
        return "new"
    old = read_config(folder)
    if not has_begun(folder) and old != tree:
        return "new"
    _refuse_another(folder, old, tree, MAY_CHANGE)
    if named and old.get("resume") != resume:
        return "back"
    return "done" if is_done(folder) else "again"


def refuse_no_folder(resume: str) -> None:
    """Raise UserError where `resume=PATH` names no folder."""
    path = Path(resume)
    if not path.is_dir():
        found = "this is a file" if path.exists() else "there is no such folder"
        raise UserError(f"resume={resume}: must be auto, never, or a checkpoint folder; {found}")


def refuse_foreign(folder: Path) -> None:
    """Raise UserError where a folder is there, is not empty, and holds no run: it is the user's,
    whatever it is."""
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return
    found = sorted(
        path.name
        for path in folder.iterdir()
        if not is_temporary(path) and path.name != ".unteach.lock"
    )
    if not found or _is_evaluation_of_run(folder):
        return
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    raise UserError(
        f"{folder}: holds {shown}, and no run of unteach; nothing is written into it. {ELSEWHERE}"
    )


def _is_evaluation_of_run(folder: Path) -> bool:
    """Whether a folder is the `evals/` of a run, into which `unteach eval` may write too."""
    return folder.name == EVALS and (folder.parent / CONFIG).is_file()


def _refuse_working_folder(folder: Path) -> None:
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(
            f"resume=never would move {folder.resolve()} aside, in which this command runs; run it "
            f"from another folder"
        )


def root_of(folder: Path) -> Path:
    """The folder whose owner may write here: the run, where this is the `evals/` of one."""
    return folder.parent if _is_evaluation_of_run(folder) else folder


def fingerprints_of_models(paths: list[str | None], memory: Path) -> dict[str, str]:
    """sha256 of the weights in each of these that is a folder here, by its name."""
    folders = [Path(path) for path in paths if path and Path(path).is_dir()]
    return {str(folder): weights_fingerprint(folder, memory) for folder in folders}


def refuse_changed_inputs(folder: Path, memory: Path) -> None:
    """Raise UserError where rows or weights that a finished run was made of are there and have
    changed since.

    memory: where digests of weights are remembered.
    """
    file = folder / MANIFEST
    began = read_mapping(file, "the run's manifest") if file.exists() else {}
    files, models = began.get("files") or {}, began.get("models") or {}
    changed = [
        name
        for name, digest in files.items()
        if Path(name).is_file() and fingerprint(Path(name)) != digest
    ]
    now = fingerprints_of_models(list(models), memory)
    changed += [name for name, digest in now.items() if models[name] != digest]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not what {folder} was trained on. resume=never trains anew and "
            "moves the old folder aside; another task_name keeps both"
        )


def _refuse_another(folder: Path, old: Any, new: Any, may_change: tuple[str, ...]) -> None:
    found = differences(_used_by_both(old, new), _used_by_both(new, old))
    changed = [key for key in found if not key.startswith(may_change)]
    if changed:
        raise UserError(
            f"{folder} holds a run of another configuration; these keys differ: "
            f"{', '.join(changed)}.\n"
            f"  Use another task_name ({free_name(folder)} is free), or resume=never to move the "
            f"old folder aside."
        )


def free_name(folder: Path) -> str:
    """Give the first name of the form <name>-N, N from 2 on, that no folder beside this one has."""
    return next(
        name
        for n in range(2, 10_000)
        if not folder.with_name(name := f"{folder.name}-{n}").exists()
    )


def _used_by_both(tree: Any, other: Any) -> Any:
    """A tree without the variables that the other one lacks: nothing there refers to them, so they
    change nothing."""
    if not (isinstance(tree, dict) and isinstance(other, dict)):
        return tree
    return {
        name: value for name, value in tree.items() if name in other or name not in UNUSED_VARIABLES
    }


def move_aside(path: Path) -> Path:
    """Give a file or folder the first free name of the form <name>.oldN; returns it."""
    aside = next(
        p for i in range(1, 10_000) if not (p := path.with_name(f"{path.name}.old{i}")).exists()
    )
    rename(path, aside)
    return aside


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The dotted keys at which two trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            d
            for key in keys
            for d in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [path]
