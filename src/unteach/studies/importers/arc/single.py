"""One of ARC's experiment configurations: a study of one run, which starts from models that are
there already."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unteach.config.overrides import spell_value
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.errors import UserError, unknown
from unteach.studies import shapes
from unteach.studies.importers.arc import files, top_config
from unteach.studies.plan import PlannedRun

KINDS = ("full", "retain", *top_config.METHODS)


@dataclass
class Experiment:
    """ARC's experiment configuration, by its own names."""

    data_config: str
    model_config: str
    hyperparameter_config: str
    train_type: str
    seed: int
    experiment_name: str
    full_model_name: str | None = None
    use_wandb: bool = False
    wandb_config: dict[str, Any] = field(default_factory=dict)


def is_experiment(study: dict[str, Any]) -> bool:
    """Whether a mapping is one experiment of ARC's, and no study."""
    return "train_type" in study and "combinations" not in study


def read_experiment(mapping: dict[str, Any]) -> Experiment:
    """Read an experiment configuration; raise UserError with every mistake in it."""
    reader = Reader()
    found: Experiment = reader.record(Experiment, mapping, "")
    if found is not None and found.train_type not in KINDS:
        reader.wrong("train_type", unknown("ARC train type", found.train_type, KINDS))
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return found


def study_name(experiment_name: str, train_type: str) -> str:
    """Name the study, and so the folder, of an experiment."""
    name = f"{experiment_name}.{train_type}".replace("/", ".")
    if not shapes.NAME.fullmatch(name):
        raise UserError(
            f"experiment_name={experiment_name!r}: write letters, digits and _ . + - / (it names a "
            f"folder)"
        )
    return name


def plan(
    file: Path, mapping: dict[str, Any], root: str, extra: tuple[str, ...]
) -> tuple[str, list[PlannedRun]]:
    """Give the name and the one run of an experiment's configuration.

    Raises:
        UserError: a mistake in it, or the full model that it starts from is not there.
    """
    found = read_experiment(mapping)
    kind = "forget" if found.train_type in top_config.METHODS else found.train_type
    named = (
        found.full_model_name if kind == "full" and found.full_model_name else found.experiment_name
    )
    name = study_name(named, found.train_type)
    top = top_config.Top(
        {},
        found.model_config,
        found.data_config,
        wandb_kwargs=top_config.WandbArgs(found.use_wandb, found.wandb_config),
    )
    job = top_config.Job(
        kind,
        0,
        found.data_config,
        found.hyperparameter_config,
        found.hyperparameter_config,
        found.seed,
        0,
        0,
        method=found.train_type if kind == "forget" else None,
    )
    run = top_config.plan_job(
        job, name, top, files.read_layers(top, [job], file), f"{root}/{name}", extra
    )
    places = {
        "task_name": f"{name}/{found.train_type}",
        "paths.output_dir": f"{root}/{name}/{found.train_type}",
    }
    dropped: tuple[str, ...] = ()
    if kind == "forget":
        full, retain = _full_model(found, root), _retain_model(found, root)
        places |= {MODEL_KEY: full, TOKENIZER_KEY: full}
        if retain:
            places["retain_logs_path"] = retain
        else:
            dropped = ("retain_logs_path",)
            print(
                f"note: there is no retain model of {found.experiment_name} in {root}, so "
                "forget_quality_1 and _2 are not measured; its own configuration (train_type: "
                "retain) makes one"
            )
    kept = (word for word in run.overrides if word.partition("=")[0] not in dropped)
    words = (_put(word, places) for word in kept)
    return name, [replace(run, name=found.train_type, overrides=tuple(words), after=())]


def _put(word: str, places: dict[str, str]) -> str:
    key = word.partition("=")[0]
    return f"{key}={spell_value(places[key])}" if key in places else word


def _full_model(found: Experiment, root: str) -> str:
    """The folder of the full model: of a whole study of ARC's, or of an experiment that was run
    alone."""
    if found.full_model_name is None:
        raise UserError(
            f"full_model_name: is required: {found.train_type} starts from a full model"
        )
    alone = f"{root}/{study_name(found.full_model_name, 'full')}/full"
    places = (f"{root}/{found.full_model_name}", alone)
    there = next((place for place in places if Path(place).is_dir()), None)
    if there is None:
        raise UserError(
            f"full_model_name={found.full_model_name}: this full model is not there "
            f"({' or '.join(places)}): run its own configuration (train_type: full) first, or the "
            "whole study"
        )
    return there


def _retain_model(found: Experiment, root: str) -> str | None:
    """The folder of the retain model of the same experiment_name; None where it was not made."""
    alone = f"{root}/{study_name(found.experiment_name, 'retain')}/retain"
    top, _, number = found.experiment_name.rpartition("/experiment_")
    places = [alone, *([f"{root}/{top}/retain_{number}"] if top else [])]
    return next((place for place in places if Path(place).is_dir()), None)
