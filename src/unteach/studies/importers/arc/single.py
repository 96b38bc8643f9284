"""One of ARC's experiment configurations: a study of one run, which starts from models that are
there already."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unteach.config.overrides import spell_value
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.errors import UserError, describe_unknown
from unteach.studies import shapes
from unteach.studies.importers.arc import files, top_config
from unteach.studies.plan import PlannedRun

logger = logging.getLogger(__name__)

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
    """Say whether a mapping is one experiment of ARC's, and no study."""
    return "train_type" in study and "combinations" not in study


def read_experiment(mapping: dict[str, Any]) -> Experiment:
    """Read an experiment configuration; raise UserError with every mistake in it."""
    reader = Reader()
    experiment: Experiment | None = reader.record(Experiment, mapping, "")
    if experiment is not None and experiment.train_type not in KINDS:
        problem = describe_unknown("ARC train type", experiment.train_type, KINDS)
        reader.wrong("train_type", problem)
    if reader.problems or experiment is None:
        raise UserError(join_problems(reader.problems))
    return experiment


def build_study_name(experiment_name: str, train_type: str) -> str:
    """Name the study, and so the folder, of an experiment."""
    name = f"{experiment_name}.{train_type}".replace("/", ".")
    if not shapes.NAME.fullmatch(name):
        raise UserError(
            f"experiment_name={experiment_name!r}: write letters, digits and _ . + - / (it names a "
            f"folder)"
        )
    return name


def plan(
    file: Path,
    mapping: dict[str, Any],
    root: str,
    extra: tuple[str, ...],
) -> tuple[str, list[PlannedRun]]:
    """Plan the one run of an experiment's configuration.

    Args:
        file: where the configuration is.
        mapping: what it holds.
        root: the folder of studies and models.
        extra: overrides that go to the run.

    Returns:
        The name of the study, and its plan.

    Raises:
        UserError: a mistake in it, or the full model that it starts from is not there.
    """
    experiment = read_experiment(mapping)
    train_type = experiment.train_type
    kind = "forget" if train_type in top_config.METHODS else train_type
    name = experiment.experiment_name
    if kind == "full" and experiment.full_model_name:
        name = experiment.full_model_name
    name = build_study_name(name, train_type)
    folder = f"{root}/{name}"
    run = _plan_as_job(experiment, kind, name, file, folder, extra)

    # The run as that of a top configuration, in the folders of a study of its own.
    places = {
        "task_name": f"{name}/{train_type}",
        "paths.output_dir": f"{folder}/{train_type}",
    }
    overrides = list(run.overrides)
    if kind == "forget":
        full_model = _find_full_model(experiment, root)
        places[MODEL_KEY] = full_model
        places[TOKENIZER_KEY] = full_model
        retain_model = _find_retain_model(experiment, root)
        if retain_model:
            places["retain_logs_path"] = retain_model
        else:
            overrides = [word for word in overrides if not word.startswith("retain_logs_path=")]
            logger.info(
                f"there is no retain model of {experiment.experiment_name} in {root}, so "
                "forget_quality_1 and _2 are not measured; its own configuration (train_type: "
                "retain) makes one"
            )
    overrides = [_replace_value(word, places) for word in overrides]
    run = replace(
        run,
        name=train_type,
        overrides=tuple(overrides),
        after=(),
    )
    return name, [run]


def _plan_as_job(
    experiment: Experiment,
    kind: str,
    name: str,
    file: Path,
    folder: str,
    extra: tuple[str, ...],
) -> PlannedRun:
    """Plan an experiment as the one job of a top configuration."""
    wandb_kwargs = top_config.WandbArgs(experiment.use_wandb, experiment.wandb_config)
    top = top_config.Top(
        combinations={},
        model_config=experiment.model_config,
        full_data_config=experiment.data_config,
        wandb_kwargs=wandb_kwargs,
    )
    job = top_config.ArcJob(
        kind,
        number=0,
        data=experiment.data_config,
        hyperparameters=experiment.hyperparameter_config,
        train=experiment.hyperparameter_config,
        seed=experiment.seed,
        full=0,
        retain=0,
        method=experiment.train_type if kind == "forget" else None,
    )
    layers = files.read_layers(top, [job], file)
    return top_config.plan_job(job, name, top, layers, folder, extra)


def _replace_value(override: str, values: dict[str, str]) -> str:
    """Give an override its value in `values`, if its key has one."""
    key = override.partition("=")[0]
    if key not in values:
        return override
    return f"{key}={spell_value(values[key])}"


def _find_full_model(experiment: Experiment, root: str) -> str:
    """Find the folder of the full model: of a whole study of ARC's, or of an experiment that was
    run alone."""
    name = experiment.full_model_name
    if name is None:
        raise UserError(
            f"full_model_name: is required: {experiment.train_type} starts from a full model"
        )
    study_name = build_study_name(name, "full")
    places = [f"{root}/{name}", f"{root}/{study_name}/full"]
    folder = _find_folder(places)
    if folder is None:
        looked_in = " or ".join(places)
        raise UserError(
            f"full_model_name={name}: this full model is not there "
            f"({looked_in}): run its own configuration (train_type: full) first, or the "
            "whole study"
        )
    return folder


def _find_retain_model(experiment: Experiment, root: str) -> str | None:
    """Find the folder of the retain model of the same experiment_name; None where it was not
    made."""
    name = experiment.experiment_name
    places = [f"{root}/{build_study_name(name, 'retain')}/retain"]
    top, _, number = name.rpartition("/experiment_")
    if top:
        places.append(f"{root}/{top}/retain_{number}")
    return _find_folder(places)


def _find_folder(places: list[str]) -> str | None:
    for place in places:
        if Path(place).is_dir():
            return place
    return None
