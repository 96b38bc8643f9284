"""Expands a study into runs and the order between them: a pure function of the study's mapping.

A study names what each kind of run is (`base`, `full`, `retain`, and a list of `forget` runs), what
varies, and the suites. A run that several branches share is planned once: `base` and `full` do not
depend on the forget split, and the base is evaluated once for all. Every forget run starts from the
full model, or from another forget run (`from`), and is judged by the log of the retain model of its
split. A study of own rows (own_data.py) names no benchmark; its full and retain models are measured
by evaluations of their own, on the rows of the forget runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unteach.config import groups
from unteach.config.overrides import spell_value, unquote
from unteach.config.references import is_place
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.errors import UserError, unknown
from unteach.studies import own_data, search_space
from unteach.studies.search_space import Point, grid, of_entry
from unteach.studies.shared_overrides import OF_TRAINING, section_of, without_start, without_suites
from unteach.wording import shown

KEYS = {
    "name",
    "base",
    "full",
    "retain",
    "forget",
    "vary",
    "eval",
    "evaluate",
    "wandb",
    "local",
    "slurm",
}
CONFIG_NAMES = {"forget": "unlearn", "eval": "eval"}
SPLITS = ("forget_split", "forget_set")
"""Keys that say what is forgotten; the base and the full model do not depend on them."""
OF_THE_ENTRY = ("name", "from")


@dataclass(frozen=True)
class PlannedRun:
    """One run: its folder, the primary config and overrides it is composed from, and the runs it
    waits for."""

    name: str
    kind: str
    config_name: str
    overrides: tuple[str, ...]
    after: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> str:
        word = next(word for word in self.overrides if word.startswith("paths.output_dir="))
        return unquote(word.partition("=")[2])


def expand(
    study: dict[str, Any], root: str = "saves", extra: tuple[str, ...] = ()
) -> list[PlannedRun]:
    """The runs of a study, parents before children. `extra` overrides go to every run.

    Raises UserError for unknown keys, a missing parent, a cycle, or two runs of one name.
    """
    for key in study:
        if key not in KEYS:
            raise UserError(unknown("study key", str(key), KEYS))
    if "name" not in study or "full" not in study:
        raise UserError("a study needs `name` and `full`")
    sections = {key: study[key] for key in ("base", "full", "retain") if study.get(key) is not None}
    if isinstance(study.get("forget"), dict):
        study = {**study, "forget": [study["forget"]]}
    sections |= {
        f"forget[{number}]": entry for number, entry in enumerate(study.get("forget") or [])
    }
    for key, value in sections.items():
        if not isinstance(value, dict):
            raise UserError(f"{key}: must be a mapping of overrides, got {shown(value)}")
    evaluated = study.get("evaluate") or []
    for other in [evaluated] if isinstance(evaluated, str) else evaluated:
        if other != "base":
            raise UserError(
                f"evaluate: {shown(other)} is evaluated anyway, or is no run of the study; it may "
                "be [base]"
            )
    if own_data.is_own(study):
        study = own_data.complete(study)
    found = []
    for point in grid(study.get("vary") or {}):
        for full, taught in of_entry(study["full"], "full"):
            found += _Branch(study, point, full, taught, f"{root}/{study['name']}", extra).runs()
    return ordered(study["name"], found)


def ordered(study: str, found: list[PlannedRun]) -> list[PlannedRun]:
    """The runs, each once, in the given order with parents moved before their children.

    Raises UserError for two different runs of one name or folder, a parent that is no run, or a
    cycle.
    """
    runs: dict[str, PlannedRun] = {}
    homes: dict[str, str] = {}
    for run in found:
        if runs.setdefault(run.name, run) != run:
            raise UserError(
                f"study {study}: two different runs are called {run.name}; give one a `name`"
            )
        if homes.setdefault(run.folder, run.name) != run.name:
            raise UserError(
                f"study {study}: {run.name} and {homes[run.folder]} share the folder {run.folder}"
            )
    sorted_runs: dict[str, PlannedRun] = {}

    def place(run: PlannedRun, waiting: tuple[str, ...]) -> None:
        if run.name in waiting:
            circle = " after ".join([*waiting[waiting.index(run.name) :], run.name])
            raise UserError(
                f"study {study}: these runs wait for each other, so none could start: {circle}"
            )
        for parent in run.after:
            if parent not in runs:
                raise UserError(
                    f"study {study}: {run.name} waits for {unknown('run', parent, runs)}"
                )
            if parent not in sorted_runs:
                place(runs[parent], (*waiting, run.name))
        sorted_runs[run.name] = run

    for run in runs.values():
        if run.name not in sorted_runs:
            place(run, ())
    return list(sorted_runs.values())


class _Branch:
    """The runs of one point of the grid and one way to teach."""

    def __init__(
        self,
        study: dict[str, Any],
        point: Point,
        full: dict[str, Any],
        taught: str,
        root: str,
        extra: tuple[str, ...],
    ):
        self.study = study
        self.point = point
        self.full = full
        self.taught = taught
        self.root = root
        self.extra = extra
        varied = study.get("vary") or {}
        self.several = {
            key for key, values in varied.items() if isinstance(values, list) and len(values) > 1
        }
        self.is_own = own_data.is_own(study)
        suites = study.get("eval") or []
        self.suites = [suites] if isinstance(suites, str) else suites

    def runs(self) -> list[PlannedRun]:
        """base, retain, full, the evaluations of either that stand alone, and the forget runs."""
        study, chosen = self.study, self.point.values
        # What several runs of the full model's kind would have in common is taught once.
        splits = self.is_own or any(map(_of_the_split, self.several))
        shared = {key: value for key, value in chosen.items() if not _of_the_split(key)}
        if self.is_own:
            shared = own_data.without_rows(shared)
        is_measured_apart = self.is_own and bool(study.get("forget"))
        base = (
            self.run("base", study["base"], shared, None, judged=False)
            if study.get("base")
            else None
        )
        made = [base] if base else []
        retain = None
        if study.get("retain") is not None:
            drawn = {key: self.full[key] for key in _drawn_keys(study["full"])}  # taught alike
            point = shared if self.is_own else chosen
            retain = self.run(
                "retain",
                {**study["retain"], **drawn},
                point,
                base,
                self.taught,
                judged=not is_measured_apart,
            )
            made.append(retain)
        judged = not is_measured_apart if self.is_own else not splits
        full = self.run(
            "full",
            self.full,
            shared if splits else chosen,
            base,
            self.taught,
            retain=None if splits else retain,
            judged=judged,
        )
        made.append(full)
        if self.is_own:
            return made + self.runs_of_own_rows(base, full, retain)
        if splits:
            made.append(
                self.run(
                    "eval",
                    {"name": "full", **self.suite()},
                    chosen,
                    full,
                    self.taught,
                    retain=retain,
                )
            )
        if "base" in (study.get("evaluate") or []):
            made.append(self.base_evaluation({"name": "base_eval", **self.suite()}, base))
        return made + self.forget_runs(full, lambda settings: retain)

    def suite(self) -> dict[str, Any]:
        """The experiment that evaluates a model on the benchmark."""
        return {"experiment": f"eval/{self.benchmark}/default"}

    @property
    def benchmark(self) -> str:
        return _benchmark(self.full)

    def runs_of_own_rows(
        self, base: PlannedRun | None, full: PlannedRun, retain: PlannedRun | None
    ) -> list[PlannedRun]:
        """The forget runs, and the evaluations of the other models on the rows of each of them."""
        entries = [own for _, own, _ in self.entries()]
        varied = {
            key: value for key, value in self.point.values.items() if key in own_data.FORGET_ROWS
        }
        sets = own_data.unique(own_data.rows_of({**own, **varied}) for own in entries)
        sets = [rows for rows in sets if rows and self.measures(rows)]
        made: list[PlannedRun] = []
        logs: list[PlannedRun | None] = []
        for number, rows in enumerate(sets, 1):
            which = f"_{number}" if number > 1 else ""
            log = None
            if retain:
                log = self.run(
                    "eval",
                    {**rows, "name": f"retain_eval{which}"},
                    self.point.values,
                    retain,
                    self.taught,
                )
                made.append(log)
            logs.append(log)
            settings = {**rows, "name": f"full_eval{which}"}
            made.append(
                self.run("eval", settings, self.point.values, full, self.taught, retain=log)
            )
            if "base" in (self.study.get("evaluate") or []):
                made.append(self.base_evaluation({**rows, "name": f"base_eval{which}"}, base))

        def log_of(settings: dict[str, Any]) -> PlannedRun | None:
            rows = own_data.rows_of({**settings, **varied})
            return logs[sets.index(rows)] if rows in sets else None

        return made + self.forget_runs(full, log_of)

    def measures(self, settings: dict[str, Any]) -> bool:
        """Whether a run of own rows is measured: by the study's suites, or where it names none by
        `rows`."""
        return bool(self.suites) or ("eval" not in self.study and own_data.reads_files(settings))

    def base_evaluation(self, settings: dict[str, Any], base: PlannedRun | None) -> PlannedRun:
        """What the base knows of the forget rows; where it is not trained here, one evaluation for
        all seeds."""
        kept = {
            key: self.full[key] for key in self.full if key == "template" or key.startswith("model")
        }
        chosen = (
            self.point.values
            if base
            else {k: v for k, v in self.point.values.items() if self._says_rows(k)}
        )
        return self.run("eval", {**settings, **(kept if base is None else {})}, chosen, base)

    def _says_rows(self, key: str) -> bool:
        return _of_the_split(key) or (
            self.is_own and key in (*own_data.FORGET_ROWS, own_data.MARKS)
        )

    def entries(self) -> list[tuple[str, dict[str, Any], str]]:
        """(name, settings, label) of every forget run, each grid and search drawn out."""
        found: list[tuple[str, dict[str, Any], str]] = []
        for number, settings in enumerate(self.study.get("forget") or []):
            for own, label in of_entry(settings, f"forget[{number}]"):
                found.append((str(own.get("name") or own.get("trainer")) + label, own, label))
        return found

    def forget_runs(
        self, full: PlannedRun, retain_of: Callable[[dict[str, Any]], PlannedRun | None]
    ) -> list[PlannedRun]:
        """The forget runs, each after what it starts from.

        Args:
            full: what they start from where they do not say.
            retain_of: settings of a forget run -> the run by whose log it is judged.
        """
        entries: dict[str, tuple[dict[str, Any], str]] = {}
        for name, own, label in self.entries():
            if name in entries:
                raise UserError(
                    f"study {self.study['name']}: two different runs are called {name}; give one a "
                    f"`name`"
                )
            entries[name] = (own, label)
        made: dict[str, PlannedRun] = {}

        def make(name: str, waiting: tuple[str, ...]) -> PlannedRun:
            own, label = entries[name]
            start = full
            if (before := own.get("from")) is not None:
                if before not in entries:
                    raise UserError(
                        f"forget run {name}: from={before}: "
                        f"{unknown('forget run', str(before), entries)}"
                    )
                if before in (*waiting, name):
                    circle = " from ".join([*waiting, name, str(before)])
                    raise UserError(
                        f"these forget runs start from each other, so none could start: {circle}"
                    )
                start = made.get(before) or make(before, (*waiting, name))
            if name not in made:
                settings = own
                if not (self.is_own or own.get("experiment")):
                    settings = {"experiment": f"unlearn/{self.benchmark}/default", **own}
                made[name] = self.run(
                    "forget",
                    settings,
                    self.point.values,
                    start,
                    label + self.taught,
                    retain=retain_of(own),
                )
            return made[name]

        return [make(name, ()) for name in entries]

    def run(
        self,
        kind: str,
        settings: dict[str, Any],
        point: dict[str, Any],
        start: PlannedRun | None,
        label: str = "",
        retain: PlannedRun | None = None,
        judged: bool = True,
    ) -> PlannedRun:
        """One run with its words: what it starts from, its own settings, the point, the suites, its
        places."""
        suffix = label + "".join(
            search_space.label(key, value) for key, value in point.items() if key in self.several
        )
        own = {key: value for key, value in settings.items() if key not in OF_THE_ENTRY}
        name = (
            str(settings.get("name") or (own.get("trainer") if kind == "forget" else kind)) + suffix
        )
        started = _started(start)
        # What varies of the model is of the run that all others start from.
        values = {**started, **own, **point} | {
            key: value for key, value in started.items() if key in point
        }
        extra = self.extra
        if kind == "eval":
            values = {key: value for key, value in values.items() if not self._is_of_training(key)}
            extra = tuple(
                word for word in extra if not self._is_of_training(word.partition("=")[0])
            )
        if start is not None:
            extra = without_start(extra)
        words = [f"{key}={spell_value(value)}" for key, value in values.items()]
        if self.suites and judged:
            words += [f"eval=[{','.join(self.suites)}]"]
        elif not (self.is_own and judged and self.measures(values)):
            words += ["eval=null"]
            extra = without_suites(extra)
        words += tracking(self.study.get("wandb"), self.study["name"], kind)
        words += [f"task_name={spell_value(self.study['name'] + '/' + name)}"]
        words += [f"paths.output_dir={spell_value(f'{self.root}/{name}')}", *extra]
        words += [f"retain_logs_path={spell_value(retain.folder)}"] if retain else []
        parents = tuple(run.name for run in (start, retain) if run)
        return PlannedRun(name, kind, CONFIG_NAMES.get(kind, "train"), tuple(words), parents)

    def _is_of_training(self, key: str) -> bool:
        """Whether a key says something of training alone, which an evaluation has not to be
        told."""
        section = section_of(key)
        if section == "data" or key in own_data.LONG_KEYS:
            return not (
                self.is_own and key in own_data.rows_of({own_data.LONG_KEYS.get(key, key): None})
            )
        return section in OF_TRAINING


def _of_the_split(key: str) -> bool:
    return key.partition(".")[0] in SPLITS


def _drawn_keys(settings: dict[str, Any]) -> list[str]:
    return [*(settings.get("vary") or {}), *((settings.get("search") or {}).get("over") or {})]


def tracking(wandb: dict[str, Any] | None, study: str, kind: str) -> list[str]:
    """A run that is trained is one of the study's group, and its kind is its job type."""
    if wandb is None or kind == "eval":
        return []
    given = {"group": study, "job_type": kind, **wandb}
    return [
        "trainer.args.report_to=wandb",
        *(f"wandb.{key}={spell_value(value)}" for key, value in given.items()),
    ]


def _started(start: PlannedRun | None) -> dict[str, Any]:
    """A child keeps its parent's model and starts from its folder, where the tokenizer is too."""
    if start is None:
        return {}
    model = next(
        (word.partition("=")[2] for word in start.overrides if word.startswith("model=")), None
    )
    # A place is the weights that the parent started from; the child has the parent's.
    name = unquote(model) if model else ""
    if is_place(name) and name not in groups.list_options("model"):
        model = "auto"
    return ({"model": model} if model else {}) | {
        MODEL_KEY: start.folder,
        TOKENIZER_KEY: start.folder,
    }


def _benchmark(full: dict[str, Any]) -> str:
    """`finetune/tofu/default` teaches `tofu`; forget runs take `unlearn/tofu/default` unless they
    say otherwise."""
    parts = str(full.get("experiment", "")).split("/")
    if len(parts) < 3:
        raise UserError("full.experiment must name a benchmark, as finetune/<benchmark>/… does")
    return parts[1]
