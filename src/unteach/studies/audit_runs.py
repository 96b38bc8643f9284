"""The audits of a study: what each forget run still knows, held against the full model that knew
and the retain model that never did.

A study says `audit: LEVEL`, or a mapping of overrides of the audits:
`audit: {audit: standard, audit.max_facts: 40}`. An audit lies in the folder of the run that it is
of.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unteach import run_dir
from unteach.config.audits import AuditSettings
from unteach.config.overrides import spell_value
from unteach.errors import UserError
from unteach.studies import own_data
from unteach.studies.forget_entries import ForgetEntry
from unteach.studies.plan import AUDIT, PlannedRun
from unteach.studies.run_overrides import Settings, continue_from, spell_overrides
from unteach.studies.shared_overrides import (
    drop_start_overrides,
    drop_training,
    get_section,
)

BENCHMARK_ROWS = (
    "tofu_path",
    "muse_path",
    "wmdp_path",
    "data_split",
    "world_seed",
    "forget_split",
    "retain_split",
    "forget_set",
)
"""Keys of a forget run that say which rows of a benchmark it forgets."""
OF_THE_STUDY = {"original": "`full`", "retain_model": "`retain`"}
"""The models that stand beside the audited one."""
SHORT = tuple(field.name for field in dataclasses.fields(AuditSettings))
"""Keys of the section `audit` of a configuration."""


def take_level(
    study: Settings,
    overrides: Iterable[str],
) -> tuple[Settings, tuple[str, ...]]:
    """Take `audit=LEVEL` out of the overrides of a study: it audits at that level, or at
    `audit=null` not at all.

    Returns:
        The study, and the other overrides.
    """
    kept = []
    for override in overrides:
        key, _, level = override.partition("=")
        if key == AUDIT and level == "null":
            study = {**study, AUDIT: None, "evaluate": _drop_audit(study)}
        elif key == AUDIT:
            study = {**study, AUDIT: {**(read_section(study) or {}), AUDIT: level}}
        else:
            kept.append(override)
    return study, tuple(kept)


def read_section(study: Mapping[str, object]) -> Settings | None:
    """Read what a study says of its audits, as overrides; None where it has none."""
    section = study.get(AUDIT)
    if section is None and AUDIT in list_evaluated(study):
        section = {}
    if isinstance(section, str):
        section = {AUDIT: section}
    if section is not None and not isinstance(section, dict):
        raise UserError(f"audit: must be a level or a mapping of overrides, got {section}")
    return section


def list_evaluated(study: Mapping[str, object]) -> list[object]:
    """List what `evaluate` names."""
    evaluate = study.get("evaluate") or []
    return list(evaluate) if isinstance(evaluate, list) else [evaluate]


def _drop_audit(study: Mapping[str, object]) -> list[object]:
    return [name for name in list_evaluated(study) if name != AUDIT]


def refuse_impossible(study: Mapping[str, object]) -> None:
    """Raise UserError where a study is to be audited that has nothing to hold an audit against."""
    section = read_section(study)
    if section is None:
        return
    for key in section:
        if key in OF_THE_STUDY:
            raise UserError(f"audit: {key} is the folder of {OF_THE_STUDY[key]} by itself")
        if key in SHORT:
            raise UserError(
                f"audit: {key}: overrides of the audits are written in full, as "
                "{audit: standard, audit.max_facts: 40} has them"
            )
    if study.get("retain") is None:
        raise UserError(
            "audit: a forget run is held against a model that never saw the rows, and this study "
            "has none: add `retain`, or leave `audit` out"
        )
    if not study.get("forget"):
        raise UserError("audit: audits what has forgotten, and the study has no `forget`")


@dataclass(frozen=True)
class AuditPlanner:
    """Plan the audits of the forget runs of one branch.

    Attributes:
        section: the overrides that the study has for its audits.
        study_name: names the tasks.
        point_values: what varies, at this point.
        benchmark: what is forgotten; None for rows of one's own.
        full: the model that knew.
        retain: the model that never did.
        extra: overrides that go to every run.
    """

    section: Settings
    study_name: str
    point_values: Settings
    benchmark: str | None
    full: PlannedRun
    retain: PlannedRun
    extra: tuple[str, ...]

    def plan(self, entry: ForgetEntry, forget_run: PlannedRun) -> PlannedRun:
        """Plan the audit of one forget run.

        Args:
            entry: what the study says of that run.
            forget_run: as it was planned.
        """
        has_own_rows = self.benchmark is None
        start_settings = continue_from(forget_run)
        values = {**start_settings, **self._select_rows(entry.settings), **self.section}
        point_values, extra = drop_training(self.point_values, self.extra, has_own_rows)
        for key, value in point_values.items():
            values[key] = start_settings.get(key, value)

        name = f"{forget_run.name}_{AUDIT}"
        folder = f"{forget_run.folder}/{run_dir.AUDIT}"
        overrides = spell_overrides(values)
        overrides.append(f"task_name={spell_value(f'{self.study_name}/{name}')}")
        overrides.append(f"paths.output_dir={spell_value(folder)}")
        for override in drop_start_overrides(extra):
            if get_section(override) != "eval":
                overrides.append(override)
        overrides.append(f"original={spell_value(self.full.folder)}")
        overrides.append(f"retain_model={spell_value(self.retain.folder)}")
        parents = (forget_run.name, self.full.name, self.retain.name)
        return PlannedRun(name, AUDIT, AUDIT, tuple(overrides), parents)

    def _select_rows(self, forget_settings: Settings) -> Settings:
        """Select what says which rows a forget run was to forget, and to keep."""
        if self.benchmark is None:
            return own_data.select_row_settings({**forget_settings, **self.point_values})
        experiment = str(forget_settings.get("experiment") or f"unlearn/{self.benchmark}/default")
        group, _, benchmark = experiment.partition("/")
        if group != "unlearn" and "experiment" not in self.section:
            raise UserError(
                f"audit: experiment={experiment} does not say which rows an audit asks for; name "
                "an audit's: `audit: {experiment: audit/<benchmark>/default}`"
            )
        rows: Settings = {"experiment": f"{AUDIT}/{benchmark}"}
        for key, value in forget_settings.items():
            if key in BENCHMARK_ROWS:
                rows[key] = value
        return rows
