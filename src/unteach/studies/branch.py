"""The runs of one point of a study's grid and one way to teach its full model."""

from collections.abc import Callable
from dataclasses import dataclass

from unteach.config.overrides import spell_value
from unteach.errors import UserError
from unteach.studies import audit_runs, own_data, search_space
from unteach.studies.forget_entries import (
    ForgetEntry,
    list_entries,
    list_parents,
    name_entries,
    refuse_bad_parent,
)
from unteach.studies.plan import PlannedRun
from unteach.studies.run_overrides import (
    ENTRY_KEYS,
    Settings,
    build_tracking_overrides,
    continue_from,
    spell_overrides,
)
from unteach.studies.search_space import Point
from unteach.studies.shared_overrides import (
    drop_audit_overrides,
    drop_start_overrides,
    drop_suite_overrides,
    drop_training,
)

CONFIG_NAMES = {"forget": "unlearn", "eval": "eval"}
"""The primary configuration of a kind of run; of the others it is `train`."""
SPLIT_KEYS = ("forget_split", "forget_set")
"""Keys that say what is forgotten; the base and the full model do not depend on them."""


@dataclass
class Branch:
    """Plan the runs of one point.

    Attributes:
        study: the study's mapping; of own rows, with every section complete.
        point: what varies, at this point.
        full: the settings of the full model, at one point of its own grid.
        full_label: what that grid adds to names.
        root: the study's folder.
        extra: overrides that go to every run.
    """

    study: Settings
    point: Point
    full: Settings
    full_label: str
    root: str
    extra: tuple[str, ...]

    def __post_init__(self) -> None:
        self.varied_keys: set[str] = set()
        for key, values in (self.study.get("vary") or {}).items():
            if isinstance(values, list) and len(values) > 1:
                self.varied_keys.add(key)
        self.has_own_rows = own_data.has_own_rows(self.study)
        suites = self.study.get("eval") or []
        self.suites = [suites] if isinstance(suites, str) else suites
        self.evaluates_base = "base" in audit_runs.list_evaluated(self.study)
        self.splits_vary = any(is_split_key(key) for key in self.varied_keys)
        # What several runs of the base and the full model have in common is taught once.
        self.shared_values: Settings = {}
        for key, value in self.point.values.items():
            if not is_split_key(key):
                self.shared_values[key] = value
        if self.has_own_rows:
            self.shared_values = own_data.drop_row_settings(self.shared_values)

    def plan(self) -> list[PlannedRun]:
        """Plan the base, retain and full models, the evaluations of their own, the forget runs, and
        their audits."""
        base = self._plan_base()
        retain = self._plan_retain(base)
        full = self._plan_full(base, retain)
        models = [run for run in (base, retain, full) if run is not None]
        if self.has_own_rows:
            runs = self._plan_with_own_rows(base, full, retain)
        else:
            runs = self._plan_with_benchmark(base, full, retain)
        return models + runs + self._plan_audits(runs, full, retain)

    @property
    def is_measured_apart(self) -> bool:
        """Whether full and retain are measured on the rows of forget runs, by evaluations of their
        own."""
        return self.has_own_rows and bool(self.study.get("forget"))

    def _plan_base(self) -> PlannedRun | None:
        settings = self.study.get("base")
        if not settings:
            return None
        return self._build_run("base", settings, self.shared_values, is_evaluated=False)

    def _plan_retain(self, base: PlannedRun | None) -> PlannedRun | None:
        settings = self.study.get("retain")
        if settings is None:
            return None
        # Both are taught alike: what varies of the full model is the same of this one.
        settings = dict(settings)
        grid = self.study["full"].get("vary") or {}
        for key in (*grid, *_list_searched(self.study["full"])):
            settings[key] = self.full[key]
        return self._build_run(
            "retain",
            settings,
            self.shared_values if self.has_own_rows else self.point.values,
            start=base,
            label=self.full_label,
            is_evaluated=not self.is_measured_apart,
        )

    def _plan_full(self, base: PlannedRun | None, retain: PlannedRun | None) -> PlannedRun:
        # One full model for several splits has no one retain model to be judged by.
        is_shared = self.has_own_rows or self.splits_vary
        is_evaluated = not self.splits_vary
        if self.has_own_rows:
            is_evaluated = not self.is_measured_apart
        return self._build_run(
            "full",
            self.full,
            self.shared_values if is_shared else self.point.values,
            start=base,
            label=self.full_label,
            retain=None if is_shared else retain,
            is_evaluated=is_evaluated,
        )

    def _plan_with_benchmark(
        self,
        base: PlannedRun | None,
        full: PlannedRun,
        retain: PlannedRun | None,
    ) -> list[PlannedRun]:
        """Plan the forget runs, and the evaluations of full and base on the benchmark."""
        runs = []
        if self.splits_vary:
            settings = self._name_suite("full")
            runs.append(self._plan_evaluation(settings, full, retain))
        if self.evaluates_base:
            settings = self._name_suite("base_eval")
            runs.append(self._plan_base_evaluation(settings, base))
        return runs + self._plan_forget_runs(full, lambda settings: retain)

    def _name_suite(self, run_name: str) -> Settings:
        """Give the settings of a run that evaluates a model on the benchmark."""
        return {"name": run_name, "experiment": f"eval/{self.benchmark}/default"}

    @property
    def benchmark(self) -> str:
        """The benchmark that the full model is taught: `finetune/tofu/default` teaches `tofu`."""
        parts = str(self.full.get("experiment", "")).split("/")
        if len(parts) < 3:
            raise UserError("full.experiment must name a benchmark, as finetune/<benchmark>/… does")
        return parts[1]

    def _plan_with_own_rows(
        self,
        base: PlannedRun | None,
        full: PlannedRun,
        retain: PlannedRun | None,
    ) -> list[PlannedRun]:
        """Plan the forget runs, and the evaluations of the other models on the rows of each."""
        varied_rows = {}
        for key, value in self.point.values.items():
            if key in own_data.FORGET_ROWS:
                varied_rows[key] = value

        def select_rows(settings: Settings) -> Settings:
            return own_data.select_row_settings({**settings, **varied_rows})

        # Entries of the same rows share their evaluations.
        row_sets = []
        for entry in list_entries(self.study):
            rows = select_rows(entry.settings)
            if rows and rows not in row_sets and self.is_measured(rows):
                row_sets.append(rows)
        runs: list[PlannedRun] = []
        retain_logs: list[PlannedRun | None] = []
        for number, rows in enumerate(row_sets, 1):
            suffix = f"_{number}" if number > 1 else ""
            retain_log = None
            if retain is not None:
                settings = {**rows, "name": f"retain_eval{suffix}"}
                retain_log = self._plan_evaluation(settings, retain)
                runs.append(retain_log)
            retain_logs.append(retain_log)
            settings = {**rows, "name": f"full_eval{suffix}"}
            runs.append(self._plan_evaluation(settings, full, retain_log))
            if self.evaluates_base:
                settings = {**rows, "name": f"base_eval{suffix}"}
                runs.append(self._plan_base_evaluation(settings, base))

        def find_retain_log(settings: Settings) -> PlannedRun | None:
            rows = select_rows(settings)
            return retain_logs[row_sets.index(rows)] if rows in row_sets else None

        return runs + self._plan_forget_runs(full, find_retain_log)

    def is_measured(self, settings: Settings) -> bool:
        """Say whether a run of own rows is measured: by the study's suites, or where it names none
        by `rows`."""
        return bool(self.suites) or ("eval" not in self.study and own_data.reads_files(settings))

    def _plan_evaluation(
        self,
        settings: Settings,
        model: PlannedRun,
        retain: PlannedRun | None = None,
    ) -> PlannedRun:
        """Plan an evaluation of a taught model, on what settings name."""
        return self._build_run(
            "eval",
            settings,
            self.point.values,
            start=model,
            label=self.full_label,
            retain=retain,
        )

    def _plan_base_evaluation(self, settings: Settings, base: PlannedRun | None) -> PlannedRun:
        """Plan to measure what the base knows of the forget rows; where it is not trained here, one
        evaluation serves all seeds."""
        if base is not None:
            return self._build_run("eval", settings, self.point.values, start=base)
        settings = dict(settings)
        for key, value in self.full.items():
            if key == "template" or key.startswith("model"):
                settings[key] = value
        values = {}
        for key, value in self.point.values.items():
            if self._names_rows(key):
                values[key] = value
        return self._build_run("eval", settings, values)

    def _names_rows(self, key: str) -> bool:
        is_of_own_rows = key in (*own_data.FORGET_ROWS, own_data.MARKS)
        return is_split_key(key) or (self.has_own_rows and is_of_own_rows)

    def _plan_forget_runs(
        self, full: PlannedRun, find_retain: Callable[[Settings], PlannedRun | None]
    ) -> list[PlannedRun]:
        """Plan the forget runs, each after what it starts from.

        Args:
            full: what they start from where they do not say.
            find_retain: finds, by the settings of a forget run, the run whose log judges it.
        """
        entries = name_entries(self.study)
        planned: dict[str, PlannedRun] = {}

        def plan_entry(name: str, waiting: tuple[str, ...]) -> PlannedRun:
            """Plan a run after those that it starts from or names; `waiting` are those that wait
            for it, outermost first."""
            if name in planned:
                return planned[name]
            parents = {}
            for key, parent in list_parents(entries[name]).items():
                refuse_bad_parent(name, key, parent, entries, waiting)
                parents[key] = plan_entry(parent, (*waiting, name))
            start = parents.pop("from", full)
            planned[name] = self._build_forget_run(entries[name], start, parents, find_retain)
            return planned[name]

        return [plan_entry(name, ()) for name in entries]

    def _build_forget_run(
        self,
        entry: ForgetEntry,
        start: PlannedRun,
        named: dict[str, PlannedRun],
        find_retain: Callable[[Settings], PlannedRun | None],
    ) -> PlannedRun:
        settings = {**entry.settings, **{key: run.folder for key, run in named.items()}}
        if not self.has_own_rows and not settings.get("experiment"):
            settings = {"experiment": f"unlearn/{self.benchmark}/default", **settings}
        return self._build_run(
            "forget",
            settings,
            self.point.values,
            start=start,
            label=entry.label + self.full_label,
            retain=find_retain(entry.settings),
            named=tuple(named.values()),
        )

    def _plan_audits(
        self, runs: list[PlannedRun], full: PlannedRun, retain: PlannedRun | None
    ) -> list[PlannedRun]:
        """Plan an audit of each forget run among others, where the study has audits."""
        section = audit_runs.read_section(self.study)
        if section is None or retain is None:
            return []
        planner = audit_runs.AuditPlanner(
            section,
            study_name=self.study["name"],
            point_values=self.point.values,
            benchmark=None if self.has_own_rows else self.benchmark,
            full=full,
            retain=retain,
            extra=self.extra,
        )
        forget_runs = [run for run in runs if run.kind == "forget"]
        entries = name_entries(self.study).values()
        pairs = zip(entries, forget_runs, strict=True)
        return [planner.plan(entry, run) for entry, run in pairs]

    def _build_run(
        self,
        kind: str,
        settings: Settings,
        point_values: Settings,
        start: PlannedRun | None = None,
        label: str = "",
        retain: PlannedRun | None = None,
        named: tuple[PlannedRun, ...] = (),
        is_evaluated: bool = True,
    ) -> PlannedRun:
        """Build one run.

        Args:
            kind: base, full, retain, forget or eval.
            settings: its entry of the study file.
            point_values: what varies and reaches this run.
            start: the run whose weights it starts from.
            label: what the grids of its entry add to its name.
            retain: the run by whose log it is judged.
            named: other runs whose folders its settings name.
            is_evaluated: whether it runs the study's suites.
        """
        name = self._name_run(kind, settings, label, point_values)
        own_settings = dict(settings)
        for key in ENTRY_KEYS:
            own_settings.pop(key, None)

        # Weakest first. What varies of the model is of the run that all others start from.
        start_settings = continue_from(start)
        values = {**start_settings, **own_settings}
        for key, value in point_values.items():
            values[key] = start_settings.get(key, value)
        extra = drop_audit_overrides(self.extra)
        if kind == "eval":
            values, extra = drop_training(values, extra, self.has_own_rows)
        if start is not None:
            extra = drop_start_overrides(extra)

        overrides = spell_overrides(values)
        if self.suites and is_evaluated:
            overrides.append(f"eval=[{','.join(self.suites)}]")
        elif not (self.has_own_rows and is_evaluated and self.is_measured(values)):
            overrides.append("eval=null")
            extra = drop_suite_overrides(extra)
        study_name = self.study["name"]
        overrides += build_tracking_overrides(self.study.get("wandb"), study_name, kind)
        overrides.append(f"task_name={spell_value(f'{study_name}/{name}')}")
        overrides.append(f"paths.output_dir={spell_value(f'{self.root}/{name}')}")
        overrides += extra
        if retain is not None:
            overrides.append(f"retain_logs_path={spell_value(retain.folder)}")
        parents = tuple(run.name for run in (start, retain, *named) if run is not None)
        config_name = CONFIG_NAMES.get(kind, "train")
        return PlannedRun(name, kind, config_name, tuple(overrides), parents)

    def _name_run(
        self,
        kind: str,
        settings: Settings,
        label: str,
        point_values: Settings,
    ) -> str:
        """Name a run: as its entry says or by what it is, with all that varies of it."""
        default_name = settings.get("trainer") if kind == "forget" else kind
        name = str(settings.get("name") or default_name) + label
        for key, value in point_values.items():
            if key in self.varied_keys:
                name += search_space.format_label(key, value)
        return name


def is_split_key(key: str) -> bool:
    """Say whether a key says what is forgotten."""
    return key.partition(".")[0] in SPLIT_KEYS


def _list_searched(settings: Settings) -> list[str]:
    """List the keys that a random search of an entry draws."""
    return list((settings.get("search") or {}).get("over") or {})
