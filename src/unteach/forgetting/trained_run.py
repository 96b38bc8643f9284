"""A run of `unteach train` that made a model, and that can be carried out again: its rows and the
weights that it started from are still what they were."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import fingerprints, run_dir
from unteach.config.compose import compose
from unteach.config.schema import PATH, DatasetConfig, TrainConfig
from unteach.data.io import sources, tokenized_paths
from unteach.data.rows import Row
from unteach.data.synthetic import worlds
from unteach.data.user_files import resolve_files
from unteach.errors import UserError
from unteach.json_files import read_mapping, write_lines
from unteach.models import adapters

TRAIN = "train"
FILE_KEYS = {"train": "train_file", "validation": "validation_file"}
"""The streams that `unteach train` reads, and the keys of their files."""


class NoExactWay(UserError):
    """A run cannot be carried out again without some rows; says why."""


@dataclass(frozen=True)
class TaughtPart:
    """One dataset of a run, and its rows as the run reads them.

    Attributes:
        stream: the stream that it is a part of.
        name: within the stream.
        dataset: what reads the rows.
        rows: in their order.
    """

    stream: str
    name: str
    dataset: DatasetConfig
    rows: Sequence[Row]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        folder: the run's.
        config: its own, with a dataset for each of its files.
        parts: all that it was taught and validated on.
    """

    folder: Path
    config: TrainConfig
    parts: Sequence[TaughtPart]

    @property
    def num_rows(self) -> int:
        """How many rows it was taught."""
        return sum(len(part.rows) for part in self.parts if part.stream == TRAIN)


def open_trained_run(folder: Path) -> TrainedRun:
    """Read a finished run and its rows.

    Raises:
        NoExactWay: it is not finished, or its rows are not at hand as they were.
    """
    if not run_dir.is_done(folder):
        raise NoExactWay(f"{folder} is a run that is not finished")
    manifest = read_mapping(folder / run_dir.MANIFEST, "the run's manifest")
    _refuse_changed_files(folder, manifest.get("files") or {})
    try:
        mode = str(run_dir.read_config(folder).get("mode"))
        config = compose(mode, [str(folder / run_dir.CONFIG)])
        assert isinstance(config, TrainConfig)
        config = resolve_files(config)
        parts = _read_parts(folder, config, manifest.get("files") or {})
    except NoExactWay:
        raise
    except UserError as error:
        raise NoExactWay(f"{folder} cannot be read as it was: {error}") from None
    return TrainedRun(folder, config, parts)


def _refuse_changed_files(folder: Path, files: dict[str, str]) -> None:
    """Refuse a run whose rows are gone or changed since."""
    for name, digest in files.items():
        if not Path(name).is_file():
            raise NoExactWay(f"{name}, on which {folder} was trained, is gone")
        if fingerprints.hash_files(Path(name)) != digest:
            raise NoExactWay(f"{name} has changed since {folder} was trained on it")


def _read_parts(folder: Path, config: TrainConfig, files: dict[str, str]) -> list[TaughtPart]:
    """Read the rows of each dataset."""
    parts = []
    for stream, datasets in config.data.streams.items():
        for name, dataset in datasets.items():
            _refuse_unreadable(folder, dataset, files)
            rows = sources.load_rows(dataset.args["hf_args"])
            parts.append(TaughtPart(stream, name, dataset, rows))
    return parts


def _refuse_unreadable(folder: Path, dataset: DatasetConfig, files: dict[str, str]) -> None:
    """Refuse rows that no fingerprint was kept of, or that are no words."""
    hf_args = dataset.args.get("hf_args")
    if hf_args is None:
        raise NoExactWay(
            f"{folder} was trained on rows that {dataset.handler} reads in its own way"
        )
    where = sources.describe_source(hf_args)
    if dataset.args.get("few_shot_dataset_hf_args"):
        raise NoExactWay(f"{folder} showed other rows before those of {where}")
    if tokenized_paths.is_tokenized(hf_args.get("path")):
        raise NoExactWay(f"{folder} was trained on {where}, which holds tokens and no words")
    if worlds.parse_world(str(hf_args.get("path"))):
        return
    names = [str(file) for file in sources.list_files(hf_args)]
    if not names:
        raise NoExactWay(
            f"{folder} was trained on {where}, which is no file of this machine: nothing says "
            "whether its rows are still the same"
        )
    for name in names:
        if name not in files:
            raise NoExactWay(f"{name} is new since {folder} was trained")


