"""A study from its file and the overrides of the command line: its runs, and how they are to be
carried out.

The file is this project's own, or an ARC top configuration, which is read with the files that it
names.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unteach.config import groups
from unteach.config.overrides import parse_value
from unteach.config.reader import collect_problems
from unteach.errors import UserError, describe_unknown, find_nearest
from unteach.strict_yaml import read_yaml
from unteach.studies import compose_runs, search_space, settings, shapes
from unteach.studies.expansion import KEYS, expand
from unteach.studies.importers.arc import files, single, top_config
from unteach.studies.plan import PlannedRun

SECTIONS = ("local", "slurm")
ROOT = "saves"


@dataclass
class Study:
    """A study as it is carried out.

    Attributes:
        name: of the study, and of its folder.
        plan: its runs, parents before children.
        config_dirs: where its configurations are, beside the shipped ones.
        local: the settings of the executor on this machine.
        slurm: the settings of the executor on a cluster.
        source: the file that it was made of.
        words: the overrides that it was made of.
    """

    name: str
    plan: list[PlannedRun]
    config_dirs: tuple[str, ...] = ()
    local: settings.Local = field(default_factory=settings.Local)
    slurm: settings.Slurm = field(default_factory=settings.Slurm)
    source: str = ""
    words: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return Path(self.plan[0].folder).parent


def read_study(
    name: str,
    words: Iterable[str] = (),
    config_dirs: tuple[str, ...] = (),
) -> Study:
    """Read the study that a file's name or path and overrides stand for.

    Args:
        name: a path, or a name in configs/study/ or a user's folder.
        words: overrides; one of a varied key replaces its values, `local.…` and `slurm.…` set the
            executors, and all others go to every run.
        config_dirs: folders of the user's configurations.
    """
    overrides = tuple(words)
    file = find(name, config_dirs)
    mapping, problems = mend_keys(read_file(file))
    # All that is wrong with the shape of the file is one answer.
    if not _is_of_arc(mapping):
        faults = shapes.find_faults(mapping)
        if faults:
            raise UserError(_list_problems(file, [*problems, *faults]))
    own_settings, run_overrides = sections(overrides)
    local_settings: dict[str, Any] = {}
    slurm_settings: dict[str, Any] = {}

    if top_config.is_top(mapping):
        arc_study = _plan_arc_study(file, mapping, tuple(run_overrides))
        study_name, plan, slurm_settings = arc_study
    elif single.is_experiment(mapping):
        study_name, plan = single.plan(file, mapping, ROOT, tuple(run_overrides))
    else:
        mapping, extra = vary(mapping, run_overrides)
        plan = []
        # A misspelled key may have taken the plan's own mistakes with it: all are one answer.
        with collect_problems(problems):
            plan = expand(mapping, ROOT, extra)
        if problems:
            refuse(file, problems, plan, config_dirs)
        study_name = mapping["name"]
        local_settings = mapping.get("local") or {}
        slurm_settings = mapping.get("slurm") or {}

    # What the command line sets of an executor wins over the file.
    local = settings.read_local({**local_settings, **own_settings["local"]})
    slurm = settings.read_slurm({**slurm_settings, **own_settings["slurm"]})
    refuse_secrets(overrides, plan, slurm)
    return Study(
        study_name,
        plan,
        config_dirs=config_dirs,
        local=local,
        slurm=slurm,
        source=str(file.resolve()),
        words=overrides,
    )


def _is_of_arc(mapping: dict[str, Any]) -> bool:
    return top_config.is_top(mapping) or single.is_experiment(mapping)


def _plan_arc_study(
    file: Path,
    mapping: dict[str, Any],
    overrides: tuple[str, ...],
) -> tuple[str, list[PlannedRun], dict[str, Any]]:
    """Give the name, the plan and the section `slurm` of an ARC top configuration."""
    top = top_config.read_top(mapping)
    name = file.stem
    if not shapes.NAME.fullmatch(name):
        raise UserError(
            f"{file}: its name names the study's folder; give it one of letters, digits and _ . + -"
        )
    jobs = top_config.list_jobs(top)
    layers = files.read_layers(top, jobs, file)
    plan = top_config.expand(name, top, layers, ROOT, overrides)
    slurm_settings = top_config.build_slurm_section(top)
    return name, plan, slurm_settings


def refuse_secrets(
    overrides: tuple[str, ...],
    plan: list[PlannedRun],
    slurm: settings.Slurm,
) -> None:
    """Raise UserError for a secret that the study's plan or a script would keep."""
    # Those of `slurm.` are looked at as lines of a script.
    kept = []
    for override in overrides:
        if not override.startswith("slurm."):
            kept.append(override)
    for run in plan:
        kept += run.overrides
    setup = list(slurm.setup)
    for kind in slurm.kinds:
        setup += slurm.for_kind(kind).setup
    secrets = shapes.find_secrets(kept, setup)
    if secrets:
        raise UserError("\n".join(secrets))


