"""Sets of rows that the library `datasets` loads: from the hub, or from a folder that it saved."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach.config.secrets import drop_secrets
from unteach.data.io.arrow_files import refuse_damaged_set
from unteach.errors import AbsentData, UserError, find_nearest, get_first_line
from unteach.lazy import datasets

UNKNOWN_SPLIT = re.compile(r'Unknown split "(.*)"\. Should be one of \[(.*)\]')


def is_saved_by_datasets(path: Path) -> bool:
    """Whether `datasets` saved one set of rows, or several splits, into this folder."""
    if (path / "dataset_dict.json").exists():
        return True
    return (path / "state.json").exists() and (path / "dataset_info.json").exists()


def load_hub_dataset(hf_args: dict[str, Any]) -> "datasets.Dataset":
    """Load what `datasets.load_dataset` gives, or load_from_disk for a folder that it saved.

    Raises:
        AbsentData: the set exists, and its configuration or split does not.
        UserError: there is no such set, or it cannot be read.
    """
    path = str(hf_args["path"])
    try:
        if set(hf_args) <= {"path", "split"} and is_saved_by_datasets(Path(path)):
            loaded = _load_from_disk(path, hf_args.get("split"))
        else:
            loaded = datasets.load_dataset(**hf_args)
    except UserError:
        raise
    except (OSError, TypeError) as error:
        shown_args = drop_secrets(hf_args, of_hub=True)
        raise UserError(
            f"cannot load the rows {shown_args}: {get_first_line(error)}\n"
            "  Without the network, point to local files: data=files data.train_file=FILE; or "
            "tofu_path, muse_path, "
            "wmdp_path=FOLDER of <config name>.jsonl or <config name>/<split>.jsonl, or "
            "tofu_path=authors or people"
        ) from None
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        if match := UNKNOWN_SPLIT.search(str(error)):
            splits = [name.strip("'\" ") for name in match[2].split(",")]
            raise AbsentData(_explain_no_split(path, match[1], splits)) from None
        if "BuilderConfig" in str(error) or "Unknown split" in str(error):
            raise AbsentData(f"{path}: {get_first_line(error)}") from None
        raise UserError(f"{path}: {_explain_failure(error)}") from None
    if isinstance(loaded, dict):
        splits = list(loaded)
        names = ", ".join(splits)
        raise UserError(
            f"{path} has several splits ({names}): name one, as in "
            f"{path}:{splits[0]} (hf_args.split of a dataset)"
        )
    return loaded


def _load_from_disk(path: str, split: str | None) -> "datasets.Dataset | datasets.DatasetDict":
    """Load a folder that `datasets` saved, or one split of it."""
    refuse_damaged_set(Path(path))
    loaded = datasets.load_from_disk(path)
    if not split or not isinstance(loaded, dict):
        return loaded
    if split not in loaded:
        raise AbsentData(_explain_no_split(path, split, loaded))
    return loaded[split]


def _explain_no_split(path: str, split: str, splits: Iterable[str]) -> str:
    """Say that a set has no such split, which ones it has, and which may be meant."""
    names = list(splits)
    hint = ""
    if guess := find_nearest(split, names):
        hint = f"; did you mean {path}:{guess}?"
    elif names:
        hint = f"; name one, as in {path}:{names[0]}"
    there_are = ", ".join(names)
    return f"{path}: no split {split!r}; its splits: {there_are}{hint}"


def _explain_failure(error: Exception) -> str:
    """Put what `datasets` says on one line, with its cause where rows could not be read."""
    message = " ".join(str(error).split())
    if error.__cause__ is None:
        return message
    cause = get_first_line(error.__cause__)
    return f"{message}: {cause}"
