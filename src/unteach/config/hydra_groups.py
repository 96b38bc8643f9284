"""Configuration files by group: what each may be called, and how Hydra puts the chosen ones
together."""

import functools
import pickle
import re
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from unteach.config import openunlearning
from unteach.config.files import FILE_KEYS
from unteach.config.groups import CONFIGS, list_options
from unteach.errors import UserError, describe_unknown, explain_unreadable, find_nearest

PARTIAL = {"variables", "base_trainer"}
"""Files beside the primary configs that only complete them."""
ANSWERS = {
    "experiment": "unteach list experiments",
    "model": "unteach list models",
    "trainer": "unteach list methods",
}
GROUP_NOUNS = {
    "data/datasets": "dataset",
    "eval": "suite",
    "audit": "level of an audit",
    "trainer": "method",
}
"""What messages call a file of a group, where that is not the group's name."""


def compose_hydra(
    config_name: str,
    chosen: list[str],
    config_dirs: tuple[str, ...],
) -> tuple[Any, dict[str, str]]:
    """Compose the chosen files of the groups; gives the unresolved tree and the choice of each
    group.

    Raises:
        UserError: where a choice has no file, or a file cannot be read.
    """
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
    if config_dirs:  # whose files may change while this process lives
        return _compose_groups(config_name, chosen, config_dirs)
    return pickle.loads(_compose_shipped(config_name, tuple(chosen)))


@functools.lru_cache(maxsize=128)
def _compose_shipped(config_name: str, chosen: tuple[str, ...]) -> bytes:
    """Compose the package's own files once a process: it takes 0.4 s, and the runs of a study
    differ in values alone.

    The tree is pickled, so that every caller gets one of its own.
    """
    return pickle.dumps(_compose_groups(config_name, list(chosen), ()))


