"""Expands a study into runs and the order between them: a pure function of the study's mapping.

A study names what each kind of run is (`base`, `full`, `retain`, and a list of `forget` runs), what varies, and the
suites. `base` and `full` do not depend on the forget split and are planned once for all of them. Every forget run
starts from the full model and is judged by the log of the retain model of its split.
"""

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

from unteach.errors import UserError, unknown

KEYS = {"name", "base", "full", "retain", "forget", "vary", "eval"}
CONFIG_NAMES = {"forget": "unlearn", "eval": "eval"}
SPLIT = "forget_split"
PATH = "model.model_args.pretrained_model_name_or_path"
TOKENIZER = "model.tokenizer_args.pretrained_model_name_or_path"


@dataclass(frozen=True)
class PlannedRun:
    """One run: its folder, the primary config and overrides it is composed from, and the runs it waits for."""

    name: str
    kind: str
    config_name: str
    overrides: tuple[str, ...]
    after: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> str:
        word = next(word for word in self.overrides if word.startswith("paths.output_dir="))
        return word.partition("=")[2].strip("'")


def expand(study: dict[str, Any], root: str = "saves", extra: tuple[str, ...] = ()) -> list[PlannedRun]:
    """The runs of a study, parents before children. `extra` overrides go to every run.

    Raises UserError for unknown keys, a missing parent, or two runs of one name.
    """
    for key in study:
        if key not in KEYS:
            raise UserError(unknown("study key", key, KEYS))
    if "name" not in study or "full" not in study:
        raise UserError("a study needs `name` and `full`")
    runs: dict[str, PlannedRun] = {}
    for chosen in _grid(study.get("vary") or {}):
        for run in _branch(study, chosen, f"{root}/{study['name']}", extra):
            known = runs.setdefault(run.name, run)
            if known != run:
                raise UserError(f"study {study['name']}: two different runs are called {run.name}; give one a `name`")
    return list(runs.values())


def _grid(vary: dict[str, list[Any]]) -> list[dict[str, Any]]:
    lists = {key: values if isinstance(values, list) else [values] for key, values in vary.items()}
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def _branch(study: dict[str, Any], chosen: dict[str, Any], root: str, extra: tuple[str, ...]) -> list[PlannedRun]:
    """The runs of one point of the grid."""
    several = {key for key, values in (study.get("vary") or {}).items() if isinstance(values, list) and len(values) > 1}
    shared = {key: value for key, value in chosen.items() if key != SPLIT}
    benchmark = _benchmark(study["full"])
    suites = study.get("eval") or []
    judged = f"eval=[{','.join([suites] if isinstance(suites, str) else suites)}]" if suites else "eval=null"

    def make(
        kind: str, settings: dict[str, Any], point: dict[str, Any], start: PlannedRun | None, **more: Any
    ) -> PlannedRun:
        suffix = "".join(
            f"_{key.split('.')[-1]}{value}" if key != SPLIT else f"_{value}"
            for key, value in point.items()
            if key in several
        )
        own = {key: value for key, value in settings.items() if key != "name"}
        name = str(settings.get("name") or (own.get("trainer") if kind == "forget" else kind)) + suffix
        words = [f"{key}={_word(value)}" for key, value in {**_started(start), **own, **point}.items()]
        words += [more.get("judged", judged), f"task_name={_word(study['name'] + '/' + name)}"]
        words += [f"paths.output_dir={_word(f'{root}/{name}')}", *extra]
        words += [f"retain_logs_path={_word(retain.folder)}"] if (retain := more.get("retain")) else []
        parents = tuple(run.name for run in (start, more.get("retain")) if run)
        return PlannedRun(name, kind, CONFIG_NAMES.get(kind, "train"), tuple(words), parents)

    base = make("base", study["base"], shared, None, judged="eval=null") if study.get("base") else None
    made = [base] if base else []
    retain = None
    if study.get("retain"):
        retain = make("retain", study["retain"], chosen, base)
        made.append(retain)
    splits = SPLIT in several
    full = make(
        "full",
        study["full"],
        shared if splits else chosen,
        base,
        retain=None if splits else retain,
        judged="eval=null" if splits else judged,
    )
    made.append(full)
    if splits:
        experiment = f"eval/{benchmark}/default"
        made.append(make("eval", {"name": "full", "experiment": experiment}, chosen, full, retain=retain))
    for settings in study.get("forget") or []:
        own = {"experiment": f"unlearn/{benchmark}/default", **settings}
        made.append(make("forget", own, chosen, full, retain=retain))
    return made


def _started(start: PlannedRun | None) -> dict[str, Any]:
    """A child keeps its parent's model and starts from its folder, where the tokenizer is too."""
    if start is None:
        return {}
    model = next((word.partition("=")[2] for word in start.overrides if word.startswith("model=")), None)
    return ({"model": model} if model else {}) | {PATH: start.folder, TOKENIZER: start.folder}


def _benchmark(full: dict[str, Any]) -> str:
    """`finetune/tofu/default` teaches `tofu`; forget runs take `unlearn/tofu/default` unless they say otherwise."""
    parts = str(full.get("experiment", "")).split("/")
    if len(parts) < 3:
        raise UserError("full.experiment must name a benchmark, as finetune/<benchmark>/… does")
    return parts[1]


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, str) and not re.fullmatch(r"[\w./:%-]+", value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)
