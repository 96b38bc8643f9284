"""The Python door: train, unlearn, evaluate and infer with objects, or with the words of the
command line.

Both go the same way: objects become words (see objects.py), and the words a configuration. So a run
that is started here is one that the command line starts, to the last bit, and its folder says how.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unteach import logs, objects
from unteach.config.overrides import quote, spell_value
from unteach.config.verb_options import Options
from unteach.objects import Rows
from unteach.results import (
    EvalResult,
    InferResult,
    TrainResult,
    read_values,
)
from unteach.run_dir import EVALS
from unteach.start_with import list_dirs, start_with

if TYPE_CHECKING:
    import os

    import pandas

    from unteach.methods.base import Method
    from unteach.models.loading import LoadedModel
    from unteach.objects import Model

ANSWERS_DIR = Path("saves/infer")
"""Where answers to rows in memory are written, unless another file is named."""


def train(
    *overrides: str,
    model: "Model | None" = None,
    data: "Rows | None" = None,
    validation: "Rows | None" = None,
    method: "str | Method | None" = None,
    suites: str | Sequence[str] | None = None,
    task_name: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    config_name: str = "train",
    config_dirs: Iterable[str | Path] = (),
    verbose: str | None = None,
) -> TrainResult:
    """Teach a model: fine-tune, pretrain, classify, prefer.

        unteach.train(model="MODEL", data=[{"question": "Who?", "answer": "She."}])
        unteach.train("experiment=finetune/tofu/default", "task_name=mine")

    The same call again goes on where it was stopped, and does nothing where it was finished.

    Args:
        overrides: words of the command line, `key=value`; the first may name a run's file.
        model: a folder, a run, a hub id or a configuration's name; or a model in memory with its
            tokenizer, `(model, tokenizer)`, or what `load` gave. A model in memory is saved as it
            is now (under saves/models) and loaded from there; it is not changed itself.
        data: rows to learn: a file, a folder or a hub id; or a list of mappings, a pandas or an
            Arrow table, which are written to a file under saves/rows.
        validation: rows that are held out and measured.
        method: a method's name, or an instance: `SFT()`. All fields of an instance are set.
        suites: what is measured at the end: a suite's name, or several; [] measures nothing.
        task_name: names the run's folder, saves/train/<task_name>.
        seed: of everything that is drawn.
        settings: any other keys: {"trainer.args.learning_rate": 1e-4}.
        config_name: a primary configuration.
        config_dirs: folders of more configuration files.
        verbose: `debug`, `info` or `quiet`: how much is logged on the standard error output.

    Returns:
        The run's folder, its model and its values.

    Raises:
        UserError: where the configuration or the rows are wrong, with every mistake found.
        Diverged: where a loss stopped being finite.
        Preempted: where it was asked to stop; the same call goes on.
    """
    words = objects.spell_run(model, method, suites, task_name, seed, settings)
    words += objects.spell_rows({"data": data, "data.validation_file": validation})
    return _train("train", overrides, words, Options(config_name, list_dirs(config_dirs)), verbose)


def unlearn(
    *overrides: str,
    model: "Model | None" = None,
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    holdout: "Rows | None" = None,
    refusal: "Rows | None" = None,
    data: "Rows | None" = None,
    method: "str | Method | None" = None,
    suites: str | Sequence[str] | None = None,
    task_name: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    config_name: str = "unlearn",
    config_dirs: Iterable[str | Path] = (),
    verbose: str | None = None,
) -> TrainResult:
    """Make a model forget some rows and keep others.

        unteach.unlearn(model="MODEL", forget="forget.csv", retain="retain.csv",
                        method=NPO(beta=0.1))

    The same call again goes on where it was stopped, and does nothing where it was finished.

    Args:
        overrides: words of the command line, `key=value`.
        model: the model that knows what is to be forgotten; see `train`.
        forget: rows to forget, as a file or in memory; see `train`.
        retain: rows to keep.
        holdout: rows of the same kind that the model never saw: measured beside the others.
        refusal: prompts that the model refuses to answer, for a method that needs them (LUNAR).
        data: instead of forget and retain: rows with a column `forget`, 1 or 0.
        method: a method's name, or an instance: `NPO(beta=0.1)`. All fields of an instance are set.
        suites: what is measured before and after: a suite's name, or several; [] measures nothing.
        task_name: names the run's folder, saves/unlearn/<task_name>.
        seed: of everything that is drawn.
        settings: any other keys: {"trainer.args.num_train_epochs": 5}.
        config_name: a primary configuration.
        config_dirs: folders of more configuration files.
        verbose: `debug`, `info` or `quiet`: how much is logged on the standard error output.

    Returns:
        The run's folder, its model and its values.

    Raises:
        UserError: where the configuration or the rows are wrong, with every mistake found.
        Diverged: where a loss stopped being finite.
        Preempted: where it was asked to stop; the same call goes on.
    """
    words = objects.spell_run(model, method, suites, task_name, seed, settings)
    rows = {"data": data, "forget": forget, "retain": retain, "holdout": holdout}
    words += objects.spell_rows({**rows, "refusal": refusal})
    return _train(
        "unlearn", overrides, words, Options(config_name, list_dirs(config_dirs)), verbose
    )


def evaluate(
    *overrides: str,
    model: "Model | None" = None,
    suites: str | Sequence[str] | None = None,
    data: "Rows | None" = None,
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    holdout: "Rows | None" = None,
    task_name: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    config_name: str = "eval",
    config_dirs: Iterable[str | Path] = (),
    verbose: str | None = None,
) -> EvalResult:
    """Measure what a model knows.

        unteach.evaluate(model="saves/unlearn/mine", suites="tofu").values["tofu"]
        unteach.evaluate(model="MODEL", data=[{"question": "Who?", "answer": "She."}])

    Args:
        overrides: words of the command line, `key=value`.
        model: see `train`.
        suites: a suite's name, or several; rows of your own have the suite `rows` by themselves.
        data: rows of your own that are measured, as a file or in memory; see `train`.
        forget: the same, of rows that an unlearning run was to take out.
        retain: the same, of rows that it was to keep.
        holdout: the same, of rows that no model was taught.
        task_name: names the folder, saves/eval/<task_name>.
        seed: of everything that is drawn.
        settings: any other keys: {"eval.tofu.batch_size": 8}.
        config_name: a primary configuration.
        config_dirs: folders of more configuration files.
        verbose: `debug`, `info` or `quiet`: how much is logged on the standard error output.

    Returns:
        The folder of the results, and the values by suite and metric.

    Raises:
        UserError: where the configuration or the rows are wrong, with every mistake found.
        Preempted: where it was asked to stop; the same call goes on.
    """
    words = objects.spell_run(model, None, suites, task_name, seed, settings)
    words += objects.spell_rows(
        {"data": data, "forget": forget, "retain": retain, "holdout": holdout}
    )
    options = Options(config_name, list_dirs(config_dirs))
    folder: Path = start_with("eval", overrides, words, options, verbose)
    return EvalResult(folder, read_values(folder))


def infer(
    *overrides: str,
    model: "Model | None" = None,
    rows: "Rows | None" = None,
    output_file: str | Path | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    config_dirs: Iterable[str | Path] = (),
    verbose: str | None = None,
) -> InferResult:
    """Ask a model every row of a table.

        unteach.infer(model="MODEL", rows=[{"question": "Who wrote it?"}]).rows()

    The same call again asks only what has no answer yet.

    Args:
        overrides: words of the command line, `key=value`.
        model: see `train`.
        rows: a file, a folder or a hub id; or rows in memory, see `train`.
        output_file: where the answers go, as JSON lines; None: beside the file of the rows, or, of
            rows in memory, under saves/infer.
        seed: of everything that is drawn.
        settings: any other keys: {"temperature": 0.7}.
        config_dirs: folders of more configuration files.
        verbose: `debug`, `info` or `quiet`: how much is logged on the standard error output.

    Returns:
        The file of the answers; `rows()` reads it.

    Raises:
        UserError: where the configuration or the rows are wrong, with every mistake found.
        RowsFailed: once the file is whole, where rows have an error in place of an answer.
        Preempted: where it was asked to stop; the same call goes on.
    """
    words = objects.spell_run(model, None, None, None, seed, settings)
    if rows is not None:
        words.append(f"input_file={spell_value(objects.place_rows(rows, 'rows'))}")
        is_in_memory = not isinstance(rows, str) and not hasattr(rows, "__fspath__")
        asking, _ = logs.take_verbose([*overrides, *words])
        has_output_file = any(word.startswith("output_file=") for word in asking)
        if output_file is None and is_in_memory and not has_output_file:
            # By all that is asked, as a file of answers belongs to one model and its settings.
            digest = hashlib.sha256("\n".join(asking).encode()).hexdigest()
            ANSWERS_DIR.mkdir(parents=True, exist_ok=True)
            output_file = ANSWERS_DIR / f"{digest[: objects.LENGTH]}.jsonl"
    if output_file is not None:
        words.append(f"output_file={quote(str(output_file))}")
    options = Options(None, list_dirs(config_dirs))
    return InferResult(start_with("infer", overrides, words, options, verbose))


def load(model: "str | os.PathLike[str]") -> "LoadedModel":
    """Load a model, ready to be asked.

    Args:
        model: a run, a model's folder or a hub id.

    Returns:
        An object with `model`, in evaluation mode, `tokenizer` and `template`.

    Raises:
        UserError: where it cannot be loaded.
    """
    # Late, as it costs torch.
    from unteach.verbs.load import load as load_model

    return load_model(model)


def get_history(run: "str | os.PathLike[str]") -> "pandas.DataFrame":
    """Give everything that a run logged: one row a step, one column a value.

    Args:
        run: a run's folder, a folder with a trainer_state.json, or wandb:ENTITY/PROJECT/ID.

    Raises:
        UserError: where nothing was logged.
    """
    # Late, as it costs pandas.
    from unteach.verbs.history import get_history as read_history

    return read_history(run)


def _train(
    verb: str, overrides: tuple[str, ...], words: list[str], options: Options, verbose: str | None
) -> TrainResult:
    folder: Path = start_with(verb, overrides, words, options, verbose)
    return TrainResult(folder, read_values(folder / EVALS))
