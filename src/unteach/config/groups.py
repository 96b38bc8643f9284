"""Configuration files by group: what each may be called, and how Hydra puts the chosen ones together."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach.config.files import FILE_KEYS
from unteach.errors import UserError, nearest, unknown

CONFIGS = Path(__file__).parents[1] / "configs"
PARTIAL = {"variables", "base_trainer"}
"""Files beside the primary configs that only complete them."""
GROUPS = {"model", "trainer", "data", "collator", "eval", "paths", "experiment"}
ANSWERS = {"experiment": "unteach list experiments", "model": "unteach list models", "trainer": "unteach list methods"}


def put_together(config_name: str, chosen: list[str], config_dirs: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from yaml import YAMLError

    _resolvers()
    primary = sorted({file.stem for home in (CONFIGS, *map(Path, config_dirs)) for file in home.glob("*.yaml")})
    if config_name not in primary:
        raise UserError(unknown("config name", config_name, [name for name in primary if name not in PARTIAL]))
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose(
                config_name, overrides=[*chosen, *search_path(config_dirs)], return_hydra_config=True
            )
    except HydraException as error:
        absent = re.match(r"Could not override '(data/datasets@data\.\w+)'", str(error))
        if absent and f"+{absent[1]}" not in "".join(chosen):  # a stream that no file has
            added = [f"+{word}" if word.startswith(f"{absent[1]}=") else word for word in chosen]
            return put_together(config_name, added, config_dirs)
        raise UserError(_said_plainly(str(error), chosen, config_dirs)) from None
    except (YAMLError, OSError, ValueError, TypeError) as error:
        raise UserError(f"a configuration file cannot be read: {' '.join(str(error).split())}") from None
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return composed, choices


def search_path(config_dirs: tuple[str, ...]) -> list[str]:
    """Hydra's word for folders that join the shipped groups."""
    folders = ",".join(f"file://{Path(folder).resolve()}" for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if folders else []


def _resolvers() -> None:
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("partner", partner, replace=True)


def partner(kind: str, forget_split: Any) -> str:
    """The partner of a TOFU forget split: partner("retain", "forget05") is "retain95", "holdout" gives "holdout05"."""
    found = re.fullmatch(r"forget(\d\d)", str(forget_split))
    if not found:
        raise UserError(f"forget_split={forget_split}: it has no known partner; set {kind}_split as well")
    share = int(found[1])
    return f"retain{100 - share:02d}" if kind == "retain" else f"{kind}{share:02d}"


def options(group: str, config_dirs: Iterable[str] = ()) -> list[str]:
    """The names that `group=` takes, of this package and of the user's folders."""
    homes = [CONFIGS / group, *(Path(folder) / group for folder in config_dirs)]
    return sorted({str(f.relative_to(home).with_suffix("")) for home in homes for f in home.rglob("*.yaml")})


def _said_plainly(message: str, groups: list[str], config_dirs: tuple[str, ...]) -> str:
    """Hydra's composition error without its advice, and with the nearest right name."""
    for word in groups:
        key, _, chosen = word.partition("=")
        key = key.lstrip("+")
        group = key.partition("@")[0]
        for name in chosen.strip("[]").split(","):
            allowed = options(group, config_dirs)
            if allowed and name not in allowed:
                kind = {"data/datasets": "dataset", "eval": "suite", "trainer": "method"}.get(group, group)
                file = nearest(key.rpartition("data.")[2], FILE_KEYS) if kind == "dataset" else None
                also = f"; or did you mean data.{file}?" if file else ""
                return f"{key}={name}: " + unknown(kind, name, allowed) + also
    where = f" ({ANSWERS[groups[0].partition('=')[0]]})" if groups and groups[0].partition("=")[0] in ANSWERS else ""
    return re.split("\nSet the environment|\n+Config search path", message)[0].strip() + where