def _compose_groups(
    config_name: str,
    chosen: list[str],
    config_dirs: tuple[str, ...],
) -> tuple[Any, dict[str, str]]:
    """Compose the files that stand on disk now."""
    _register_resolvers()
    home = find_home(config_name, config_dirs)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(home), version_base="1.3"):
            composed = hydra_compose(
                config_name,
                overrides=[*chosen, *search_path(home, config_dirs)],
                return_hydra_config=True,
            )
    except HydraException as error:
        absent = re.match(r"Could not override '(data/datasets@data\.\w+)'", str(error))
        if absent and f"+{absent[1]}" not in "".join(chosen):  # a stream that no file has
            prefix = f"{absent[1]}="
            added = [f"+{word}" if word.startswith(prefix) else word for word in chosen]
            return _compose_groups(config_name, added, config_dirs)
        raise UserError(_shorten_message(str(error), chosen)) from None
    except (
        YAMLError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise UserError(
            f"a configuration file cannot be read: {explain_unreadable(error)}"
        ) from None
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return composed, choices


def find_home(config_name: str, config_dirs: tuple[str, ...]) -> Path:
    """Find the folder that holds a primary configuration: ours, or one of the user's."""
    homes = [CONFIGS, *map(Path, config_dirs)]
    if config_name not in PARTIAL:
        for home in homes:
            if (home / f"{config_name}.yaml").is_file():
                return home.resolve()
    names: set[str] = set()
    for home in homes:
        names |= {file.stem for file in home.glob("*.yaml")}
    raise UserError(describe_unknown("config name", config_name, names - PARTIAL))


def search_path(home: Path, config_dirs: tuple[str, ...]) -> list[str]:
    """Write Hydra's word for the folders whose groups join those of the primary configuration."""
    folders = [Path(folder).resolve() for folder in config_dirs]
    folders.append(CONFIGS)
    urls = [f"file://{folder}" for folder in folders if folder != home]
    if not urls:
        return []
    joined = ",".join(urls)
    return [f"hydra.searchpath=[{joined}]"]


def _register_resolvers() -> None:
    """Register what `${partner:…}` and `${own:…}` in a file stand for."""
    OmegaConf.register_new_resolver("partner", partner, replace=True)
    OmegaConf.register_new_resolver("own", resolve_own, replace=True)


def partner(kind: str, forget_split: object) -> str:
    """Name the partner of a TOFU forget split.

    partner("retain", "forget05") is "retain95"; "holdout" gives "holdout05".
    """
    match = re.fullmatch(r"forget(\d\d)", str(forget_split))
    if not match:
        raise UserError(
            f"forget_split={forget_split}: it has no known partner; set {kind}_split as well"
        )
    share = int(match[1])
    if kind == "retain":
        share = 100 - share
    return f"{kind}{share:02d}"


BENCHMARKS: dict[str, dict[str, tuple[str, ...]]] = {
    "data_split": {
        "muse": ("News", "Books"),
        "wmdp": ("cyber", "bio"),
    },
    "forget_split": {
        "tofu": ("forget10", "forget05", "forget01"),
        "muse": ("forget", "forget_1", "forget_2", "forget_3", "forget_4"),
    },
    "retain_split": {
        "tofu": ("retain90", "retain95", "retain99"),
        "muse": ("retain1", "retain2"),
    },
    "holdout_split": {
        "tofu": ("holdout10", "holdout05", "holdout01"),
        "muse": ("holdout",),
    },
}
"""Variables that several benchmarks share, with the values that each of them publishes; the first
is its default."""


def resolve_own(variable: str, benchmark: str, *, _root_: DictConfig) -> Any:
    """Choose the value of a shared variable for a dataset or suite of one benchmark.

    A value that only another benchmark has is what that one's experiment set (data_split=News,
    under which WMDP's corpora are asked for): this benchmark's own default then stands. Any other
    value is the user's, and stays.
    """
    value = _root_.get(variable)
    published = BENCHMARKS[variable]
    others = [values for name, values in published.items() if name != benchmark]
    if not any(value in values for values in others):
        return value
    if benchmark == "tofu" and variable != "forget_split":
        forget_split = resolve_own("forget_split", benchmark, _root_=_root_)
        return partner(variable.removesuffix("_split"), forget_split)
    return published[benchmark][0]


def mend_choices(
    chosen: list[str],
    config_dirs: tuple[str, ...],
) -> tuple[list[str], list[str], list[str]]:
    """Find the choices that no file has, so that all else can be looked at in the same answer.

    Returns:
        The choices, each wrong name put right where there is a near one and left out where there is
        none; a sentence for each wrong name; the groups that were left out.
    """
    kept: list[str] = []
    problems: list[str] = []
    left_out: list[str] = []
    for word in chosen:
        key, _, value = word.partition("=")
        path = key.lstrip("+")
        group = path.partition("@")[0]
        names = _split_names(value)
        allowed = list_options(group, config_dirs)
        wrong = [name for name in names if name not in allowed] if allowed else []
        if not wrong:
            kept.append(word)
        else:
            for name in wrong:
                problems.append(_explain_choice(path, name, allowed))
            mended = [find_nearest(name, allowed) if name in wrong else name for name in names]
            if all(mended):
                several = ",".join(map(str, mended))
                is_list = value.startswith("[")
                kept.append(f"{key}=[{several}]" if is_list else f"{key}={mended[0]}")
            else:
                left_out.append(group)
        if group == "experiment":
            unread = [_explain_package(name, config_dirs) for name in names]
            if any(unread):
                problems += filter(None, unread)
                left_out.append("experiment")
    return kept, problems, left_out


def _split_names(value: str) -> list[str]:
    """Split the right side of a choice, a name or a list of names, without quotes and endings."""
    names = []
    for name in value.strip("[]").split(","):
        names.append(name.strip(" '\"").removesuffix(".yaml"))
    return names


def _explain_choice(key: str, name: str, allowed: list[str]) -> str:
    """Say that a group has no file of a name, and which it may have been."""
    group, _, package = key.partition("@")
    label = package or key
    if mend := openunlearning.find_choice(name):
        return f"{label}={name}: {mend}"
    kind = GROUP_NOUNS.get(group, group)
    problem = f"{label}={name}: " + describe_unknown(kind, name, allowed)
    if kind == "dataset":
        file_key = find_nearest(key.rpartition("data.")[2], FILE_KEYS)
        if file_key:
            problem += f"; or did you mean data.{file_key}?"
    return problem


def _explain_package(name: str, config_dirs: tuple[str, ...]) -> str:
    """Say what is wrong with an experiment's file whose keys would not reach the run; empty where
    they do."""
    for folder in config_dirs:
        file = Path(folder) / "experiment" / f"{name}.yaml"
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        if re.search(r"^#\s*@package\s+_global_\s*$", text, re.MULTILINE):
            return ""
        return (
            f"{file}: its first line must be `# @package _global_`, or its keys do not reach the "
            f"run"
        )
    return ""


def _shorten_message(message: str, groups: list[str]) -> str:
    """Give Hydra's composition error without its advice."""
    reason = re.split("\nSet the environment|\n+Config search path", message)[0].strip()
    group = groups[0].partition("=")[0] if groups else ""
    if group in ANSWERS:
        return f"{reason} ({ANSWERS[group]})"
    return reason
