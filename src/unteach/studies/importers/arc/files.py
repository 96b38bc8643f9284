"""Reads the files that an ARC top configuration names, from the folders that ARC keeps them in.

`<configs>/experiment/<top>.yaml` names `<configs>/data/<name>.yaml`, `<configs>/model/<m>/<m>.yaml`
and `<configs>/model/<m>/hyperparameters/<h>.yaml`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach.errors import UserError
from unteach.strict_yaml import read_yaml
from unteach.studies.importers.arc import top_config
from unteach.wording import quote_value


def read_layers(
    top: top_config.Top,
    jobs: list[top_config.ArcJob],
    file: Path,
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
    data_files = {}
    hyperparameter_files = {}
    for job in jobs:
        data_name = f"{job.data}.yaml"
        data_files[job.data] = config_dir / "data" / data_name
        hyperparameters_name = f"{job.hyperparameters}.yaml"
        hyperparameters_file = model_dir / "hyperparameters" / hyperparameters_name
        hyperparameter_files[job.hyperparameters] = hyperparameters_file
    all_files = (model_file, *data_files.values(), *hyperparameter_files.values())
    _refuse_absent(all_files, jobs, file)
    return top_config.Layers(
        model=_read_mapping(model_file),
        data=_read_mappings(data_files),
        hyperparameters=_read_mappings(hyperparameter_files),
    )


def _refuse_absent(
    paths: Iterable[Path],
    jobs: list[top_config.ArcJob],
    file: Path,
) -> None:
    """Raise UserError where some of the files are not there, naming all of these."""
    absent = [path for path in paths if not path.is_file()]
    if not absent:
        return
    counts = []
    for kind, count in top_config.count_kinds(jobs).items():
        counts.append(f"{count} {kind}")
    job_counts = ", ".join(counts)
    lines = "\n".join(f"  {path}" for path in absent)
    raise UserError(
        f"{file}: names {job_counts} jobs, but {len(absent)} of the files that it "
        f"refers to are not there:\n{lines}"
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


def _read_mappings(files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Read the files of a layer, by name."""
    mappings = {}
    for name, path in files.items():
        mappings[name] = _read_mapping(path)
    return mappings


def _read_mapping(file: Path) -> dict[str, Any]:
    value = read_yaml(file)
    if not isinstance(value, dict):
        raise UserError(f"{file}: must be a mapping, got {quote_value(value)}")
    return value