def refuse_other_start(run: TrainedRun) -> None:
    """Refuse a run that could not start again as it did.

    Raises:
        NoExactWay: it is no run of `unteach train` on one stream of rows, or the weights that it
            started from have changed or are gone.
    """
    config = run.config
    if config.mode != TRAIN:
        raise NoExactWay(f"{run.folder} is a run of unteach {config.mode}, not of unteach train")
    others = [stream for stream in config.data.streams if stream not in FILE_KEYS]
    if others:
        raise NoExactWay(f"{run.folder} was trained on data.{others[0]} too")
    start = config.model.model_args.get(PATH)
    if start is None and PATH not in config.model.tokenizer_args:
        raise NoExactWay(
            f"{run.folder} learned its tokenizer from its rows: without some of them it would "
            "be another, and no audit could compare the two models"
        )
    manifest = read_mapping(run.folder / run_dir.MANIFEST, "the run's manifest")
    models = manifest.get("models") or {}
    memory = Path(config.paths.cache_dir) / fingerprints.MEMORY_FILE
    hashes = fingerprints.hash_models(list(models), memory)
    for name, digest in models.items():
        if name not in hashes:
            raise NoExactWay(f"{name}, from which {run.folder} started, is gone")
        if hashes[name] != digest:
            raise NoExactWay(f"{name} has changed since {run.folder} started from it")


def list_starts(model: str | None) -> list[str]:
    """List a model, and the base of an adapter: what a run that starts from it starts from."""
    if model is None:
        return []
    folder = run_dir.find_model_folder(model)
    if adapters.is_adapter(folder):
        return [model, adapters.read_base_path(folder)]
    return [model]


def refuse_emptied(run: TrainedRun, left_out: Callable[[TaughtPart], frozenset[int]]) -> None:
    """Refuse a run of which a part would have no row.

    Args:
        run: the run.
        left_out: gives the indices of the rows of a part that are left out.

    Raises:
        NoExactWay: nothing of a part is left.
    """
    for part in run.parts:
        if len(left_out(part)) == len(part.rows):
            raise NoExactWay(f"without these rows {run.folder} has no row of data.{part.stream}")


def write_run_without(
    run: TrainedRun, left_out: Callable[[TaughtPart], frozenset[int]], folder: Path
) -> dict[str, Any]:
    """Write the rows of a run without some of them, and give the configuration that trains on them.

    Every other key of the configuration stays what it was. Rows are written as they were chosen,
    so that nothing is drawn among them again.

    Args:
        run: the run.
        left_out: gives the indices of the rows of a part that are left out.
        folder: gets a file for each part.
    """
    tree = dict(run.config.tree)
    data = dict(tree["data"])
    for part in run.parts:
        without = left_out(part)
        kept = [_to_json(row) for index, row in enumerate(part.rows) if index not in without]
        file = folder / f"{part.stream}-{part.name}.jsonl"
        write_lines(file, kept)
        if "choice" in part.dataset.args["hf_args"]:
            data[FILE_KEYS[part.stream]] = str(file)
        else:
            dataset = data[part.stream][part.name]
            arguments = {**dataset["args"], "hf_args": {"path": str(file)}}
            changed = {**dataset, "args": arguments}
            data[part.stream] = {**data[part.stream], part.name: changed}
    return {**tree, "data": _drop_choices(data), "resume": "auto"}


def _drop_choices(data: dict[str, Any]) -> dict[str, Any]:
    """Drop what says which rows of a file are taken: it was done."""
    kept = dict(data)
    columns = data.get("columns")
    if columns and data.get("marked"):
        kept["columns"] = {role: name for role, name in columns.items() if role != "forget"}
    max_rows = data.get("max_rows")
    if isinstance(max_rows, dict):
        max_rows = {stream: most for stream, most in max_rows.items() if stream not in FILE_KEYS}
    else:
        max_rows = None
    done = {"validation_fraction": 0.0, "max_rows": max_rows or None, "marked": None, "txt": None}
    for key, value in done.items():
        if key in kept:
            kept[key] = value
    return kept


def _to_json(value: object) -> Any:
    """Turn a cell into what JSON has: NaN is nothing, and what a dataset never reads, as a date, is
    text."""
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
