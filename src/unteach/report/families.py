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
from unteach.report.origin import get_nested, read_config

OVER_SEEDS = " over seeds"
"""What is added to a suite's name where its runs are shown as families."""

NUMBERED = re.compile(r"^(full_eval)_\d+$")
"""An evaluation of a full model in one of ARC's studies, whose number says neither seed nor
hyperparameters."""

Member = tuple[RunResult, dict[str, Any]]
"""A run and its configuration."""


@dataclass(frozen=True)
class Family:
    """Runs that differ in their seed.

    Attributes:
        method: how it is called, without its seed and without what is forgotten.
        data: what is forgotten, "" where nothing is.
    """

    method: str
    data: str
    kind: str
    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        return f"{self.method}, {self.data}" if self.data else self.method

    def mean(self, metric: str) -> float | None:
        values = self._list_values(metric)
        return mean(values) if values else None

    def deviation(self, metric: str) -> float | None:
        """Get the sample standard deviation over the runs; None of fewer than two."""
        values = self._list_values(metric)
        return stdev(values) if len(values) > 1 else None

    def _list_values(self, metric: str) -> list[float]:
        return [value for run in self.runs if (value := run.value(metric)) is not None]

    def merge(self) -> RunResult:
        """Make a run whose values are the means.

        Their intervals reach one deviation to either side, and n counts the runs.
        """
        metrics: dict[str, None] = {}
        asked: set[str] = set()
        for run in self.runs:
            metrics.update(dict.fromkeys(run.metrics()))
            asked.update(run.summary)

        results: dict[str, Any] = {}
        summary: dict[str, float] = {}
        for metric in metrics:
            centre, spread = self.mean(metric), self.deviation(metric)
            interval = None
            if centre is not None and spread is not None:
                interval = [centre - spread, centre + spread]
            size = len(self._list_values(metric))
            results[metric] = {"agg_value": centre, "n": size, "ci": interval}
            if metric in asked and centre is not None:
                summary[metric] = centre

        starts = tuple(run.before for run in self.runs if run.before is not None)
        before = None
        if len(starts) == len(self.runs):
            before = Family(f"{self.name}, before", "", "start", starts).merge()
        return RunResult(
            name=self.name,
            kind=self.kind,
            folder=Path(f"{len(self.runs)} runs: {', '.join(run.name for run in self.runs)}"),
            summary=summary,
            results=results,
            forgets=self.data,
            described=self.runs[0].described,
            before=before,
        )


def group_families(runs: list[RunResult]) -> list[Family]:
    """Group runs by family, in the order in which the first of each comes."""
    groups: dict[tuple[str, str, str], list[Member]] = {}
    for run in runs:
        if run.kind == "start":  # it belongs to the run that started from it
            continue
        config = read_config(run.folder)
        key = run.kind, run.forgets, _identify(run, config)
        groups.setdefault(key, []).append((run, config))

    families: list[tuple[Family, dict[str, Any]]] = []
    for (kind, data, _), members in groups.items():
        for part in _split_repeats(members):
            families.append((_build_family(kind, data, part), part[0][1]))
    return _tell_apart(families)


def average_over_seeds(runs: list[RunResult]) -> list[RunResult]:
    """Make one run of each family; none where no family has two."""
    families = group_families(runs)
    if not any(len(family.runs) > 1 for family in families):
        return []
    return [family.merge() for family in families]


def _identify(run: RunResult, config: dict[str, Any]) -> str:
    """Give what the runs of a family have in common, beside their kind and what they forget."""
    if config.get("trainer"):
        trained = {key: config.get(key) for key in ("trainer", "template", "compat")}
        own_files = _list_own_files(config)
        return fingerprints.hash_value([trained, *_list_model_settings(config), own_files])
    return _identify_evaluation(run, config) if config else str(run.folder)


def _list_model_settings(config: dict[str, Any]) -> list[Any]:
    """List what a configuration says of its model, but for where the weights come from, which tells
    the seed too."""
    model = config.get("model") or {}
    dtype = (model.get("model_args") or {}).get("dtype")
    return [model.get("peft_args"), model.get("template_args"), model.get("pure_bf16"), dtype]


def _list_own_files(config: dict[str, Any]) -> dict[str, Any]:
    """List the files of rows of one's own that a run was trained on."""
    data = config.get("data") or {}
    return {key: value for key, value in data.items() if key.endswith("_file") and value}


def _identify_evaluation(run: RunResult, config: dict[str, Any]) -> str:
    """Give what evaluations of one model share: its name; where that is a number, how the model
    beside it was taught."""
    if NUMBERED.match(run.name) is None:
        return _remove_seed(run.name, config)
    path = get_nested(config, "model", "model_args", PATH)
    taught = read_config(run.folder.parent / Path(str(path)).name)
    if not taught.get("trainer"):
        return run.name
    return fingerprints.hash_value([taught["trainer"], get_nested(taught, "model", "peft_args")])


def _split_repeats(members: list[Member]) -> list[list[Member]]:
    """Runs of one family differ in their seed; those of one seed differ in something else, and
    stand alone."""
    seeds = [config.get("seed") for _, config in members if config.get("trainer")]
    if len(set(seeds)) == len(seeds):
        return [members]
    return [[member] for member in members]


def _build_family(kind: str, data: str, members: list[Member]) -> Family:
    names = {NUMBERED.sub(r"\1", _remove_seed(run.name, config)) for run, config in members}
    handler = get_nested(members[0][1], "trainer", "handler")
    if len(names) == 1:
        method = names.pop()
    else:
        method = str(kind if kind in REFERENCES else handler or kind)
    return Family(method, data, kind, tuple(run for run, _ in members))


def _tell_apart(families: list[tuple[Family, dict[str, Any]]]) -> list[Family]:
    """Name families, each given with its configuration; where several have one name, it says how
    each was trained."""
    renamed = []
    for family, config in families:
        own = config.get("trainer") or {}
        odd_keys: dict[str, None] = {}
        for other_family, other_config in families:
            if other_family.name == family.name:
                other = other_config.get("trainer") or {}
                odd_keys.update(dict.fromkeys(run_dir.list_differences(own, other)))
        settings = [
            f"{key.rpartition('.')[2]}={get_nested(own, *key.split('.'))}" for key in odd_keys
        ]
        if settings:
            family = replace(family, method=f"{family.method} ({', '.join(settings)})")
        renamed.append(family)
    return renamed


def _remove_seed(name: str, config: dict[str, Any]) -> str:
    """Take out of a run's name its seed and what it forgets, as a study's plan writes them."""
    parts = [f"seed{config.get('seed')}", str(config.get("forget_split"))]
    forget_set = config.get("forget_set")
    if isinstance(forget_set, dict):
        parts.append("-".join(str(value) for value in forget_set.values() if value is not None))
    for part in parts:
        name = re.sub(rf"[_-]{re.escape(part)}(?![\w.])", "", name)
        name = re.sub(rf"[_-]{re.escape(part)}(?=[_-])", "", name)
    return name
