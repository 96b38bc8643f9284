"""The last lines of a run: its values, where its model and its results are, and commands to go on
with."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from unteach import console, json_files, run_dir
from unteach.config.schema import PATH, TrainConfig
from unteach.evals.retain_logs import ROWS

Command = Sequence[str]


def close_training(config: TrainConfig, folder: Path) -> None:
    """Print where a training run left what, and what can be done with it next.

    Args:
        folder: the run's.
    """
    console.say(f"model: {folder / run_dir.FINAL}")
    results = folder / run_dir.EVALS
    if not results.exists():
        has_steps = not getattr(config.trainer.method, "IS_EDIT", False)
        results = folder / (run_dir.METRICS if has_steps else run_dir.EDIT)
    console.say(f"results: {results}")
    pattern = f"checkpoint-*/{run_dir.EVALS}"
    if any(folder.glob(pattern)):
        console.say(f"evaluations made while training: {folder}/{pattern}")

    commands: list[Command] = []
    if _has_results(folder):
        before = config.model.model_args.get(PATH)
        commands += _commands_to_judge(folder, before)
    commands.append(_command_to_ask(config, folder))
    _say_next(commands)


def close_evaluation(folder: Path) -> None:
    """Print where an evaluation left its results, and what can be done with them next."""
    console.say(f"results: {folder}")
    _say_next(_commands_to_judge(folder, None))


def _commands_to_judge(folder: Path, before: str | None) -> list[Command]:
    """Write the commands that show the values: alone, and against the run that this one began from.

    Args:
        before: the weights that it began from; None where there are none.
    """
    show: Command = ("unteach", "report", str(folder))
    if before is None or not _is_comparable(Path(before), folder):
        return [show]
    compare: Command = ("unteach", "compare", before, str(folder))
    return [show, compare]


def _is_comparable(a: Path, b: Path) -> bool:
    """Whether both runs measured something on the same rows.

    Elsewhere a difference would be that of the rows, not that of the models.
    """
    a_digests = _fingerprint_columns(a)
    b_digests = _fingerprint_columns(b)
    # A pair is in both where the column and its digest are the same.
    return bool(a_digests.items() & b_digests.items())


def _fingerprint_columns(folder: Path) -> dict[tuple[str, str], str]:
    """Give the digest of each column of rows that a run measured, by (suite's file, column)."""
    digests = {}
    for file in _list_results(folder, ROWS):
        rows_by_column = json_files.read_json(file, f"the rows of {folder}")
        for column, rows in rows_by_column.items():
            key = (file.name, column)
            digests[key] = str(rows.get("digest"))
    return digests


def _has_results(folder: Path) -> bool:
    return bool(_list_results(folder, "_EVAL.json"))


def _list_results(folder: Path, ending: str) -> list[Path]:
    """List the files of results of a run, or of an evaluation, that have this ending."""
    files: list[Path] = []
    for home in (folder, folder / run_dir.EVALS):
        files.extend(home.glob(f"*{ending}"))
    return files


def _command_to_ask(config: TrainConfig, folder: Path) -> Command:
    """Write the command that tries the model: on a question, or on rows where it is a classifier's
    or a regression's."""
    rows = getattr(config.trainer.method, "ROWS", "answers")
    if rows in ("classes", "numbers"):
        return (
            "unteach",
            "infer",
            f"model={folder}",
            "kind=classify",
            "input_file=FILE.csv",
        )
    return ("unteach", "ask", f"model={folder}", "a question")


def _say_next(commands: list[Command]) -> None:
    """Print commands, one below the other."""
    heading = "next:"
    for command in commands:
        console.say(f"{heading} {shlex.join(command)}")
        heading = " " * len(heading)
