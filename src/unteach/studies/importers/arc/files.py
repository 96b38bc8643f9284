"""Reads the files that an ARC top configuration names, from the folders that ARC keeps them in.

`<configs>/experiment/<top>.yaml` names `<configs>/data/<name>.yaml`, `<configs>/model/<m>/<m>.yaml`
and `<configs>/model/<m>/hyperparameters/<h>.yaml`.
"""

from pathlib import Path
from typing import Any

from unteach.errors import UserError
from unteach.strict_yaml import read_yaml
from unteach.studies.importers.arc import top_config
from unteach.wording import quote_value


def read_layers(
    top: top_config.Top, jobs: list[top_config.ArcJob], file: Path
) -> top_config.Layers:
    """Read the three lower layers of a top configuration's jobs.

    Args:
        top: the configuration.
        jobs: its jobs, which name the files.
        file: where the configuration is.

    Raises:
        UserError: it names every file that is absent.
    """
    config_dir = _find_config_dir(file)
    model_dir = config_dir / "model" / top.model_config
    model_file = model_dir / f"{top.model_config}.yaml"
    data_files = {job.data: config_dir / "data" / f"{job.data}.yaml" for job in jobs}
    hyperparameter_files = {
        job.hyperparameters: model_dir / "hyperparameters" / f"{job.hyperparameters}.yaml"
        for job in jobs
    }
    all_files = (model_file, *data_files.values(), *hyperparameter_files.values())
    absent = [path for path in all_files if not path.is_file()]
    if absent:
        counts = [f"{count} {kind}" for kind, count in top_config.count_kinds(jobs).items()]
        paths = "\n".join(f"  {path}" for path in absent)
        raise UserError(
            f"{file}: names {', '.join(counts)} jobs, but {len(absent)} of the files that it "
            f"refers to are not there:\n{paths}"
        )
    return top_config.Layers(
        model=_read_mapping(model_file),
        data={name: _read_mapping(path) for name, path in data_files.items()},
        hyperparameters={name: _read_mapping(path) for name, path in hyperparameter_files.items()},
    )


def _find_config_dir(file: Path) -> Path:
    """Find the folder that holds `model` and `data`.

    A single experiment may lie one folder deeper, in that of the study that it was made for.
    """
    folder = file.resolve().parent
    for candidate in (folder.parent, folder, folder.parent.parent):
        if (candidate / "model").is_dir():
            return candidate
    return folder.parent


def _read_mapping(file: Path) -> dict[str, Any]:
    value = read_yaml(file)
    if not isinstance(value, dict):
        raise UserError(f"{file}: must be a mapping, got {quote_value(value)}")
    return value
