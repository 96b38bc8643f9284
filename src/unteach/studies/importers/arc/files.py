"""Reads the files that an ARC top configuration names, from the folders that ARC keeps them in.

`<configs>/experiment/<top>.yaml` names `<configs>/data/<name>.yaml`, `<configs>/model/<m>/<m>.yaml`
and `<configs>/model/<m>/hyperparameters/<h>.yaml`.
"""

from pathlib import Path
from typing import Any

from unteach.errors import UserError
from unteach.strict_yaml import read_yaml
from unteach.studies.importers.arc import top_config
from unteach.wording import shown


def read_layers(top: top_config.Top, found: list[top_config.Job], file: Path) -> top_config.Layers:
    """The three lower layers of a top configuration's jobs; UserError names every file that is
    absent."""
    home = file.resolve().parent
    # A single experiment may lie one folder deeper, in that of the study that it was made for.
    above = (home.parent, home, home.parent.parent)
    home = next((place for place in above if (place / "model").is_dir()), home.parent)
    model = home / "model" / top.model_config
    data = {
        name: home / "data" / f"{name}.yaml" for name in dict.fromkeys(job.data for job in found)
    }
    hyper = {
        name: model / "hyperparameters" / f"{name}.yaml"
        for name in dict.fromkeys(job.hyperparameters for job in found)
    }
    base = model / f"{top.model_config}.yaml"
    absent = [str(path) for path in (base, *data.values(), *hyper.values()) if not path.is_file()]
    if absent:
        counted = ", ".join(f"{count} {kind}" for kind, count in top_config.counts(found).items())
        raise UserError(
            f"{file}: names {counted} jobs, but {len(absent)} of the files that it refers to are "
            f"not there:\n" + "\n".join(f"  {path}" for path in absent)
        )
    read_data = {name: _mapping(path) for name, path in data.items()}
    return top_config.Layers(
        _mapping(base), read_data, {name: _mapping(path) for name, path in hyper.items()}
    )


def _mapping(file: Path) -> dict[str, Any]:
    value = read_yaml(file)
    if not isinstance(value, dict):
        raise UserError(f"{file}: must be a mapping, got {shown(value)}")
    return value
