"""Expands a study into runs and the order between them: a pure function of the study's mapping.

A study names what each kind of run is (`base`, `full`, `retain`, and a list of `forget` runs), what
varies, and the suites. A run that several branches share is planned once: `base` and `full` do not
depend on the forget split, and the base is evaluated once for all. Every forget run starts from the
full model, or from another forget run (`from`), and is judged by the log of the retain model of its
split. A study of own rows (own_data.py) names no benchmark; its full and retain models are measured
by evaluations of their own, on the rows of the forget runs. With `audit`, every forget run is
audited (audit_runs.py).
"""

from typing import Any

from unteach.errors import UserError, describe_unknown
from unteach.studies import audit_runs, own_data
from unteach.studies.branch import Branch
from unteach.studies.plan import PlannedRun, sort_by_parents
from unteach.studies.run_overrides import Settings
from unteach.studies.search_space import expand_entry, expand_grid
from unteach.wording import quote_value

KEYS = {
    "name",
    "base",
    "full",
    "retain",
    "forget",
    "vary",
    "eval",
    "evaluate",
    "audit",
    "wandb",
    "local",
    "slurm",
}


def expand(
    study: dict[str, Any],
    root: str = "saves",
    extra: tuple[str, ...] = (),
) -> list[PlannedRun]:
    """Expand a study into its runs, parents before children.

    Args:
        study: the mapping of a study file.
        root: the folder that the study's folder is in.
        extra: overrides that go to every run.

    Raises:
        UserError: unknown keys, a missing parent, a cycle, or two runs of one name.
    """
    study, extra = audit_runs.take_level(study, extra)
    study = _check_sections(study)
    if own_data.has_own_rows(study):
        study = own_data.complete_study(study)
    folder = f"{root}/{study['name']}"
    runs: list[PlannedRun] = []
    for point in expand_grid(study.get("vary") or {}):
        for full, full_label in expand_entry(study["full"], "full"):
            runs += Branch(study, point, full, full_label, folder, extra).plan()
    return sort_by_parents(study["name"], runs)


def _check_sections(study: dict[str, Any]) -> Settings:
    """Refuse what no study has; give the study with its forget runs as a list."""
    for key in study:
        if key not in KEYS:
            raise UserError(describe_unknown("study key", str(key), KEYS))
    if "name" not in study or "full" not in study:
        raise UserError("a study needs `name` and `full`")
    forget = study.get("forget")
    if isinstance(forget, dict):
        forget = [forget]
        study = {**study, "forget": forget}
    sections = {key: study[key] for key in ("base", "full", "retain") if study.get(key) is not None}
    for index, entry in enumerate(forget or []):
        sections[f"forget[{index}]"] = entry
    for key, value in sections.items():
        if not isinstance(value, dict):
            raise UserError(f"{key}: must be a mapping of overrides, got {quote_value(value)}")
    for name in audit_runs.list_evaluated(study):
        if name not in ("base", "audit"):
            raise UserError(
                f"evaluate: {quote_value(name)} is evaluated anyway, or is no run of the study; "
                "it may be [base], [audit] or both"
            )
    audit_runs.refuse_impossible(study)
    return study
