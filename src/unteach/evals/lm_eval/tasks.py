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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from unteach.config.suites import SuiteConfig
from unteach.data.template import Template
from unteach.engines.base import Engine
from unteach.errors import (
    UserError,
    describe_missing_extra,
    describe_unknown,
    find_nearest,
    get_first_line,
)
from unteach.evals.base import Progress, TaskResult
from unteach.lazy import np, torch

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

METRIC = "lm_eval"
"""How a suite's definition calls a metric that is a task of the harness."""
DEFINED_NAME = re.compile(rb"^(?:task|group):[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)
"""What a file of the harness calls the task or group that it defines."""
SPLITS = ("test_split", "validation_split")
"""The rows that a task may ask about: a task of one's own names one of them."""
DEFINE_NO_TASK = (".py", ".pyc", ".md")
"""Endings of the harness's files that define no task."""

Loaded = dict[str, dict[str, Any]]
"""What the harness's TaskManager.load gives: `tasks` and `groups`, each by name."""


def refuse_misspelled(configs: dict[str, SuiteConfig]) -> None:
    """Raise UserError where a suite asks for a task that cannot be; neither torch nor the harness
    is imported."""
    for config in configs.values():
        for name in config.list_metrics():
            definition = config.define.get(name, {})
            task = definition.get("task")
            is_task = definition.get("metric") == METRIC
            if is_task and isinstance(task, str):
                _refuse_undefined(task, config)
                _refuse_unknown_fields(task, config)


def refuse_unknown(task: str, config: SuiteConfig) -> None:
    """Raise UserError where the harness is not installed, or has no such task."""
    _refuse_undefined(task, config)
    _refuse_unknown_fields(task, config)
    include_path = config.simple_evaluate_args.include_path
    if not _is_in_definitions(task, include_path):
        return  # a task of the user's own, whole in its mapping
    manager = find_manager([task], include_path)
    if task not in manager.all_tasks:
        missing = _list_missing_fields(config.configured_tasks().get(task))
        if missing:
            _refuse(task, config, manager.all_tasks, missing)
    elif task in manager.all_tags:
        raise UserError(
            f"eval.{config.suite}: {task} is a tag, without a value of its own; name its tasks, or "
            f"a group"
        )


def _refuse_undefined(task: str, config: SuiteConfig) -> None:
    """Refuse a name that is in none of the files that define tasks, and that no mapping defines."""
    if importlib.util.find_spec("lm_eval") is None:
        purpose = f"eval.{config.suite}: {task}, a task of lm-evaluation-harness,"
        raise UserError(describe_missing_extra("lm-eval", purpose))
    include_path = config.simple_evaluate_args.include_path
    if include_path and not os.path.isdir(include_path):
        raise UserError(
            f"eval.{config.suite}.simple_evaluate_args.include_path={include_path}: there is no "
            "such folder"
        )
    missing = _list_missing_fields(config.configured_tasks().get(task))
    if missing and not _is_in_definitions(task, include_path):
        definitions = _read_definitions(include_path)
        known = [name.decode() for name in DEFINED_NAME.findall(definitions)]
        _refuse(task, config, known, missing)


def _is_in_definitions(task: str, include_path: str | None) -> bool:
    """Say whether a name stands in some file that may define tasks."""
    name = re.escape(task.encode())
    whole_name = rb"(?<![\w-])" + name + rb"(?![\w-])"
    definitions = _read_definitions(include_path)
    return re.search(whole_name, definitions) is not None


def _list_missing_fields(fields: dict[str, Any] | None) -> list[str]:
    """List what a mapping lacks to be a task of its own, without one of the harness to start
    from."""
    fields = fields or {}
    missing = []
    if not fields.get("dataset_path"):
        missing.append("dataset_path")
    if not any(fields.get(split) for split in SPLITS):
        missing.append(" or ".join(SPLITS))
    if "doc_to_target" not in fields:
        missing.append("doc_to_target")
    return missing


def _refuse_unknown_fields(task: str, config: SuiteConfig) -> None:
    """Refuse a mapping with a key that no task of the harness has."""
    fields = config.configured_tasks().get(task, {})
    if not fields:
        return
    from lm_eval.config.task import TaskConfig

    allowed = [declared.name for declared in dataclasses.fields(TaskConfig)]
    for name in fields:
        if name not in allowed:
            problem = describe_unknown("field of a task", name, allowed)
            raise UserError(f"eval.{config.suite}.tasks: {task}: {problem}")


def _refuse(
    task: str,
    config: SuiteConfig,
    known: Iterable[str],
    missing: list[str],
) -> NoReturn:
    """Raise UserError for a task that is not there.

    Args:
        task: its name.
        config: the suite that asks for it.
        known: the names that are there.
        missing: the fields that its mapping, where it has one, lacks to define it.
    """
    guess = find_nearest(task, sorted(set(known)))
    hint = f"; did you mean {guess}?" if guess else ""
    if task in config.configured_tasks():
        hint += f". To define it, its mapping also needs {', '.join(missing)}"
    raise UserError(f"eval.{config.suite}: lm-evaluation-harness has no task called {task!r}{hint}")


@functools.lru_cache(maxsize=4)
def _read_definitions(include_path: str | None) -> bytes:
    """Read all files that may define tasks, one after the other: a name that is in none of them is
    no task's.

    The harness itself takes ten times as long, since it parses each of 14,000 files and imports
    torch first.
    """
    package = importlib.util.find_spec("lm_eval")
    assert package is not None and package.submodule_search_locations is not None
    roots = [Path(package.submodule_search_locations[0], "tasks")]
    if include_path:
        roots.append(Path(include_path))
    contents = []
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                file = Path(folder, name)
                if file.suffix not in DEFINE_NO_TASK:
                    contents.append(file.read_bytes())
    return b"\n".join(contents)


def find_manager(tasks: list[str], include_path: str | None) -> "TaskManager":
    """Find what knows some tasks: the user's folder where all are in it, else that and the
    harness's own."""
    if include_path or not tasks:
        own = _build_manager(include_path, include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    return _build_manager(include_path, include_defaults=True)


@functools.lru_cache(maxsize=4)
def _build_manager(include_path: str | None, include_defaults: bool) -> "TaskManager":
    """Build what knows the tasks of a folder and, with `include_defaults`, the harness's own."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=include_path, include_defaults=include_defaults)


def run_tasks(
    tasks: list[str],
    settings: dict[str, Any],
    engine: Engine,
    template: Template,
    progress: Progress,
) -> list[TaskResult]:
    """Run tasks, all together; every process runs all of them and the engine shares the passes.

    Args:
        tasks: the names of tasks and groups.
        settings: the suite's simple_evaluate_args, and under `configured` its tasks that are
            mappings.
        engine: runs the model.
        template: of the model; its tokenizer is what the harness sees.
        progress: shows each pass.
    """
    from lm_eval import simple_evaluate

    # It subclasses a model of the harness, so it too is imported only where that is installed.
    from unteach.evals.lm_eval.model import EngineModel

    arguments = dict(settings)
    include_path = arguments.pop("include_path")
    configured = arguments.pop("configured")
    # A task that its mapping defines as a whole is in no file.
    in_files = []
    for task in tasks:
        if task not in configured or _is_in_definitions(task, include_path):
            in_files.append(task)
    manager = find_manager(in_files, include_path)
    model = EngineModel(engine, template, progress)
    with _preserve_state():
        loaded = {}
        for task in tasks:
            loaded[task] = _load_task(task, configured.get(task), manager)
        results = simple_evaluate(
            model,
            tasks=_drop_nested(loaded, configured),
            task_manager=manager,
            bootstrap_iters=0,
            **arguments,
        )
    return [_read_result(task, results, model.num_cut_prompts) for task in tasks]


def _load_task(
    task: str,
    fields: dict[str, Any] | None,
    manager: "TaskManager",
) -> Loaded:
    """Load a task or a group of the harness, with the fields that a mapping gives it.

    Args:
        task: its name.
        fields: of the mapping; None where there is none.
        manager: knows the harness's tasks and the user's.
    """
    if fields is None:
        return manager.load([task])
    base = manager.task_index.get(task)
    try:
        if base is None:
            return manager.load([fields])
        # The harness's own `load` takes a mapping for the whole task, and its tasks in a group by
        # their names.
        overrides = dict(fields)
        overrides.pop("task", None)
        built = manager._factory.build(
            base,
            overrides=overrides,
            registry=manager.task_index,
        )
        return manager.load([built])
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"tasks: lm-evaluation-harness cannot make {task} of the fields that are given: "
            f"{get_first_line(error)}"
        ) from error


def _drop_nested(loaded: dict[str, Loaded], configured: dict[str, dict[str, Any]]) -> list[Any]:
    """Give the groups and tasks that are asked for, without those that another group holds: the
    harness refuses those.

    Args:
        loaded: by the name that is asked for.
        configured: the mappings that give a task fields of its own.
    """
    kept = []
    for name in sorted(loaded):
        holders = []
        for other in loaded:
            if other != name and _holds(loaded[other], name):
                holders.append(other)
        if not holders:
            kept.append(name)
        elif not configured.keys().isdisjoint([name, *holders]):
            raise UserError(
                f"tasks: {name} is also a task of the group {holders[0]}, and one of them has "
                "fields of its own; ask for them in two suites"
            )

    outermost = []
    for name, of_name in loaded.items():
        if name in kept:
            group = of_name["groups"].get(name)
            outermost.append(group or of_name["tasks"][name])
    return outermost


def _holds(loaded: Loaded, name: str) -> bool:
    return name in loaded["tasks"] or name in loaded["groups"]


def _read_result(
    task: str,
    results: dict[str, Any],
    num_cut_prompts: int,
) -> TaskResult:
    """Read the values of one task or group, and of its documents, from the harness's results."""
    entry = results.get("groups", {}).get(task) or results["results"][task]
    values = {}
    for name, value in entry.items():
        # Names are `metric,filter`; beside the values stand their errors, and texts.
        is_value = "," in name and "_stderr," not in name
        if is_value and isinstance(value, int | float):
            values[name.removesuffix(",none")] = float(value)
    documents = []
    for leaf in _list_leaves(task, results):
        for sample in results["samples"][leaf]:
            document = _read_document(sample, values)
            documents.append({"task": leaf, **document})
    return TaskResult(values, documents, num_cut_prompts)


def _list_leaves(task: str, results: dict[str, Any]) -> list[str]:
    """List the tasks with documents under a group, or the task itself."""
    if task in results["samples"]:
        return [task]
    leaves = []
    for child in results["group_subtasks"].get(task, []):
        leaves += _list_leaves(child, results)
    return leaves


def _read_document(sample: dict[str, Any], values: dict[str, float]) -> dict[str, Any]:
    """Read what a document's answer is worth, by metric; several filters make an entry each."""
    document: dict[str, Any] = {
        "doc_id": sample["doc_id"],
        "target": str(sample["target"]),
    }
    filter_name = sample["filter"]
    for metric in sample["metrics"]:
        name = metric if filter_name == "none" else f"{metric},{filter_name}"
        value = sample[metric]
        if isinstance(value, int | float) and name in values:
            document[name] = float(value)
    return document


@contextlib.contextmanager
def _preserve_state() -> Iterator[None]:
    """Keep the harness from changing what is not its own.

    It seeds every generator of random numbers, gives results only to the first local process, and
    asks git for a commit, which complains where there is none.
    """
    from lm_eval import evaluator

    python_state = random.getstate()
    numpy_state = np.random.get_state()
    local_rank = os.environ.get("LOCAL_RANK")
    get_git_commit_hash = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: None
    try:
        if local_rank:
            os.environ["LOCAL_RANK"] = "0"
        with torch.random.fork_rng():
            yield
    finally:
        evaluator.get_git_commit_hash = get_git_commit_hash
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if local_rank:
            os.environ["LOCAL_RANK"] = local_rank
