"""ARC selective forgetting's studies: one top configuration becomes full, retain and forget runs by
ARC's own rule.

A pure function of the four layers (top, data, model, hyperparameters); importers/arc/files.py reads
them. Counts and numbers are ARC's: full = train x seed, retain = full x data, forget = retain x
forget pairs, numbered over the whole study. The runs `full_eval_<n>` are ours: the full model,
measured on the forget and retain rows of `retain_<n>`.
"""

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from unteach.config.overrides import spell_value
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.errors import UserError
from unteach.studies.importers.arc.overrides import (
    build_data_settings,
    build_model_settings,
    build_training_settings,
)
from unteach.studies.plan import PlannedRun, sort_by_parents
from unteach.studies.run_overrides import build_tracking_overrides, spell_overrides
from unteach.studies.shared_overrides import (
    drop_start_overrides,
    drop_suite_overrides,
    drop_training_overrides,
)
from unteach.wording import quote_value

METHODS = {
    "ascent": "arc_ascent",
    "difference": "arc_difference",
    "idk": "arc_idk",
    "kl": "arc_kl",
}
"""ARC's ways to forget, and the methods that are the same."""
COMBINED: dict[str, type] = {
    "data_config": str,
    "train_config": str,
    "seed": int,
    "forget_config": list,
}
"""The lists of `combinations`, and what their items are."""
WANDB_KEYS = {"entity", "project", "group", "log_model"}


@dataclass
class Bask:
    walltime: str | int = "0-6:0:0"
    gpu_number: int = 1
    node_number: int = 1


@dataclass
class WandbArgs:
    use_wandb: bool = False
    wandb_config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Top:
    """ARC's top configuration, by its own names."""

    combinations: dict[str, Any]
    model_config: str
    full_data_config: str
    use_bask: bool = False
    bask: Bask = field(default_factory=Bask)
    model_cache_dir: str | None = None
    data_cache_dir: str | None = None
    wandb_cache_dir: str | None = None
    wandb_kwargs: WandbArgs = field(default_factory=WandbArgs)


@dataclass(frozen=True)
class ArcJob:
    """One job of a top configuration.

    Attributes:
        kind: full, retain, full_eval or forget.
        number: of the job among those of its kind.
        data: the name of its data layer.
        hyperparameters: the name of its hyperparameter layer.
        train: the hyperparameters of the full job that it belongs to.
        seed: of the run.
        full: the number of that full job.
        retain: the number of the retain job that it belongs to.
        method: ARC's name of the way to forget.
    """

    kind: str
    number: int
    data: str
    hyperparameters: str
    train: str
    seed: int
    full: int
    retain: int | None = None
    method: str | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.number}"


@dataclass
class Layers:
    """The mappings of the files that a top configuration names, by name."""

    model: dict[str, Any]
    data: dict[str, dict[str, Any]]
    hyperparameters: dict[str, dict[str, Any]]


def is_top(study: dict[str, Any]) -> bool:
    """Say whether a mapping is a top configuration of ARC's, and no study."""
    return "combinations" in study


def read_top(study: dict[str, Any]) -> Top:
    """Read a top configuration.

    Raises:
        UserError: it has every mistake in it.
    """
    reader = Reader()
    top: Top | None = reader.record(Top, study, "")
    if top is None:
        raise UserError(join_problems(reader.problems))
    known = reader.known(tuple(COMBINED), top.combinations, "combinations")
    top.combinations = {}
    for key, values in known.items():
        top.combinations[key] = values if isinstance(values, list) else [values]
    for key, kind in COMBINED.items():
        for index, value in enumerate(top.combinations.get(key, ())):
            reader.value(kind, value, f"combinations.{key}[{index}]")
    for key in ("data_config", "train_config", "seed"):
        if not top.combinations.get(key):
            reader.wrong(f"combinations.{key}", "is required: a list")
    for index, pair in enumerate(top.combinations.get("forget_config", ())):
        where = f"combinations.forget_config[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            problem = f"must be a pair [method, hyperparameters], got {quote_value(pair)}"
            reader.wrong(where, problem)
        elif pair[0] not in METHODS:
            allowed = ", ".join(METHODS)
            problem = f"there is no ARC method {quote_value(pair[0])}; allowed: {allowed}"
            reader.wrong(where, problem)
    if top.bask.node_number != 1:
        reader.wrong("bask.node_number", f"a run takes one node, got {top.bask.node_number}")
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return top


def list_jobs(top: Top) -> list[ArcJob]:
    """Expand a top configuration as ARC does: every full job, then its retain jobs, each with its
    forget jobs."""
    # All that a full job varies over, in the order of the file.
    full_lists = dict(top.combinations)
    full_lists.pop("data_config", None)
    full_lists.pop("forget_config", None)
    forget_pairs = top.combinations.get("forget_config", [])
    jobs: list[ArcJob] = []
    num_retain = 0
    num_forget = 0
    for full, values in enumerate(itertools.product(*full_lists.values())):
        full_settings = dict(zip(full_lists, values, strict=True))
        train = full_settings["train_config"]
        full_job = ArcJob(
            "full",
            number=full,
            data=top.full_data_config,
            hyperparameters=train,
            train=train,
            seed=full_settings["seed"],
            full=full,
        )
        jobs.append(full_job)
        for data in top.combinations["data_config"]:
            retain_job = replace(
                full_job,
                kind="retain",
                number=num_retain,
                data=data,
                retain=num_retain,
            )
            jobs.append(retain_job)
            jobs.append(replace(retain_job, kind="full_eval"))
            num_retain += 1
            for method, hyperparameters in forget_pairs:
                forget_job = replace(
                    retain_job,
                    kind="forget",
                    number=num_forget,
                    hyperparameters=hyperparameters,
                    method=method,
                )
                jobs.append(forget_job)
                num_forget += 1
    return jobs


