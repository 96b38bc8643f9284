"""A run's folder: what is in it, whose it is, and how far the run is.

config.yaml        the resolved configuration
manifest.json      command, date, versions, git commit, seeds, fingerprints of data and weights
metrics.jsonl      one line per logged step
final_checkpoint/  the model, its tokenizer and template
edit.json          what a one-shot edit says of what it did
landing.json       where the run landed on its budget (trainer.land)
adapter/           the adapter that was merged into the final model (model.merge_adapter)
evals/             <SUITE>_EVAL.json, <SUITE>_SUMMARY.json, <SUITE>_ABSENT.json…
evals_before/      the same of the weights that the run started from
DONE.json          written last: the run is finished

A folder with anything in it that is not a run of ours is refused, never cleared. How files come
into a folder whole or not at all is in `atomic`, who may write there at a time in `owner`.
"""

import enum
import itertools
from pathlib import Path
from typing import Any

from unteach.atomic import is_temporary, rename
from unteach.errors import UserError
from unteach.fingerprints import hash_files, hash_models
from unteach.json_files import read_log, read_mapping
from unteach.strict_yaml import read_yaml

FINAL, DONE, CONFIG, MANIFEST = "final_checkpoint", "DONE.json", "config.yaml", "manifest.json"
METRICS, EVALS = "metrics.jsonl", "evals"
EVALS_BEFORE, ADAPTER = "evals_before", "adapter"
EDIT, LANDING = "edit.json", "landing.json"
FORGET_RECORD, FORGET_MODEL = "record.json", "model"
"""In the folder of a request to forget: what was done, and the model that it gave."""
AUDIT, AUDIT_SUMMARY = "audit", "AUDIT_SUMMARY.json"
"""Where in a run's folder its audit lies, and what an audit's verdict is in."""
AUDIT_FINDINGS, AUDIT_STATEMENT = "AUDIT.json", "statement.json"
"""What an audit's findings are in, fact by fact, and its statement."""


class RunState(enum.Enum):
    """How far the run in a folder is before a command works in it."""

    NEW = "new"
    BEGUN = "begun"
    """Begun, and not finished: it goes on from its newest whole checkpoint."""
    DONE = "done"
    SENT_BACK = "sent back"
    """Begun, and now a checkpoint is named to go on from."""


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration in a run's folder.

    Raises:
        UserError: where it is not a run's, or damaged.
    """
    path = folder / CONFIG
    try:
        tree = read_yaml(path)
        if not isinstance(tree, dict):
            raise UserError(f"it holds {type(tree).__name__}")
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{path}: is no run's configuration, or it is damaged ({reason}). {ELSEWHERE}"
        ) from None
    return tree


def find_model_folder(path: str) -> str:
    """Find the model of a run's folder, its `final_checkpoint`, or that of a request to forget, its
    `model`; any other path or hub id is returned as it is."""
    folder = Path(path)
    if (folder / "config.json").exists():
        return path
    if (folder / FINAL).is_dir():
        return str(folder / FINAL)
    if (folder / FORGET_RECORD).exists() and (folder / FORGET_MODEL).is_dir():
        return str(folder / FORGET_MODEL)
    return path


def read_last_metrics(folder: Path) -> dict[str, Any] | None:
    """Read the last whole line of a run's metrics file, if there is one."""
    try:
        lines, _ = read_log(folder / METRICS)
    except OSError:
        return None
    return lines[-1] if lines else None


def is_done(folder: Path) -> bool:
    return (folder / DONE).exists()


