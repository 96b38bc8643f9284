"""Composes every run of a plan before the first starts, so that no combination is found to be impossible half-way."""

import contextlib
import io

from unteach.config import compose
from unteach.config.reader import collected
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.errors import UserError
from unteach.launch.plan import PlannedRun

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
    shapes = {(run.config_name, tuple(map(_shape, run.overrides))) for run in plan}
    if len(shapes) > SHOWN:
        print(f"{len(plan)} runs are composed before the first starts ({len(shapes)} different ones)", flush=True)
    failed: dict[str, list[str]] = {}
    said: dict[str, None] = {}
    verdicts: dict[tuple[object, ...], list[str]] = {}
    for run in plan:
        shape = (run.config_name, tuple(map(_shape, run.overrides)))
        if shape not in verdicts:
            heard, problems = io.StringIO(), list[str]()
            with contextlib.redirect_stdout(heard), collected(problems):
                compose.compose(run.config_name, run.overrides, config_dirs)
            verdicts[shape] = problems
            said |= dict.fromkeys(heard.getvalue().splitlines())
        for problem in verdicts[shape]:
            failed.setdefault(problem, []).append(run.name)
    for line in said:
        print(line)
    if failed:
        told = [f"{_named(names)}: {why}" for why, names in failed.items()]
        count = len({name for names in failed.values() for name in names})
        raise UserError(f"{count} of {len(plan)} runs cannot be composed, and none was started:\n" + "\n".join(told))


def _shape(word: str) -> str:
    key, _, value = word.partition("=")
    if key == "seed" and value.isdigit() and len(value) < 10:
        return key
    return key if key.startswith(PLACES) and value != "null" else word


def _named(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
