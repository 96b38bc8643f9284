"""Composes every run of a plan before the first starts, so that no combination is found to be
impossible half-way.

A run is refused here for all that it would be refused for itself before it loads a model: its
configuration, files and folders that are not there, rows that its method cannot read.
"""

import logging
import os

from unteach import fingerprints, logs
from unteach.config import compose, schema
from unteach.config.files import name_and_split
from unteach.config.reader import collect_problems
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.data import user_files
from unteach.errors import UserError
from unteach.studies.plan import PlannedRun

logger = logging.getLogger(__name__)
PLACES = (
    "task_name",
    "paths.output_dir",
    "retain_logs_path",
    "wandb.",
    "trainer.args.run_name",
    MODEL_KEY,
    TOKENIZER_KEY,
)
"""Beginnings of the words that differ from run to run and cannot make a composition fail."""
SHOWN = 20


def check(plan: list[PlannedRun], config_dirs: tuple[str, ...] = ()) -> None:
    """Composes one run of each shape; UserError names every run that cannot be composed, and why.

    Two runs of one shape differ in their places and in the value of their seed alone.
    """
    coming = frozenset(run.folder for run in plan)
    shape_of = {
        run.name: (run.config_name, tuple(_shape(word, coming) for word in run.overrides))
        for run in plan
    }
    num_shapes = len(set(shape_of.values()))
    if num_shapes > SHOWN:
        print(
            f"{len(plan)} runs are composed before the first starts ({num_shapes} different ones)",
            flush=True,
        )
    failed: dict[str, list[str]] = {}
    notes: dict[str, None] = {}
    verdicts: dict[tuple[object, ...], list[str]] = {}
    readings: dict[str, list[str]] = {}
    for run in plan:
        shape = shape_of[run.name]
        if shape not in verdicts:
            problems: list[str] = []
            with logs.collect_notes() as heard, collect_problems(problems):
                config = compose.compose(
                    run.config_name, run.overrides, config_dirs, starting=True, coming=coming
                )
                problems += _check_rows(config, readings, run.name)
            verdicts[shape] = problems
            notes |= dict.fromkeys(heard)
        for problem in verdicts[shape]:
            failed.setdefault(problem, []).append(run.name)
    for note in notes:
        logger.info(note)
    if failed:
        told = [f"{_named(names)}: {why}" for why, names in failed.items()]
        count = len({name for names in failed.values() for name in names})
        raise UserError(
            f"{count} of {len(plan)} runs cannot be composed, and none was started:\n"
            + "\n".join(told)
        )


def _check_rows(config: schema.RunConfig, readings: dict[str, list[str]], name: str) -> list[str]:
    """What is wrong with a run's files of rows for its method; each way to read them is tried once.

    Says which rows a method only measures. name: the run's.

    Only files of this machine are read: what is on the hub is not fetched for a plan.
    """
    if config.data is None or config.data.files is None:
        return []
    sources = [config.data.files.of(stream) for stream in schema.STREAMS]
    if not all(source is None or _is_here(source) for source in sources):
        return []
    method = config.trainer.method if isinstance(config, schema.TrainConfig) else None
    suites = {name: suite.reads_own_rows() for name, suite in config.eval.items()}
    key = fingerprints.hash_value(
        [
            config.tree.get("data"),
            config.tree.get("template"),
            repr(method),
            suites,
        ]
    )
    if key not in readings:
        readings[key] = []
        with collect_problems(readings[key]):
            resolved = user_files.resolve_files(config)
            for note in resolved.data.notes if resolved.data else ():
                if user_files.ONLY_MEASURED in note:
                    logger.info(f"{name}: {note}")
    return readings[key]


def _is_here(source: object) -> bool:
    return isinstance(source, str) and os.path.exists(os.path.expanduser(name_and_split(source)[0]))


def _shape(word: str, coming: frozenset[str]) -> str:
    key, _, value = word.partition("=")
    if key == "seed" and value.isdigit() and len(value) < 10:
        return key
    if key in (MODEL_KEY, TOKENIZER_KEY) and value.strip("'") not in coming:
        return word
    return key if key.startswith(PLACES) and value != "null" else word


def _named(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
