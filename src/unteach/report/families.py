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
from unteach.report.origin import at, read_config

OVER_SEEDS = " over seeds"
"""What is added to a suite's name where its runs are shown as families."""

NUMBERED = re.compile(r"^(full_eval)_\d+$")
"""An evaluation of a full model in one of ARC's studies, whose number says neither seed nor
hyperparameters."""


@dataclass(frozen=True)
class Family:
    """method: how it is called, without its seed and without what is forgotten; data: that, ""
    where nothing is."""

    method: str
    data: str
    kind: str
    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        return f"{self.method}, {self.data}" if self.data else self.method

    def mean(self, metric: str) -> float | None:
        values = self._values(metric)
        return mean(values) if values else None

    def deviation(self, metric: str) -> float | None:
        """The sample standard deviation over the runs; None of fewer than two."""
        values = self._values(metric)
        return stdev(values) if len(values) > 1 else None

    def _values(self, metric: str) -> list[float]:
        return [value for run in self.runs if (value := run.value(metric)) is not None]

    def as_one(self) -> RunResult:
        """A run whose values are the means; their intervals reach one deviation to either side, n
        counts the runs."""
        results = {}
        for metric in dict.fromkeys(metric for run in self.runs for metric in run.metrics()):
            centre, spread = self.mean(metric), self.deviation(metric)
            around = (
                [centre - spread, centre + spread]
                if centre is not None and spread is not None
                else None
            )
            results[metric] = {"agg_value": centre, "n": len(self._values(metric)), "ci": around}
        folder = Path(f"{len(self.runs)} runs: {', '.join(run.name for run in self.runs)}")
        asked = {metric for run in self.runs for metric in run.summary}
        summary = {
            metric: centre
            for metric in results
            if metric in asked and (centre := self.mean(metric)) is not None
        }
        starts = tuple(run.before for run in self.runs if run.before is not None)
        before = None
        if len(starts) == len(self.runs):
            before = Family(f"{self.name}, before", "", "start", starts).as_one()
        described = self.runs[0].described
        return RunResult(
            self.name,
            self.kind,
            folder,
            summary,
            results,
            forgets=self.data,
            described=described,
            before=before,
        )


def families(runs: list[RunResult]) -> list[Family]:
    """The runs by family, in the order in which the first of each comes."""
    grouped: dict[Any, list[tuple[RunResult, dict[str, Any]]]] = {}
    for run in runs:
        if run.kind == "start":  # it belongs to the run that started from it
            continue
        config = read_config(run.folder)
        trained = (
            {key: config.get(key) for key in ("trainer", "template", "compat")}
            if config.get("trainer")
            else None
        )
        if trained:
            alike = fingerprints.hash_value([trained, *_of_model(config), _own_files(config)])
        else:
            alike = _of_one_model(run, config) if config else str(run.folder)
        grouped.setdefault((run.kind, run.forgets, alike), []).append((run, config))
    found = []
    for (kind, data, _), members in grouped.items():
        found += [(_family(kind, data, part), part[0][1]) for part in _split_repeats(members)]
    return _told_apart(found)


def _of_model(config: dict[str, Any]) -> list[Any]:
    """What a configuration says of its model, but for where the weights come from, which tells the
    seed too."""
    model = config.get("model") or {}
    dtype = (model.get("model_args") or {}).get("dtype")
    return [model.get("peft_args"), model.get("template_args"), model.get("pure_bf16"), dtype]


def _own_files(config: dict[str, Any]) -> dict[str, Any]:
    """The files of rows of one's own that a run was trained on."""
    return {
        key: value
        for key, value in (config.get("data") or {}).items()
        if key.endswith("_file") and value
    }


def _split_repeats(
    members: list[tuple[RunResult, dict[str, Any]]],
) -> list[list[tuple[RunResult, dict[str, Any]]]]:
    """Runs of one family differ in their seed; those of one seed differ in something else, and
    stand alone."""
    seeds = [config.get("seed") for _, config in members if config.get("trainer")]
    return [members] if len(set(seeds)) == len(seeds) else [[member] for member in members]


def _told_apart(found: list[tuple[Family, dict[str, Any]]]) -> list[Family]:
    """The families, each with its configuration; a name that several have says how each was
    trained."""
    named = []
    for family, config in found:
        own = config.get("trainer") or {}
        others = [other.get("trainer") or {} for same, other in found if same.name == family.name]
        odd = dict.fromkeys(key for other in others for key in run_dir.list_differences(own, other))
        told = ", ".join(f"{key.rpartition('.')[2]}={at(own, *key.split('.'))}" for key in odd)
        named.append(replace(family, method=f"{family.method} ({told})") if told else family)
    return named


def _of_one_model(run: RunResult, config: dict[str, Any]) -> str:
    """What evaluations of one model share: its name; where that is a number, how the model beside
    it was taught."""
    if NUMBERED.match(run.name) is None:
        return _without_seed(run.name, config)
    path = ((config.get("model") or {}).get("model_args") or {}).get(PATH)
    taught = read_config(run.folder.parent / Path(str(path)).name)
    own = taught.get("model") or {}
    return (
        fingerprints.hash_value([taught["trainer"], own.get("peft_args")])
        if taught.get("trainer")
        else run.name
    )


def over_seeds(runs: list[RunResult]) -> list[RunResult]:
    """One run a family; empty where no family has two."""
    found = families(runs)
    return (
        [family.as_one() for family in found]
        if any(len(family.runs) > 1 for family in found)
        else []
    )


def _family(kind: str, data: str, members: list[tuple[RunResult, dict[str, Any]]]) -> Family:
    names = {NUMBERED.sub(r"\1", _without_seed(run.name, config)) for run, config in members}
    handler = (members[0][1].get("trainer") or {}).get("handler")
    method = (
        names.pop() if len(names) == 1 else str(kind if kind in REFERENCES else handler or kind)
    )
    return Family(method, data, kind, tuple(run for run, _ in members))


def _without_seed(name: str, config: dict[str, Any]) -> str:
    """A run's name without its seed and what it forgets, as a study's plan writes them."""
    told = [f"seed{config.get('seed')}", str(config.get("forget_split"))]
    if isinstance(chosen := config.get("forget_set"), dict):
        told.append("-".join(str(value) for value in chosen.values() if value is not None))
    for one in told:
        name = re.sub(rf"[_-]{re.escape(one)}(?![\w.])", "", name)
        name = re.sub(rf"[_-]{re.escape(one)}(?=[_-])", "", name)
    return name
