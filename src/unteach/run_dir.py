"""A run's folder: what is in it, whose it is, and how it stands.

config.yaml        the resolved configuration
manifest.json      command, date, versions, git commit, seeds, fingerprints of data and weights
metrics.jsonl      one line per logged step
final_checkpoint/  the model, its tokenizer and template
adapter/           the adapter that was merged into the final model (model.merge_adapter)
evals/             <SUITE>_EVAL.json, <SUITE>_SUMMARY.json, <SUITE>_ABSENT.json…
evals_before/      the same of the weights that the run started from
DONE.json          written last: the run is finished

A folder with anything in it that is not a run of ours is refused, never cleared. How files come
into a folder whole or not at all is in `atomic`, who may write there at a time in `owner`.
"""

import enum
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


class RunState(enum.Enum):
    """How a run's folder stands before a command goes to work in it."""

    NEW = "new"
    BEGUN = "begun"
    """Begun, and not finished: it goes on from its newest whole checkpoint."""
    DONE = "done"
    SENT_BACK = "sent back"
    """Begun, and now a checkpoint is named to go on from."""


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


def find_model_folder(path: str) -> str:
    """Find the model of a run folder, its `final_checkpoint`; any other path or hub id comes back
    as it is."""
    final = Path(path) / FINAL
    return str(final) if final.is_dir() and not (Path(path) / "config.json").exists() else path


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
    if read_last_metrics(folder) is not None or any(
        (folder / name).exists() for name in (FINAL, DONE, EVALS)
    ):
        return True
    return any(any(folder.glob(pattern)) for pattern in ("checkpoint-*", "*_EVAL.json"))


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


def open_run(folder: Path, tree: dict[str, Any], resume: str) -> RunState:
    """Say how a run's folder stands.

    resume=never moves an old run aside. A run that ended before its first step has nothing to lose:
    with another configuration it is new. Raises UserError where the folder holds anything but a
    run, or it or the checkpoint is of another configuration.
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
        return RunState.NEW
    old = read_config(folder)
    if not has_begun(folder) and old != tree:
        return RunState.NEW
    _refuse_another(folder, old, tree, MAY_CHANGE)
    if named and old.get("resume") != resume:
        return RunState.SENT_BACK
    return RunState.DONE if is_done(folder) else RunState.BEGUN


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


def find_owned_folder(folder: Path) -> Path:
    """Find the folder whose owner may write here: the run, where this is the `evals/` of one."""
    return folder.parent if _is_evaluation_of_run(folder) else folder


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
        if Path(name).is_file() and hash_files(Path(name)) != digest
    ]
    now = hash_models(list(models), memory)
    changed += [name for name, digest in now.items() if models[name] != digest]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not what {folder} was trained on. resume=never trains anew and "
            "moves the old folder aside; another task_name keeps both"
        )


def _refuse_another(folder: Path, old: Any, new: Any, may_change: tuple[str, ...]) -> None:
    found = list_differences(_used_by_both(old, new), _used_by_both(new, old))
    changed = [key for key in found if not key.startswith(may_change)]
    if changed:
        raise UserError(
            f"{folder} holds a run of another configuration; these keys differ: "
            f"{', '.join(changed)}.\n"
            f"  Use another task_name ({find_free_name(folder)} is free), or resume=never to move "
            f"the old folder aside."
        )


def find_free_name(folder: Path) -> str:
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


def list_differences(old: object, new: object, path: str = "") -> list[str]:
    """List the dotted keys at which two trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            d
            for key in keys
            for d in list_differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [path]
