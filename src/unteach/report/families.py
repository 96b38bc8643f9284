"""Runs that differ in nothing but their seed, as one: what was forgotten, by which method, mean and
deviation.

Two runs are of one family if they were trained alike (method, arguments, adapter, template) on the
same forget split or forget set; evaluations of one model, if their names are the same without the
seed.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from unteach import fingerprints, run_dir
from unteach.config.schema import PATH
from unteach.report.collect import REFERENCES, RunResult
from unteach.report.origin import ConfigTree, get_nested, read_config

OVER_SEEDS = " over seeds"
"""What is added to a suite's name where its runs are shown as families."""

NUMBERED = re.compile(r"^(full_eval)_\d+$")
"""An evaluation of a full model in one of ARC's studies, whose number says neither seed nor
hyperparameters."""

MOST_LETTERS = 120
"""Of the names of a family's runs."""

Member = tuple[RunResult, ConfigTree]
"""A run and its configuration."""
FamilyKey = tuple[str, str, str]
"""A kind, what is forgotten, and what the runs of a family have in common beside."""


@dataclass(frozen=True)
class Family:
    """Runs that differ in their seed.

    Attributes:
        method: how it is called, without its seed and without what is forgotten.
        data: what is forgotten, "" where nothing is.
        kind: the part of its runs in a study.
    """

    method: str
    data: str
    kind: str
    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        if not self.data:
            return self.method
        return f"{self.method}, {self.data}"

    def mean(self, metric: str) -> float | None:
        """Get the mean over the runs that have the metric; None where none has."""
        values = self._list_values(metric)
        return mean(values) if values else None

    def deviation(self, metric: str) -> float | None:
        """Get the sample standard deviation over the runs; None of fewer than two."""
        values = self._list_values(metric)
        return stdev(values) if len(values) > 1 else None

    def _list_values(self, metric: str) -> list[float]:
        values = [run.value(metric) for run in self.runs]
        return [value for value in values if value is not None]

    def merge(self) -> RunResult:
        """Make a run whose values are the means.

        Their intervals reach one deviation to either side, and n counts the runs.
        """
        metrics: dict[str, None] = {}  # in the order in which the runs have them
        summarized: set[str] = set()
        for run in self.runs:
            metrics.update(dict.fromkeys(run.metrics()))
            summarized.update(run.summary)

        results: dict[str, Any] = {}
        summary: dict[str, float] = {}
        for metric in metrics:
            centre = self.mean(metric)
            results[metric] = self._merge_metric(metric)
            if metric in summarized and centre is not None:
                summary[metric] = centre

        names = ", ".join(run.name for run in self.runs)
        # It is no folder, and is looked for as one: a name has 255 bytes at most.
        if len(names) > MOST_LETTERS:
            names = f"{self.runs[0].name[:MOST_LETTERS]} and others"
        return RunResult(
            name=self.name,
            kind=self.kind,
            folder=Path(f"{len(self.runs)} runs: {names}"),
            summary=summary,
            results=results,
            forgets=self.data,
            described=self.runs[0].described,
            before=self._merge_starts(),
        )

    def _merge_metric(self, metric: str) -> dict[str, Any]:
        """Make the entry that the merged run's log has for a metric."""
        centre = self.mean(metric)
        spread = self.deviation(metric)
        interval = None
        if centre is not None and spread is not None:
            interval = [centre - spread, centre + spread]
        return {
            "agg_value": centre,
            "n": len(self._list_values(metric)),
            "ci": interval,
        }

    def _merge_starts(self) -> RunResult | None:
        """Merge what the runs started from; None where it was not measured of each."""
        starts = []
        for run in self.runs:
            if run.before is None:
                return None
            starts.append(run.before)
        family = Family(
            method=f"{self.name}, before",
            data="",
            kind="start",
            runs=tuple(starts),
        )
        return family.merge()


def group_families(runs: list[RunResult]) -> list[Family]:
    """Group runs by family, in the order in which the first of each comes."""
    groups: dict[FamilyKey, list[Member]] = {}
    for run in runs:
        if run.kind == "start":  # it belongs to the run that started from it
            continue
        config = read_config(run.folder)
        key = (run.kind, run.forgets, _identify(run, config))
        members = groups.setdefault(key, [])
        members.append((run, config))

    families: list[tuple[Family, ConfigTree]] = []
    for (kind, data, _), members in groups.items():
        for part in _split_repeats(members):
            _, first_config = part[0]
            family = _build_family(kind, data, part)
            families.append((family, first_config))
    return _tell_apart(families)


def average_over_seeds(runs: list[RunResult]) -> list[RunResult]:
    """Make one run of each family; none where no family has two."""
    families = group_families(runs)
    most_seeds = max((len(family.runs) for family in families), default=0)
    if most_seeds < 2:
        return []
    return [family.merge() for family in families]