def count_kinds(jobs: list[ArcJob]) -> dict[str, int]:
    """Count the jobs of each kind."""
    counts = {"full": 0, "retain": 0, "forget": 0, "full_eval": 0}
    for job in jobs:
        counts[job.kind] += 1
    return counts


def expand(
    name: str,
    top: Top,
    layers: Layers,
    root: str = "saves",
    extra: tuple[str, ...] = (),
) -> list[PlannedRun]:
    """Plan the runs of a top configuration.

    Args:
        name: of the study.
        top: the configuration.
        layers: the files that it names.
        root: the folder that the study's folder is in.
        extra: overrides that go to every run.
    """
    folder = f"{root}/{name}"
    runs = [plan_job(job, name, top, layers, folder, extra) for job in list_jobs(top)]
    _refuse_two_datasets(top, layers)
    return sort_by_parents(name, runs)


def _refuse_two_datasets(top: Top, layers: Layers) -> None:
    """Refuse to forget what the full model was not taught; our own overrides are any dataset."""
    taught = layers.data[top.full_data_config].get("dataset_name")
    if taught == "unteach":
        return
    for name in top.combinations["data_config"]:
        forgotten = layers.data[name].get("dataset_name")
        if forgotten not in (taught, "unteach"):
            raise UserError(
                f"full_data_config {top.full_data_config} teaches {taught}, and {name} forgets of "
                f"{forgotten}: give both one dataset_name"
            )


def plan_job(
    job: ArcJob,
    name: str,
    top: Top,
    layers: Layers,
    root: str,
    extra: tuple[str, ...],
) -> PlannedRun:
    """Plan the run of one job.

    Args:
        job: the job.
        name: of the study.
        top: the configuration that it is of.
        layers: the files that this names.
        root: the study's folder.
        extra: overrides that go to every run.
    """
    full = f"full_{job.full}"
    retain = f"retain_{job.retain}"
    is_evaluation = job.kind == "full_eval"
    starts_from_full = job.kind in ("forget", "full_eval")

    values: dict[str, Any] = {"model": "auto"}
    values.update(build_model_settings(layers.model, top.model_config))
    values["seed"] = job.seed
    data_settings = build_data_settings(
        layers.data[job.data],
        job.data,
        job.kind,
        job.seed,
        job.method,
    )
    values.update(data_settings)
    if not is_evaluation:
        values.update(_build_trainer_settings(job, layers))
    if starts_from_full:
        values[MODEL_KEY] = f"{root}/{full}"
        values[TOKENIZER_KEY] = f"{root}/{full}"
    values.update(_build_cache_settings(top))
    values.setdefault("eval", None)

    if starts_from_full:
        extra = drop_start_overrides(extra)
    if is_evaluation:
        extra = drop_training_overrides(extra)
    if values["eval"] is None:
        extra = drop_suite_overrides(extra)

    overrides = spell_overrides(values)
    overrides += _build_tracking_overrides(job, name, top)
    overrides.append(f"task_name={spell_value(f'{name}/{job.name}')}")
    overrides.append(f"paths.output_dir={spell_value(f'{root}/{job.name}')}")
    overrides += extra
    if starts_from_full:
        overrides.append(f"retain_logs_path={spell_value(f'{root}/{retain}')}")
    config_name = {"forget": "unlearn", "full_eval": "eval"}.get(job.kind, "train")
    kind = "eval" if is_evaluation else job.kind
    parents = (full, retain) if starts_from_full else ()
    return PlannedRun(job.name, kind, config_name, tuple(overrides), parents)


def _build_cache_settings(top: Top) -> dict[str, Any]:
    """Give the folders that models and data are kept in, where ARC's file names them."""
    settings = {}
    if top.model_cache_dir:
        settings["paths.model_cache_dir"] = top.model_cache_dir
    if top.data_cache_dir:
        settings["paths.data_cache_dir"] = top.data_cache_dir
    return settings


def _build_trainer_settings(job: ArcJob, layers: Layers) -> dict[str, Any]:
    """Give how a job is trained, and by which method."""
    layer = layers.hyperparameters[job.hyperparameters]
    settings = build_training_settings(layer, job.hyperparameters, job.kind)
    if job.method:
        settings["trainer"] = METHODS[job.method]
    else:
        settings["trainer"] = "finetune"
        settings["trainer.method_args.loss_on"] = "all"
    return settings


def _build_tracking_overrides(job: ArcJob, name: str, top: Top) -> list[str]:
    """Give a run that is trained ARC's name and its settings of Weights & Biases."""
    if not top.wandb_kwargs.use_wandb or job.kind == "full_eval":
        return []
    settings = dict(top.wandb_kwargs.wandb_config)
    unknown_keys = sorted(settings.keys() - WANDB_KEYS)
    if unknown_keys:
        raise UserError(
            f"wandb_kwargs.wandb_config: {', '.join(unknown_keys)} is not one of "
            f"{', '.join(sorted(WANDB_KEYS))}"
        )
    if top.wandb_cache_dir:
        settings["dir"] = top.wandb_cache_dir
    run_name = f"{top.model_config}-{job.data}-{job.method or job.kind}-{job.seed}-{job.name}"
    overrides = build_tracking_overrides(settings, name, job.kind)
    overrides.append(f"trainer.args.run_name={spell_value(run_name)}")
    return overrides


def build_slurm_section(top: Top) -> dict[str, Any]:
    """Give the section `slurm` that ARC's Baskerville arguments stand for."""
    if not top.use_bask:
        return {}
    return {"time": top.bask.walltime, "gpus": top.bask.gpu_number}