def has_begun(folder: Path) -> bool:
    """Say whether a run's folder holds anything that was learned or measured: a step, a checkpoint,
    a result."""
    if read_last_metrics(folder) is not None:
        return True
    for pattern in (FINAL, DONE, EVALS, "checkpoint-*", "*_EVAL.json"):
        if any(folder.glob(pattern)):
            return True
    return False


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
"""Prefixes of the keys that may change between two calls, because they do not change what is
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


def open_run(folder: Path, tree: dict[str, Any], resume: str) -> RunState:
    """Find out how far the run in a folder is, and whether a command may go on with it.

    A run that ended before its first step has nothing to lose: with another configuration it is
    new.

    Args:
        folder: the run's.
        tree: the configuration of the command.
        resume: auto; never, which moves an old run aside; or a checkpoint.

    Raises:
        UserError: where the folder holds anything but a run, or it or the checkpoint is of another
            configuration.
    """
    is_named = resume not in ("auto", "never")
    if is_named:
        refuse_no_folder(resume)
    refuse_foreign(folder)
    config_path = folder / CONFIG
    if resume == "never" and config_path.exists():
        read_config(folder)
        _refuse_working_folder(folder)
        print(f"moved the old {folder} to {move_aside(folder)}")
    if is_named and (Path(resume).parent / CONFIG).exists():
        # A checkpoint of another run may be named, if it was made under the same configuration.
        old = read_config(Path(resume).parent)
        _refuse_other_config(Path(resume), old, tree, (*MAY_CHANGE, "task_name", "paths."))
    if not config_path.exists():
        return RunState.NEW
    old = read_config(folder)
    if not has_begun(folder) and old != tree:
        return RunState.NEW
    _refuse_other_config(folder, old, tree, MAY_CHANGE)
    if is_named and old.get("resume") != resume:
        return RunState.SENT_BACK
    return RunState.DONE if is_done(folder) else RunState.BEGUN


def refuse_no_folder(resume: str) -> None:
    """Raise UserError where `resume=PATH` names no folder."""
    path = Path(resume)
    if not path.is_dir():
        reason = "this is a file" if path.exists() else "there is no such folder"
        raise UserError(f"resume={resume}: must be auto, never, or a checkpoint folder; {reason}")


def refuse_foreign(folder: Path) -> None:
    """Raise UserError where a folder exists, is not empty, and holds no run: whatever it is, it is
    the user's."""
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return
    names = []
    for path in folder.iterdir():
        if not is_temporary(path) and path.name != ".unteach.lock":
            names.append(path.name)
    if not names or _is_evals_of_run(folder):
        return
    names.sort()
    content = ", ".join(names[:5])
    if len(names) > 5:
        content += f" and {len(names) - 5} more"
    raise UserError(
        f"{folder}: holds {content}, and no run of unteach; nothing is written into it. {ELSEWHERE}"
    )


def _is_evals_of_run(folder: Path) -> bool:
    """Say whether a folder is the `evals/` of a run, into which `unteach eval` may write too."""
    return folder.name == EVALS and (folder.parent / CONFIG).is_file()


def _refuse_working_folder(folder: Path) -> None:
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(
            f"resume=never would move {folder.resolve()} aside, in which this command runs; run it "
            f"from another folder"
        )


def find_owned_folder(folder: Path) -> Path:
    """Find the folder whose lock covers a folder: the run's, where it is the `evals/` of one."""
    return folder.parent if _is_evals_of_run(folder) else folder


def refuse_changed_inputs(folder: Path, memory: Path) -> None:
    """Raise UserError where rows or weights that a finished run was made of exist and have changed
    since.

    Args:
        folder: the run's.
        memory: the file in which digests of weights are remembered.
    """
    manifest_path = folder / MANIFEST
    manifest: dict[str, Any] = {}
    if manifest_path.exists():
        manifest = read_mapping(manifest_path, "the run's manifest")
    files = manifest.get("files") or {}
    models = manifest.get("models") or {}
    changed = []
    for name, digest in files.items():
        if Path(name).is_file() and hash_files(Path(name)) != digest:
            changed.append(name)
    for name, digest in hash_models(list(models), memory).items():
        if models[name] != digest:
            changed.append(name)
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not what {folder} was trained on. resume=never trains anew and "
            "moves the old folder aside; another task_name keeps both"
        )


def _refuse_other_config(
    folder: Path, old: dict[str, Any], new: dict[str, Any], may_change: tuple[str, ...]
) -> None:
    """Raise UserError where two configurations differ in a key that may not change."""
    differences = list_differences(
        _drop_unused_variables(old, new), _drop_unused_variables(new, old)
    )
    changed = [key for key in differences if not key.startswith(may_change)]
    if changed:
        raise UserError(
            f"{folder} holds a run of another configuration; these keys differ: "
            f"{', '.join(changed)}.\n"
            f"  Use another task_name ({find_free_name(folder)} is free), or resume=never to move "
            f"the old folder aside."
        )


def _drop_unused_variables(tree: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Drop the variables that the other tree lacks: nothing there refers to them, so they change
    nothing."""
    kept = {}
    for name, value in tree.items():
        if name in other or name not in UNUSED_VARIABLES:
            kept[name] = value
    return kept


def find_free_name(folder: Path) -> str:
    """Find the first name <name>-N, with N from 2 on, that no folder beside this one has."""
    for number in itertools.count(2):
        name = f"{folder.name}-{number}"
        if not folder.with_name(name).exists():
            break
    return name


def move_aside(path: Path) -> Path:
    """Rename a file or folder to the first free name <name>.oldN, and return the new path."""
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.old{number}")
        if not aside.exists():
            break
    rename(path, aside)
    return aside


def list_differences(old: object, new: object, path: str = "") -> list[str]:
    """List the dotted keys at which two trees differ."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [path]
    differences = []
    for key in dict.fromkeys([*old, *new]):
        key_path = f"{path}.{key}" if path else key
        differences += list_differences(old.get(key), new.get(key), key_path)
    return differences
