"""Tasks of lm-evaluation-harness, asked through our engine.

The harness writes the questions and judges the answers; every pass is the engine's, with its
batches, its processes and its store. It is an extra package, and imported only where a suite asks
for one of its tasks.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from unteach.config.suites import SuiteConfig
from unteach.data.template import Template
from unteach.engines.base import Engine
from unteach.errors import UserError, first_line, missing_extra, nearest, unknown
from unteach.evals.base import TaskResult
from unteach.lazy import np, torch

Progress = Callable[[str, int], Callable[[int], None]]
METRIC = "lm_eval"
"""How a suite's definition calls a metric that is a task of the harness."""
NAMED = re.compile(rb"^(?:task|group):[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)
"""What a file of the harness calls the task or group that it defines."""
SPLITS = ("test_split", "validation_split")
"""The rows that a task may ask about: a task of one's own names one of them."""


def refuse_misspelled(configs: dict[str, SuiteConfig]) -> None:
    """Raises UserError where a suite asks for a task that cannot be; neither torch nor the harness
    is imported."""
    for config in configs.values():
        for name in config.asked():
            defined = config.define.get(name, {})
            if defined.get("metric") == METRIC and isinstance(defined.get("task"), str):
                _refuse_unwritten(defined["task"], config)
                _refuse_fields(defined["task"], config)


def refuse_unknown(task: str, config: SuiteConfig) -> None:
    """Raises UserError where the harness is not installed, or has no such task."""
    _refuse_unwritten(task, config)
    _refuse_fields(task, config)
    path = config.simple_evaluate_args.include_path
    if not _is_written(task, path):
        return  # a task of the user's own, whole in its mapping
    tasks = manager([task], path)
    if task not in tasks.all_tasks:
        missing = _missing_fields(config.configured_tasks().get(task))
        if missing:
            _refuse(task, config, tasks.all_tasks, missing)
    elif task in tasks.all_tags:
        raise UserError(
            f"eval.{config.suite}: {task} is a tag, without a value of its own; name its tasks, or "
            f"a group"
        )


def _refuse_unwritten(task: str, config: SuiteConfig) -> None:
    """Refuses a name that is in none of the files that define tasks, and that no mapping
    defines."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            missing_extra(
                "lm-eval", f"eval.{config.suite}: {task}, a task of lm-evaluation-harness,"
            )
        )
    path = config.simple_evaluate_args.include_path
    if path and not os.path.isdir(path):
        raise UserError(
            f"eval.{config.suite}.simple_evaluate_args.include_path={path}: there is no such folder"
        )
    missing = _missing_fields(config.configured_tasks().get(task))
    if missing and not _is_written(task, path):
        _refuse(
            task, config, (name.decode() for name in NAMED.findall(_definitions(path))), missing
        )


def _is_written(task: str, include_path: str | None) -> bool:
    """Say whether a name stands in some file that may define tasks."""
    name = rb"(?<![\w-])" + re.escape(task.encode()) + rb"(?![\w-])"
    return re.search(name, _definitions(include_path)) is not None


def _missing_fields(task: dict[str, Any] | None) -> list[str]:
    """What a mapping lacks to be a task of its own, without one of the harness to start from."""
    given = task or {}
    missing = [] if given.get("dataset_path") else ["dataset_path"]
    if not any(given.get(split) for split in SPLITS):
        missing.append(" or ".join(SPLITS))
    if "doc_to_target" not in given:
        missing.append("doc_to_target")
    return missing


def _refuse_fields(task: str, config: SuiteConfig) -> None:
    """Refuse a mapping with a key that no task of the harness has."""
    given = config.configured_tasks().get(task, {})
    if not given:
        return
    from lm_eval.config.task import TaskConfig

    allowed = [declared.name for declared in dataclasses.fields(TaskConfig)]
    for name in given:
        if name not in allowed:
            raise UserError(
                f"eval.{config.suite}.tasks: {task}: {unknown('field of a task', name, allowed)}"
            )


def _refuse(task: str, config: SuiteConfig, known: Iterable[str], missing: list[str]) -> NoReturn:
    guess = nearest(task, sorted(set(known)))
    meant = f"; did you mean {guess}?" if guess else ""
    if task in config.configured_tasks():
        meant += f". To define it, its mapping also needs {', '.join(missing)}"
    raise UserError(
        f"eval.{config.suite}: lm-evaluation-harness has no task called {task!r}{meant}"
    )


@functools.lru_cache(maxsize=4)
def _definitions(include_path: str | None) -> bytes:
    """All files that may define tasks, one after the other: a name that is in none of them is no
    task's.

    The harness itself takes ten times as long, since it parses each of 14,000 files and imports
    torch first.
    """
    package = importlib.util.find_spec("lm_eval")
    assert package is not None and package.submodule_search_locations is not None
    roots = [
        Path(package.submodule_search_locations[0], "tasks"),
        *([Path(include_path)] if include_path else []),
    ]
    files = (
        Path(folder, name) for root in roots for folder, _, names in os.walk(root) for name in names
    )
    return b"\n".join(
        file.read_bytes() for file in files if file.suffix not in (".py", ".pyc", ".md")
    )


def manager(tasks: list[str], include_path: str | None) -> Any:
    """What knows the tasks: the user's folder where all are in it, else that and the harness's
    own."""
    own = _manager(include_path, False) if include_path or not tasks else None
    return own if own and set(tasks) <= set(own.all_tasks) else _manager(include_path, True)


@functools.lru_cache(maxsize=4)
def _manager(include_path: str | None, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=include_path, include_defaults=defaults)


def ask(
    tasks: list[str],
    settings: dict[str, Any],
    engine: Engine,
    template: Template,
    progress: Progress,
) -> list[TaskResult]:
    """The results of tasks, all asked together; every process asks for all of them and the engine
    shares the passes."""
    from lm_eval import simple_evaluate

    from unteach.evals.lm_eval.model import EngineModel

    given = dict(settings)
    path, configured = given.pop("include_path"), given.pop("configured")
    tasks_of = manager(
        [task for task in tasks if task not in configured or _is_written(task, path)], path
    )
    model = EngineModel(engine, template, progress)
    with _undisturbed():
        built = _each_once(
            {task: _load(task, configured.get(task), tasks_of) for task in tasks}, configured
        )
        found = simple_evaluate(
            model, tasks=built, task_manager=tasks_of, bootstrap_iters=0, **given
        )
    return [_result(task, found, model.cut) for task in tasks]


def _load(task: str, fields: dict[str, Any] | None, tasks_of: Any) -> Any:
    """Make a task or a group of the harness, with the fields that a mapping gives it."""
    if fields is None:
        return tasks_of.load([task])
    base = tasks_of.task_index.get(task)
    try:
        if base is None:
            return tasks_of.load([fields])
        # The harness's own `load` takes a mapping for the whole task, and its tasks in a group by
        # their names.
        overrides = {name: value for name, value in fields.items() if name != "task"}
        return tasks_of.load(
            [tasks_of._factory.build(base, overrides=overrides, registry=tasks_of.task_index)]
        )
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"tasks: lm-evaluation-harness cannot make {task} of the fields that are given: "
            f"{first_line(error)}"
        ) from error


def _each_once(loaded: dict[str, Any], configured: dict[str, dict[str, Any]]) -> list[Any]:
    """The groups and tasks that are asked for, without those that another group holds: the harness
    refuses them."""
    under = {name: set(one["tasks"]) | set(one["groups"]) for name, one in loaded.items()}
    held = {name for name in loaded for other in loaded if other != name and name in under[other]}
    for name in sorted(held):
        holders = [other for other in loaded if other != name and name in under[other]]
        if name in configured or any(other in configured for other in holders):
            raise UserError(
                f"tasks: {name} is also a task of the group {holders[0]}, and one of them has "
                "fields of its own; ask for them in two suites"
            )
    return [
        one["groups"].get(name) or one["tasks"][name]
        for name, one in loaded.items()
        if name not in held
    ]


def _result(task: str, found: dict[str, Any], cut: int) -> TaskResult:
    values = {
        name.removesuffix(",none"): float(value)
        for name, value in (found.get("groups", {}).get(task) or found["results"][task]).items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float)
    }
    documents = [
        {"task": leaf, **_document(one, values)}
        for leaf in _leaves(task, found)
        for one in found["samples"][leaf]
    ]
    return TaskResult(values, documents, cut)


def _leaves(task: str, found: dict[str, Any]) -> list[str]:
    """The tasks with documents under a group, or the task itself."""
    if task in found["samples"]:
        return [task]
    return [
        leaf for child in found["group_subtasks"].get(task, []) for leaf in _leaves(child, found)
    ]


def _document(one: dict[str, Any], values: dict[str, float]) -> dict[str, Any]:
    """What a document's answer is worth, by metric; with several filters there is one such entry
    for each."""
    named = {
        name if one["filter"] == "none" else f"{name},{one['filter']}": one[name]
        for name in one["metrics"]
    }
    worth = {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, int | float) and name in values
    }
    return {"doc_id": one["doc_id"], "target": str(one["target"]), **worth}


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """The harness seeds every generator of random numbers, gives results only to the first local
    process, and asks git for a commit, which complains where there is none."""
    from lm_eval import evaluator

    states, rank = (random.getstate(), np.random.get_state()), os.environ.get("LOCAL_RANK")
    asked, evaluator.get_git_commit_hash = evaluator.get_git_commit_hash, lambda: None
    try:
        if rank:
            os.environ["LOCAL_RANK"] = "0"
        with torch.random.fork_rng():
            yield
    finally:
        evaluator.get_git_commit_hash = asked
        random.setstate(states[0])
        np.random.set_state(states[1])
        if rank:
            os.environ["LOCAL_RANK"] = rank
