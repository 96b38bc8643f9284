"""ARC selective forgetting's studies: one top configuration becomes full, retain and forget runs by
ARC's own rule.

A pure function of the four layers (top, data, model, hyperparameters); importers/arc/files.py reads
them. Counts and numbers are ARC's: full = train x seed, retain = full x data, forget = retain x
forget pairs, numbered over the whole study. Beside them stands `full_eval_<n>`: the full model,
measured on the forget and retain rows of `retain_<n>`.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from unteach.config.overrides import spell_value
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.errors import UserError
from unteach.studies.importers.arc.overrides import data_words, hyperparameter_words, model_words
from unteach.studies.plan import PlannedRun, ordered, tracking
from unteach.studies.shared_overrides import without_start, without_suites, without_training
from unteach.wording import shown

METHODS = {"ascent": "arc_ascent", "difference": "arc_difference", "idk": "arc_idk", "kl": "arc_kl"}


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
class Job:
    """One job of a top configuration; `full` and `retain` are the numbers of those that it belongs
    to, `train` the hyperparameters of that full job."""

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
    return "combinations" in study


def read_top(study: dict[str, Any]) -> Top:
    """A top configuration, checked; UserError with every mistake in it."""
    reader = Reader()
    top: Top = reader.record(Top, study, "")
    if top is None:
        raise UserError(join_problems(reader.problems))
    listed = reader.known(
        ("data_config", "train_config", "forget_config", "seed"), top.combinations, "combinations"
    )
    top.combinations = {
        key: value if isinstance(value, list) else [value] for key, value in listed.items()
    }
    for key, kind in {
        "data_config": str,
        "train_config": str,
        "seed": int,
        "forget_config": list,
    }.items():
        for number, value in enumerate(top.combinations.get(key, ())):
            reader.value(kind, value, f"combinations.{key}[{number}]")
    for key in ("data_config", "train_config", "seed"):
        if not top.combinations.get(key):
            reader.wrong(f"combinations.{key}", "is required: a list")
    for number, pair in enumerate(top.combinations.get("forget_config", ())):
        where = f"combinations.forget_config[{number}]"
        if not isinstance(pair, list) or len(pair) != 2:
            reader.wrong(where, f"must be a pair [method, hyperparameters], got {shown(pair)}")
        elif pair[0] not in METHODS:
            reader.wrong(
                where, f"there is no ARC method {shown(pair[0])}; allowed: {', '.join(METHODS)}"
            )
    if top.bask.node_number != 1:
        reader.wrong("bask.node_number", f"a run takes one node, got {top.bask.node_number}")
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return top


def jobs(top: Top) -> list[Job]:
    """ARC's expansion: every full job, then its retain jobs, each with its forget jobs."""
    lists = {
        key: value
        for key, value in top.combinations.items()
        if key not in ("data_config", "forget_config")
    }
    found: list[Job] = []
    retain = forget = 0
    for full, values in enumerate(itertools.product(*lists.values())):
        chosen = dict(zip(lists, values, strict=True))
        train, seed = chosen["train_config"], chosen["seed"]
        found.append(Job("full", full, top.full_data_config, train, train, seed, full))
        for data in top.combinations["data_config"]:
            found.append(Job("retain", retain, data, train, train, seed, full, retain))
            found.append(Job("full_eval", retain, data, train, train, seed, full, retain))
            for method, hyperparameters in top.combinations.get("forget_config", []):
                found.append(
                    Job("forget", forget, data, hyperparameters, train, seed, full, retain, method)
                )
                forget += 1
            retain += 1
    return found


def counts(found: list[Job]) -> dict[str, int]:
    kinds = ("full", "retain", "forget", "full_eval")
    return {kind: sum(job.kind == kind for job in found) for kind in kinds}


