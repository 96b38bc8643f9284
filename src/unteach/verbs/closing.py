"""The last lines of a run: its values, where its model and its results are, and commands to go on
with."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from unteach import console, json_files, run_dir
from unteach.config import schema
from unteach.evals.retain_logs import ROWS


def close_training(config: schema.Config, folder: Path) -> None:
    """Print where a training run left what, and what can be done with it next."""
    is_judged = bool(_results_of(folder))
    console.say(f"model: {folder / run_dir.FINAL}")
    evals = folder / run_dir.EVALS
    console.say(f"results: {evals if evals.exists() else folder / run_dir.METRICS}")
    if any(folder.glob(f"checkpoint-*/{run_dir.EVALS}")):
        console.say(f"evaluations made while training: {folder}/checkpoint-*/{run_dir.EVALS}")
    before = config.model.model_args.get(schema.PATH)
    _say_next([*(_judging(folder, before) if is_judged else []), _asking(config, folder)])


def close_evaluation(folder: Path) -> None:
    """Print where an evaluation left its results, and what can be done with them next."""
    console.say(f"results: {folder}")
    _say_next(_judging(folder, None))


def _judging(folder: Path, before: str | None) -> list[Sequence[str]]:
    """Give the commands that show the values: alone, and against the run that this one began from,
    if it has any."""
    commands: list[Sequence[str]] = [("unteach", "report", str(folder))]
    if before and _is_comparable(Path(before), folder):
        commands.append(("unteach", "compare", before, str(folder)))
    return commands


def _is_comparable(a: Path, b: Path) -> bool:
    """Whether both runs measured something on the same rows, so that differences are the models'
    and not the rows'."""
    first, second = _measured_rows(a), _measured_rows(b)
    return any(first[column] == second[column] for column in first.keys() & second.keys())


def _measured_rows(run: Path) -> dict[tuple[str, str], str]:
    """The digest of each column of rows that a run measured, by (suite's file, column)."""
    files = [file for place in (run, run / run_dir.EVALS) for file in place.glob(f"*{ROWS}")]
    return {
        (file.name, column): str(rows.get("digest"))
        for file in files
        for column, rows in json_files.read_json(file, f"the rows of {run}").items()
    }


def _asking(config: schema.Config, folder: Path) -> Sequence[str]:
    assert config.trainer is not None
    if getattr(config.trainer.method, "ROWS", "answers") in ("classes", "numbers"):
        return ("unteach", "infer", f"model={folder}", "kind=classify", "input_file=FILE.csv")
    return ("unteach", "ask", f"model={folder}", "a question")


def _results_of(run: Path) -> list[str]:
    return [file.name for place in (run, run / run_dir.EVALS) for file in place.glob("*_EVAL.json")]


def _say_next(commands: Sequence[Sequence[str]]) -> None:
    for number, command in enumerate(commands):
        console.say(f"{'next:' if number == 0 else '     '} {shlex.join(command)}")
