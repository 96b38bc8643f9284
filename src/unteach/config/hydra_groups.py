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
from omegaconf import OmegaConf
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
    _resolvers()
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
            added = [f"+{word}" if word.startswith(f"{absent[1]}=") else word for word in chosen]
            return _compose_groups(config_name, added, config_dirs)
        raise UserError(_said_plainly(str(error), chosen)) from None
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
    """The folder that holds a primary configuration: ours, or one of the user's."""
    homes = [CONFIGS, *map(Path, config_dirs)]
    found = next((home for home in homes if (home / f"{config_name}.yaml").is_file()), None)
    if found is None or config_name in PARTIAL:
        names = {file.stem for home in homes for file in home.glob("*.yaml")} - PARTIAL
        raise UserError(describe_unknown("config name", config_name, names))
    return found.resolve()


def search_path(home: Path, config_dirs: tuple[str, ...]) -> list[str]:
    """Hydra's word for the folders whose groups join those of the primary configuration's."""
    folders = [
        folder
        for folder in (*(Path(one).resolve() for one in config_dirs), CONFIGS)
        if folder != home
    ]
    return (
        [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"]
        if folders
        else []
    )


def _resolvers() -> None:
    OmegaConf.register_new_resolver("partner", partner, replace=True)
    OmegaConf.register_new_resolver("own", resolve_own, replace=True)


def partner(kind: str, forget_split: Any) -> str:
    """The partner of a TOFU forget split: partner("retain", "forget05") is "retain95", "holdout"
    gives "holdout05"."""
    found = re.fullmatch(r"forget(\d\d)", str(forget_split))
    if not found:
        raise UserError(
            f"forget_split={forget_split}: it has no known partner; set {kind}_split as well"
        )
    share = int(found[1])
    return f"retain{100 - share:02d}" if kind == "retain" else f"{kind}{share:02d}"


BENCHMARKS: dict[str, dict[str, tuple[str, ...]]] = {
    "data_split": {"muse": ("News", "Books"), "wmdp": ("cyber", "bio")},
    "forget_split": {
        "tofu": ("forget10", "forget05", "forget01"),
        "muse": ("forget", "forget_1", "forget_2", "forget_3", "forget_4"),
    },
    "retain_split": {"tofu": ("retain90", "retain95", "retain99"), "muse": ("retain1", "retain2")},
    "holdout_split": {"tofu": ("holdout10", "holdout05", "holdout01"), "muse": ("holdout",)},
}
"""Variables that several benchmarks share, with the values that each of them publishes; the first
is its default."""


def resolve_own(variable: str, benchmark: str, *, _root_: Any) -> Any:
    """The value of a shared variable for a dataset or suite of one benchmark.

    A value that only another benchmark has is what that one's experiment set (data_split=News,
    under which WMDP's corpora are asked for): this benchmark's own default then stands. Any other
    value is the user's, and stays.
    """
    value = _root_.get(variable)
    published = BENCHMARKS[variable]
    if not any(value in values for name, values in published.items() if name != benchmark):
        return value
    if benchmark == "tofu" and variable != "forget_split":
        return partner(
            variable.removesuffix("_split"),
            resolve_own("forget_split", benchmark, _root_=_root_),
        )
    return published[benchmark][0]


def mend_choices(
    chosen: list[str],
    config_dirs: tuple[str, ...],
) -> tuple[list[str], list[str], list[str]]:
    """Finds the choices that no file has, so that all else can be looked at in the same answer.

    Returns:
        The choices, each wrong name put right where there is a near one and left out where there is
        none; a sentence for each wrong name; the groups that were left out.
    """
    kept, problems, left_out = list[str](), list[str](), list[str]()
    for word in chosen:
        key, _, value = word.partition("=")
        group = key.lstrip("+").partition("@")[0]
        allowed = list_options(group, config_dirs)
        names = [name.strip(" '\"").removesuffix(".yaml") for name in value.strip("[]").split(",")]
        wrong = [name for name in names if name not in allowed] if allowed else []
        problems += [_no_such_choice(key.lstrip("+"), name, allowed) for name in wrong]
        meant = [find_nearest(name, allowed) if name in wrong else name for name in names]
        if not wrong:
            kept.append(word)
        elif all(meant):
            several = f"[{','.join(map(str, meant))}]" if value.startswith("[") else str(meant[0])
            kept.append(f"{key}={several}")
        else:
            left_out.append(group)
        unread = (
            [_without_package(name, config_dirs) for name in names] if group == "experiment" else []
        )
        if any(unread):
            problems += filter(None, unread)
            left_out.append("experiment")
    return kept, problems, left_out


def _no_such_choice(key: str, name: str, allowed: list[str]) -> str:
    group = key.partition("@")[0]
    kind = {"data/datasets": "dataset", "eval": "suite", "trainer": "method"}.get(group, group)
    shown = key.partition("@")[2] or key
    file = find_nearest(key.rpartition("data.")[2], FILE_KEYS) if kind == "dataset" else None
    also = f"; or did you mean data.{file}?" if file else ""
    if mend := openunlearning.find_choice(name):
        return f"{shown}={name}: {mend}"
    return f"{shown}={name}: " + describe_unknown(kind, name, allowed) + also


def _without_package(name: str, config_dirs: tuple[str, ...]) -> str:
    """What is wrong with an experiment's file whose keys would not reach the run; empty where they
    do."""
    homes = [Path(folder) / "experiment" for folder in config_dirs]
    file = next((path for home in homes if (path := home / f"{name}.yaml").is_file()), None)
    if file is None or re.search(
        r"^#\s*@package\s+_global_\s*$", file.read_text(encoding="utf-8"), re.MULTILINE
    ):
        return ""
    return f"{file}: its first line must be `# @package _global_`, or its keys do not reach the run"


def _said_plainly(message: str, groups: list[str]) -> str:
    """Hydra's composition error without its advice."""
    where = (
        f" ({ANSWERS[groups[0].partition('=')[0]]})"
        if groups and groups[0].partition("=")[0] in ANSWERS
        else ""
    )
    return re.split("\nSet the environment|\n+Config search path", message)[0].strip() + where