def mend_keys(study: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Mend misspelled keys of a study where there is a near one, and leave them out where not.

    Returns:
        The study, and what was wrong with its keys.
    """
    if _is_of_arc(study):
        return study, []
    mended: dict[str, Any] = {}
    problems = []
    for key, value in study.items():
        if key in KEYS:
            mended.setdefault(key, value)
            continue
        problems.append(describe_unknown("study key", str(key), KEYS))
        guess = find_nearest(str(key), KEYS)
        if guess is not None:
            mended.setdefault(guess, value)
    return mended, problems


def refuse(
    file: Path,
    problems: list[str],
    plan: list[PlannedRun],
    config_dirs: tuple[str, ...],
) -> None:
    """Raise what is wrong with a study's keys and, in the same answer, with the runs that were
    meant."""
    with collect_problems(problems):
        compose_runs.check(plan, config_dirs)
    raise UserError(_list_problems(file, problems))


def _list_problems(file: Path, problems: list[str]) -> str:
    heading = f"{file}: this study cannot be carried out:"
    return "\n".join([heading, *problems])


def find(name: str, config_dirs: tuple[str, ...] = ()) -> Path:
    """Find a study's file: a path, or a name in configs/study/ or a user's folder."""
    paths = [Path(name)]
    for folder in [*map(Path, config_dirs), groups.CONFIGS]:
        paths.append(folder / "study" / f"{name}.yaml")
    for path in paths:
        if path.is_file():
            return path
    if name.endswith((".yaml", ".yml")):
        raise UserError(f"study={name}: there is no such file")
    known = groups.list_options("study", config_dirs)
    raise UserError(f"study={name}: {describe_unknown('study', name, known)}")


def read_file(file: Path) -> dict[str, Any]:
    """Read the mapping of a study file."""
    study = read_yaml(file)
    if not isinstance(study, dict):
        raise UserError(f"{file}: a study is a mapping with name, full, retain, forget, vary, eval")
    return study


def read(name: str, config_dirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a study's mapping, from configs/study/, a user's folder, or a path."""
    file = find(name, config_dirs)
    return read_file(file)


def vary(study: dict[str, Any], words: Iterable[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Give varied keys the values of overrides, and the study a name that says so.

    Returns:
        The study, and the other overrides.
    """
    if "name" not in study:
        raise UserError("a study needs `name` and `full`")
    varied = dict(study.get("vary") or {})
    other_overrides = []
    labels = []
    old_labels = []
    for word in words:
        key = word.partition("=")[0]
        if key not in varied:
            other_overrides.append(word)
            continue
        values = parse_value(word)
        if not isinstance(values, list):
            values = [values]
        if values != varied[key]:
            label = search_space.format_label(key, values)
            labels.append(label.lstrip("_"))
            short_key = key.split(".")[-1]
            old_labels.append(f"{short_key}{search_space.spell_in_name(values)}")
        varied[key] = values

    own_name = str(study["name"])
    name = "-".join([own_name, *labels])
    # A study that began when every label had its key goes on in its folder.
    old_name = "-".join([own_name, *old_labels])
    if (Path(ROOT) / old_name).is_dir():
        name = old_name
    varied_study = {**study, "name": name, "vary": varied}
    return varied_study, tuple(other_overrides)


def sections(words: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Take `jobs=N`, `local.…=` and `slurm.…=` out of overrides.

    Returns:
        Their values by section, and the other overrides.
    """
    by_section: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    other_overrides = []
    for word in words:
        key, equals, _ = word.partition("=")
        if key == "jobs":
            key = "local.jobs"
        section, _, path = key.partition(".")
        if section not in SECTIONS or not path or not equals:
            other_overrides.append(word)
            continue
        *parents, name = path.split(".")
        mapping = by_section[section]
        for parent in parents:
            mapping = mapping.setdefault(parent, {})
            if not isinstance(mapping, dict):
                parent_key = ".".join([section, *parents])
                raise UserError(f"{word}: another word gives {parent_key} a value")
        mapping[name] = parse_value(word)
    return by_section, other_overrides
