"""Sets of rows that the library `datasets` loads: from the hub, or from a folder that it saved."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unteach.config.secrets import drop_secrets
from unteach.data.io.arrow_files import refuse_damaged_set
from unteach.errors import AbsentData, UserError, first_line, nearest
from unteach.lazy import datasets


def is_saved_set(path: Path) -> bool:
    """Whether `datasets` saved one set of rows into this folder."""
    return (path / "state.json").exists() and (path / "dataset_info.json").exists()


SEVERAL_SPLITS = "dataset_dict.json"
"""What `datasets` writes into a folder into which it saved several splits."""


def load_set(hf_args: dict[str, Any]) -> Any:
    """What `datasets.load_dataset`, or load_from_disk for a folder that save_to_disk made, gives
    for these arguments.

    Raises AbsentData if the place exists and the configuration or split does not, UserError if the
    place does not.
    """
    path, split = str(hf_args["path"]), hf_args.get("split")
    try:
        if set(hf_args) <= {"path", "split"} and (
            is_saved_set(Path(path)) or (Path(path) / SEVERAL_SPLITS).exists()
        ):
            refuse_damaged_set(Path(path))
            loaded = datasets.load_from_disk(path)
            if split and isinstance(loaded, dict):
                if split not in loaded:
                    raise AbsentData(_no_split(path, split, loaded))
                loaded = loaded[split]
        else:
            loaded = datasets.load_dataset(**hf_args)
    except UserError:
        raise
    except (OSError, TypeError) as error:
        raise UserError(
            f"cannot load the rows {drop_secrets(hf_args, of_hub=True)}: {first_line(error)}\n"
            "  Without the network, point to local files: data=files data.train_file=FILE; or "
            "tofu_path, muse_path, "
            "wmdp_path=FOLDER of <config name>.jsonl or <config name>/<split>.jsonl, or "
            "tofu_path=authors"
        ) from None
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        if unknown := re.search(r'Unknown split "(.*)"\. Should be one of \[(.*)\]', str(error)):
            splits = [name.strip("'\" ") for name in unknown[2].split(",")]
            raise AbsentData(_no_split(path, unknown[1], splits)) from None
        if "BuilderConfig" in str(error) or "Unknown split" in str(error):
            raise AbsentData(f"{hf_args['path']}: {first_line(error)}") from None
        raise UserError(f"{hf_args['path']}: {_explain(error)}") from None
    if isinstance(loaded, dict):
        raise UserError(
            f"{path} has several splits ({', '.join(loaded)}): name one, as in "
            f"{path}:{next(iter(loaded))} (hf_args.split of a dataset)"
        )
    return loaded


def _no_split(path: str, split: str, there: Iterable[str]) -> str:
    """What is said of a split that is not there."""
    there = list(there)
    hint = ""
    if guess := nearest(split, there):
        hint = f"; did you mean {path}:{guess}?"
    elif there:
        hint = f"; name one, as in {path}:{there[0]}"
    return f"{path}: no split {split!r}; its splits: {', '.join(there)}{hint}"


def _explain(error: Exception) -> str:
    """What `datasets` says on one line; of rows that it could not read, what stopped it too."""
    told = " ".join(str(error).split())
    return f"{told}: {first_line(error.__cause__)}" if error.__cause__ else told
