"""Composes every run of a plan before the first starts, so that no combination proves impossible
half-way.

A run is refused here for all that its own command would refuse before it loads a model: its
configuration, files and folders that are not there, rows that its method cannot read.
"""

import logging
import os

from unteach import fingerprints, logs
from unteach.config import compose, composed_files, schema
from unteach.config.files import name_and_split
from unteach.config.reader import collect_problems
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.data import user_files
from unteach.errors import UserError
from unteach.studies.plan import PlannedRun

logger = logging.getLogger(__name__)
PLACE_KEYS = (
    "task_name",
    "paths.output_dir",
    "retain_logs_path",
    "original",
    "retain_model",
    "wandb.",
    "trainer.args.run_name",
    MODEL_KEY,
    TOKENIZER_KEY,
)
"""Beginnings of the keys that differ from run to run and cannot make a composition fail."""
MAX_NAMES = 20
"""Names of runs that a message lists; more different ones than this take a while to compose."""

Shape = tuple[str, tuple[str, ...]]
"""What two runs have in common that differ in their places and in the value of their seed alone."""


def check(plan: list[PlannedRun], config_dirs: tuple[str, ...] = ()) -> None:
    """Compose one run of each shape.

    Raises:
        UserError: it names every run that cannot be composed, and why.
    """
    folders = frozenset(run.folder for run in plan)
    shapes = {}
    for run in plan:
        shapes[run.name] = _get_shape(run, folders)
    num_shapes = len(set(shapes.values()))
    if num_shapes > MAX_NAMES:
        print(
            f"{len(plan)} runs are composed before the first starts ({num_shapes} different ones)",
            flush=True,
        )
    with composed_files.share_files():
        runs_by_problem, notes = _compose_shapes(plan, shapes, config_dirs, folders)
    for note in notes:
        logger.info(note)
    if runs_by_problem:
        _refuse(runs_by_problem, len(plan))


def _compose_shapes(
    plan: list[PlannedRun],
    shapes: dict[str, Shape],
    config_dirs: tuple[str, ...],
    folders: frozenset[str],
) -> tuple[dict[str, list[str]], list[str]]:
    """Compose the first run of each shape; give the runs that each problem is of, and the notes."""
    runs_by_problem: dict[str, list[str]] = {}
    notes: dict[str, None] = {}
    problems_by_shape: dict[Shape, list[str]] = {}
    problems_by_rows: dict[str, list[str]] = {}
    for run in plan:
        shape = shapes[run.name]
        if shape not in problems_by_shape:
            problems: list[str] = []
            with logs.collect_notes() as logged, collect_problems(problems):
                config = compose.compose(
                    run.config_name,
                    run.overrides,
                    config_dirs,
                    starting=True,
                    coming=folders,
                )
                problems += _check_rows(config, problems_by_rows, run.name)
            problems_by_shape[shape] = problems
            notes.update(dict.fromkeys(logged))
        for problem in problems_by_shape[shape]:
            runs_by_problem.setdefault(problem, []).append(run.name)
    return runs_by_problem, list(notes)


def _refuse(runs_by_problem: dict[str, list[str]], num_runs: int) -> None:
    failed: set[str] = set()
    lines = []
    for problem, names in runs_by_problem.items():
        failed.update(names)
        lines.append(f"{_list_names(names)}: {problem}")
    raise UserError(
        f"{len(failed)} of {num_runs} runs cannot be composed, and none was started:\n"
        + "\n".join(lines)
    )


def _check_rows(
    config: schema.RunConfig,
    problems_by_rows: dict[str, list[str]],
    run_name: str,
) -> list[str]:
    """Check a run's files of rows for its method; log which rows a method only measures.

    Only files of this machine are read: what is on the hub is not fetched for a plan.

    Args:
        config: of the run.
        problems_by_rows: what was wrong with files of rows, so that each way to read them is tried
            once.
        run_name: for messages.

    Returns:
        What is wrong with the files.
    """
    if config.data is None or config.data.files is None:
        return []
    for stream in schema.STREAMS:
        source = config.data.files.get_source(stream)
        if source is not None and not _is_on_this_machine(source):
            return []
    method = config.trainer.method if isinstance(config, schema.TrainConfig) else None
    reads_own_rows = {name: suite.reads_own_rows() for name, suite in config.eval.items()}
    # All that decides whether the files can be read.
    key = fingerprints.hash_value(
        [
            config.tree.get("data"),
            config.tree.get("template"),
            repr(method),
            reads_own_rows,
        ]
    )
    if key in problems_by_rows:
        return problems_by_rows[key]
    problems: list[str] = []
    problems_by_rows[key] = problems
    with collect_problems(problems):
        resolved = user_files.resolve_files(config)
        notes = resolved.data.notes if resolved.data else ()
        for note in notes:
            if user_files.ONLY_MEASURED in note:
                logger.info(f"{run_name}: {note}")
    return problems


def _is_on_this_machine(source: object) -> bool:
    if not isinstance(source, str):
        return False
    path, _ = name_and_split(source)
    return os.path.exists(os.path.expanduser(path))


def _get_shape(run: PlannedRun, folders: frozenset[str]) -> Shape:
    """Give a run's shape; `folders` are those that runs of the same plan will write."""
    overrides = []
    for override in run.overrides:
        overrides.append(_strip_place(override, folders))
    return run.config_name, tuple(overrides)


def _strip_place(override: str, folders: frozenset[str]) -> str:
    """Leave the value out of an override that cannot make a composition fail."""
    key, _, value = override.partition("=")
    if key == "seed" and value.isdigit() and len(value) < 10:
        return key
    # A model that no run of the plan makes may not be there.
    if key in (MODEL_KEY, TOKENIZER_KEY) and value.strip("'") not in folders:
        return override
    is_place = key.startswith(PLACE_KEYS) and value != "null"
    return key if is_place else override


def _list_names(names: list[str]) -> str:
    """List the first names in a message, and how many more there are."""
    first_names = ", ".join(names[:MAX_NAMES])
    num_more = len(names) - MAX_NAMES
    if num_more > 0:
        return f"{first_names} and {num_more} more"
    return first_names