def _identify(run: RunResult, config: ConfigTree) -> str:
    """Give what the runs of a family have in common, beside their kind and what they forget."""
    if config.get("trainer"):
        return _identify_training(config)
    if config:
        return _identify_evaluation(run, config)
    return str(run.folder)


def _identify_training(config: ConfigTree) -> str:
    """Give what training runs share that differ in their seed alone."""
    trainer = dict(config["trainer"])
    arguments = dict(trainer.get("method_args") or {})
    for name, value in arguments.items():
        if isinstance(value, str):  # it may be the folder of another run of the same seed
            arguments[name] = _remove_seed(value, config)
    trainer["method_args"] = arguments
    trained = [trainer, config.get("template"), config.get("compat")]
    model_settings = _list_model_settings(config)
    own_files = _list_own_files(config)
    return fingerprints.hash_value([*trained, *model_settings, own_files])


def _list_model_settings(config: ConfigTree) -> list[Any]:
    """List what a configuration says of its model, but for where the weights come from, which tells
    the seed too."""
    model = config.get("model") or {}
    model_args = model.get("model_args") or {}
    return [
        model.get("peft_args"),
        model.get("template_args"),
        model.get("pure_bf16"),
        model_args.get("dtype"),
    ]


def _list_own_files(config: ConfigTree) -> dict[str, Any]:
    """List the files of rows of one's own that a run was trained on."""
    data = config.get("data") or {}
    files = {}
    for key, value in data.items():
        if key.endswith("_file") and value:
            files[key] = value
    return files


def _identify_evaluation(run: RunResult, config: ConfigTree) -> str:
    """Give what evaluations of one model share: its name; where that is a number, how the model
    beside it was taught."""
    if NUMBERED.match(run.name) is None:
        return _remove_seed(run.name, config)
    path = get_nested(config, "model", "model_args", PATH)
    model_dir = run.folder.parent / Path(str(path)).name
    model_config = read_config(model_dir)
    if not model_config.get("trainer"):
        return run.name
    peft_args = get_nested(model_config, "model", "peft_args")
    return fingerprints.hash_value([model_config["trainer"], peft_args])


def _split_repeats(members: list[Member]) -> list[list[Member]]:
    """Split members of which two have one seed into families of their own.

    Runs of one family differ in their seed; those of one seed differ in something else.
    """
    seeds = []
    for _, config in members:
        if config.get("trainer"):
            seeds.append(config.get("seed"))
    if len(set(seeds)) == len(seeds):
        return [members]
    return [[member] for member in members]


def _build_family(kind: str, data: str, members: list[Member]) -> Family:
    """Make a family of its members, by the name that they share or else by their method."""
    names = set()
    for run, config in members:
        name = _remove_seed(run.name, config)
        names.add(NUMBERED.sub(r"\1", name))
    if len(names) == 1:
        method = names.pop()
    elif kind in REFERENCES:
        method = kind
    else:
        _, first_config = members[0]
        method = str(get_nested(first_config, "trainer", "handler") or kind)
    runs = tuple(run for run, _ in members)
    return Family(method, data, kind, runs)


def _tell_apart(families: list[tuple[Family, ConfigTree]]) -> list[Family]:
    """Name families, each given with its configuration; where several have one name, it says how
    each was trained."""
    trainers: dict[str, list[ConfigTree]] = {}
    for family, config in families:
        trainers.setdefault(family.name, []).append(config.get("trainer") or {})
    odd_keys: dict[str, dict[str, None]] = {}
    for name, namesakes in trainers.items():
        # Whatever differs between any two differs between the first and one of them.
        first, *others = namesakes
        odd_keys[name] = {}
        for other in others:
            odd_keys[name].update(dict.fromkeys(run_dir.list_differences(first, other)))
    renamed = []
    for family, config in families:
        trainer = config.get("trainer") or {}
        settings = []
        for key in odd_keys[family.name]:
            parts = key.split(".")
            value = get_nested(trainer, *parts)
            settings.append(f"{parts[-1]}={value}")
        if settings:
            how = ", ".join(settings)
            family = replace(family, method=f"{family.method} ({how})")
        renamed.append(family)
    return renamed


def _remove_seed(name: str, config: ConfigTree) -> str:
    """Take out of a run's name its seed and what it forgets, as a study's plan writes them."""
    seed = config.get("seed")
    split = config.get("forget_split")
    parts = [f"seed{seed}", str(split)]
    forget_set = config.get("forget_set")
    if isinstance(forget_set, dict):
        values = [str(value) for value in forget_set.values() if value is not None]
        parts.append("-".join(values))
    for part in parts:
        # At the end of the name, or between two of its parts.
        pattern = rf"[_-]{re.escape(part)}"
        name = re.sub(rf"{pattern}(?![\w.])", "", name)
        name = re.sub(rf"{pattern}(?=[_-])", "", name)
    return name
