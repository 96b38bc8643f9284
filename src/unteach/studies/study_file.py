"""A study from its file and the words of the command line: its runs, and how they are to be carried
out.

The file is this project's own, or an ARC top configuration, which is read with the files that it
names.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unteach.config import groups
from unteach.config.reader import collect_problems
from unteach.errors import UserError, nearest, shorten_name, unknown
from unteach.strict_yaml import parse_yaml, read_yaml
from unteach.studies import compose_runs, search_space, settings, shapes
from unteach.studies.importers.arc import files, single, top_config
from unteach.studies.plan import KEYS, PlannedRun, expand

SECTIONS = ("local", "slurm")
ROOT = "saves"


@dataclass
class Study:
    """A study as it is carried out: its runs, where its configurations are, and the settings of its
    executors.

    source, words: the file and the words that it was made of.
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


def study_of(name: str, words: Iterable[str] = (), config_dirs: tuple[str, ...] = ()) -> Study:
    """The study that a file's name or path and words stand for."""
    file, given = find(name, config_dirs), tuple(words)
    mapping, problems = mend_keys(of_file(file))
    is_arc = top_config.is_top(mapping) or single.is_experiment(mapping)
    if not is_arc and (faults := shapes.find_faults(mapping)):
        raise UserError(
            "\n".join([f"{file}: this study cannot be carried out:", *problems, *faults])
        )
    own, words = sections(given)
    if top_config.is_top(mapping):
        top = top_config.read_top(mapping)
        if not shapes.NAME.fullmatch(file.stem):
            raise UserError(
                f"{file}: its name names the study's folder; give it one of letters, digits and _ "
                f". + -"
            )
        plan = top_config.expand(
            file.stem, top, files.read_layers(top, top_config.jobs(top), file), ROOT, tuple(words)
        )
        mapping = {"name": file.stem, "slurm": top_config.slurm(top)}
    elif is_arc:
        name, plan = single.plan(file, mapping, ROOT, tuple(words))
        mapping = {"name": name}
    else:
        mapping, extra = vary(mapping, words)
        plan = list[PlannedRun]()
        with collect_problems(problems):
            plan = expand(mapping, ROOT, extra)
        if problems:
            refuse(file, problems, plan, config_dirs)
    parts = {key: {**(mapping.get(key) or {}), **own[key]} for key in SECTIONS}
    local, slurm = settings.read_local(parts["local"]), settings.read_slurm(parts["slurm"])
    refuse_secrets(given, plan, slurm)
    return Study(mapping["name"], plan, config_dirs, local, slurm, str(file.resolve()), given)


def refuse_secrets(given: tuple[str, ...], plan: list[PlannedRun], slurm: settings.Slurm) -> None:
    """Raise UserError for a secret that the study's plan or a script would keep."""
    words = [word for word in given if not word.startswith("slurm.")]
    words += [word for run in plan for word in run.overrides]
    lines = [line for one in (slurm, *map(slurm.of, slurm.kinds)) for line in one.setup]
    if secrets := shapes.find_secrets(words, lines):
        raise UserError("\n".join(secrets))


def mend_keys(study: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A study with its misspelled keys put right where there is a near one, and left out where not;
    what was wrong."""
    if top_config.is_top(study) or single.is_experiment(study):
        return study, []
    mended, problems = dict[str, Any](), list[str]()
    for key, value in study.items():
        guess = key if key in KEYS else nearest(str(key), KEYS)
        if guess != key:
            problems.append(unknown("study key", str(key), KEYS))
        if guess is not None:
            mended.setdefault(guess, value)
    return mended, problems


def refuse(
    file: Path, problems: list[str], plan: list[PlannedRun], config_dirs: tuple[str, ...]
) -> None:
    """Raises what is wrong with a study's keys and, in the same answer, with the runs that were
    meant."""
    with collect_problems(problems):
        compose_runs.check(plan, config_dirs)
    raise UserError("\n".join([f"{file}: this study cannot be carried out:", *problems]))


def find(name: str, config_dirs: tuple[str, ...] = ()) -> Path:
    """A study's file: a path, or a name in configs/study/ or a user's folder."""
    folders = [*map(Path, config_dirs), groups.CONFIGS]
    homes = [Path(name), *(folder / "study" / f"{name}.yaml" for folder in folders)]
    found = next((path for path in homes if path.is_file()), None)
    if found is None:
        if name.endswith((".yaml", ".yml")):
            raise UserError(f"study={name}: there is no such file")
        raise UserError(
            f"study={name}: " + unknown("study", name, groups.list_options("study", config_dirs))
        )
    return found


def of_file(file: Path) -> dict[str, Any]:
    study = read_yaml(file)
    if not isinstance(study, dict):
        raise UserError(f"{file}: a study is a mapping with name, full, retain, forget, vary, eval")
    return study


def read(name: str, config_dirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """The study's mapping, from configs/study/, a user's folder, or a path."""
    return of_file(find(name, config_dirs))


def vary(study: dict[str, Any], words: Iterable[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Puts words on a study: a varied key takes the word's value, and the study a name that says
    so."""
    varied, extra = dict(study.get("vary") or {}), []
    labels, old_labels = list[str](), list[str]()
    for word in words:
        key, _, value = word.partition("=")
        if key in varied:
            values = parse_yaml(value, shorten_name(word))
            values = values if isinstance(values, list) else [values]
            if values != varied[key]:
                labels.append(search_space.label(key, values).lstrip("_"))
                old_labels.append(f"{key.split('.')[-1]}{search_space.spell_in_name(values)}")
            varied[key] = values
        else:
            extra.append(word)
    if "name" not in study:
        raise UserError("a study needs `name` and `full`")
    name = "-".join([str(study["name"]), *labels])
    old_name = "-".join([str(study["name"]), *old_labels])
    # A study that began when every label had its key goes on in its folder.
    if (Path(ROOT) / old_name).is_dir():
        name = old_name
    return {**study, "name": name, "vary": varied}, tuple(extra)


def sections(words: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Takes `jobs=N`, `local.…=` and `slurm.…=` out of the words; gives their values by section,
    and the rest."""
    own: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        section, _, name = ("local.jobs" if key == "jobs" else key).partition(".")
        if not (section in own and name and equals):
            rest.append(word)
            continue
        node, *deeper = name.split(".")
        target = own[section]
        for part in deeper:
            target, node = target.setdefault(node, {}), part
            if not isinstance(target, dict):
                raise UserError(
                    f"{word}: another word gives {section}.{name.rpartition('.')[0]} a value"
                )
        target[node] = parse_yaml(value, shorten_name(word))
    return own, rest