def expand(
    name: str, top: Top, layers: Layers, root: str = "saves", extra: tuple[str, ...] = ()
) -> list[PlannedRun]:
    """The planned runs of a top configuration; `extra` overrides go to every run."""
    made = [plan_job(job, name, top, layers, f"{root}/{name}", extra) for job in jobs(top)]
    _refuse_two_worlds(top, layers)
    return ordered(name, made)


def _refuse_two_worlds(top: Top, layers: Layers) -> None:
    """What a full model was not taught it cannot forget."""
    taught = layers.data[top.full_data_config].get("dataset_name")
    for name in top.combinations["data_config"]:
        if (other := layers.data[name].get("dataset_name")) not in (
            taught,
            "unteach",
        ) and taught != "unteach":
            raise UserError(
                f"full_data_config {top.full_data_config} teaches {taught}, and {name} forgets of "
                f"{other}: give both one dataset_name"
            )


def plan_job(
    job: Job, name: str, top: Top, layers: Layers, root: str, extra: tuple[str, ...]
) -> PlannedRun:
    """Plan the run of one job; `root` is the study's folder."""
    full, retain = f"full_{job.full}", f"retain_{job.retain}"
    starts = job.kind in ("forget", "full_eval")
    values: dict[str, Any] = {
        "model": "auto",
        **model_words(layers.model, top.model_config),
        "seed": job.seed,
    }
    values |= data_words(layers.data[job.data], job.data, job.kind, job.seed, job.method)
    if job.kind != "full_eval":
        own = layers.hyperparameters[job.hyperparameters]
        values |= hyperparameter_words(own, job.hyperparameters, job.kind)
        values |= {"trainer": METHODS[job.method] if job.method else "finetune"}
        values |= {} if job.method else {"trainer.method_args.loss_on": "all"}
    values |= {MODEL_KEY: f"{root}/{full}", TOKENIZER_KEY: f"{root}/{full}"} if starts else {}
    values |= {"paths.model_cache_dir": top.model_cache_dir} if top.model_cache_dir else {}
    values |= {"paths.data_cache_dir": top.data_cache_dir} if top.data_cache_dir else {}
    values.setdefault("eval", None)
    if starts:
        extra = without_start(extra)
    if job.kind == "full_eval":
        extra = without_training(extra)
    if values["eval"] is None:
        extra = without_suites(extra)
    words = [f"{key}={spell_value(value)}" for key, value in values.items()]
    words += _tracked(job, name, top)
    words += [f"task_name={spell_value(f'{name}/{job.name}')}"]
    words += [f"paths.output_dir={spell_value(f'{root}/{job.name}')}", *extra]
    words += [f"retain_logs_path={spell_value(f'{root}/{retain}')}"] if starts else []
    config_name = {"forget": "unlearn", "full_eval": "eval"}.get(job.kind, "train")
    kind = "eval" if job.kind == "full_eval" else job.kind
    return PlannedRun(job.name, kind, config_name, tuple(words), (full, retain) if starts else ())


def _tracked(job: Job, name: str, top: Top) -> list[str]:
    """ARC's run names and Weights & Biases settings."""
    if not top.wandb_kwargs.use_wandb or job.kind == "full_eval":
        return []
    known = {"entity", "project", "group", "log_model"}
    if unread := top.wandb_kwargs.wandb_config.keys() - known:
        raise UserError(
            f"wandb_kwargs.wandb_config: {', '.join(sorted(unread))} is not one of "
            f"{', '.join(sorted(known))}"
        )
    run_name = f"{top.model_config}-{job.data}-{job.method or job.kind}-{job.seed}-{job.name}"
    caches = {"dir": top.wandb_cache_dir} if top.wandb_cache_dir else {}
    settings = {**top.wandb_kwargs.wandb_config, **caches}
    return [*tracking(settings, name, job.kind), f"trainer.args.run_name={spell_value(run_name)}"]


def slurm(top: Top) -> dict[str, Any]:
    """What ARC's Baskerville arguments say of a Slurm job."""
    if not top.use_bask:
        return {}
    return {"time": top.bask.walltime, "gpus": top.bask.gpu_number}
