"""What would stop a run as soon as it started: nothing named to run on, files or packages that are
not there, nothing to forget.

Looked at with all other mistakes of a command, before torch is imported. A study composes its runs
before what they start from is there, and says which folders will come.
"""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unteach import registry
from unteach.config import groups
from unteach.config.files import TABLES, name_and_split
from unteach.config.overrides import Overrides
from unteach.config.references import is_local
from unteach.config.schema import MODEL_KEY, PATH
from unteach.errors import describe_missing_extra, find_nearest

NEAR = 0.75
"""How like a name must be to be offered: two of one format are alike by their endings already."""
OWN = ("train", "unlearn", "eval", "infer")
"""The primary configurations of the package; a user's own may name a model and rows itself."""


def find_unnamed(config_name: str, words: Overrides) -> Iterator[str]:
    """A sentence for a model, rows or a suite that nobody named: a benchmark's are taken where it
    is."""
    if config_name not in OWN:
        return
    chosen = {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in words.groups}
    experiment = chosen.get("experiment")
    files = chosen.get("data") == "files"
    shipped = experiment in groups.list_options("experiment")
    keys = words.keys()
    if not ("model" in chosen or MODEL_KEY in keys) and (not experiment or (files and shipped)):
        yield (
            "model: no model was named: model=PATH (a model's or a run's folder), model=org/name "
            "(of the hub), or a configuration (`unteach list models`)"
        )
    if experiment or config_name == "infer":
        return
    streams = [key for key in chosen if key.startswith("data/datasets@")]
    if config_name in ("train", "unlearn") and not (streams or words.chooses("data")):
        two = "data=FILE.csv with a column forget, or forget=FILE and retain=FILE"
        unlearns = config_name == "unlearn"
        rows, stream = (two, "forget") if unlearns else ("data=FILE.csv", "train")
        yield (
            f"data: no rows were named: {rows}, data.{stream}=DATASET (`unteach list datasets`), "
            "or experiment=NAME (`unteach list experiments`)"
        )
    if config_name == "eval" and not (words.eval_off or files or words.chooses("eval")):
        yield (
            "eval: no suite was named: eval=NAME (`unteach list suites`), experiment=eval/…, or "
            "data=FILE.csv for rows of your own"
        )


def find_absent(
    plain: dict[str, Any],
    placed: dict[str, str],
    coming: frozenset[str] = frozenset(),
) -> Iterator[str]:
    """A sentence for each model folder and file that is named by its path and is not there.

    Args:
        plain: the resolved tree.
        placed: the long keys that short words said, which are then called by those.
        coming: model folders that other runs will have made by then.
    """
    model, data = plain.get("model"), plain.get("data")
    if isinstance(model, dict) and not _asks_server(plain):
        for section in ("model_args", "tokenizer_args"):
            args = model.get(section)
            path = args.get(PATH) if isinstance(args, dict) else None
            if path in coming:
                continue
            if (
                isinstance(path, str)
                and is_local(path)
                and not os.path.exists(os.path.expanduser(path))
            ):
                key = f"model.{section}.{PATH}"
                yield (
                    f"{'model' if key in placed else key}={path}: there is no such "
                    f"folder{_beside(path)}"
                )
    files = (
        {f"data.{key}": source for key, source in data.items()} if isinstance(data, dict) else {}
    )
    files["input_file"] = plain.get("input_file")
    for key, source in files.items():
        if not (key.endswith("_file") and isinstance(source, str)):
            continue
        local = is_local(source) or name_and_split(source)[0].lower().endswith(TABLES)
        if local and not _is_there(source):
            yield (
                f"{'data' if key in placed else key}={source}: there is no such "
                f"file{_beside(source)}"
            )


def _is_there(source: str) -> bool:
    """Whether a file or folder is there, or the folder of a set whose split is named."""
    name, split = name_and_split(source)
    is_split_of_folder = split is not None and os.path.isdir(os.path.expanduser(name))
    return is_split_of_folder or os.path.exists(os.path.expanduser(source))


def _asks_server(plain: dict[str, Any]) -> bool:
    """Whether the model is a name that a server knows, and no place here."""
    name = plain.get("backend")
    return (
        isinstance(name, str)
        and name in registry.backend
        and not getattr(registry.backend.get(name), "LOCAL", True)
    )


def _beside(path: str) -> str:
    """What to look at instead: the nearest name in the folder, or the folder that is not there."""
    parent = Path(path).expanduser().parent
    if not os.path.isdir(parent):
        return f", and no folder {parent}"
    guess = find_nearest(Path(path).name, [other.name for other in parent.iterdir()], NEAR)
    return f"; did you mean {Path(path).with_name(guess)}?" if guess else ""


def find_not_installed(plain: dict[str, Any]) -> Iterator[str]:
    """A sentence where weights are to be quantised and the package that does it is not there."""
    model = plain.get("model")
    args = model.get("model_args") if isinstance(model, dict) else None
    asked = args.get("quantization_config") if isinstance(args, dict) else None
    by_bits = isinstance(asked, dict) and any(asked.get(f"load_in_{bits}bit") for bits in (4, 8))
    key = (
        "quantization"
        if plain.get("quantization")
        else "model.model_args.quantization_config"
        if by_bits
        else None
    )
    if key and not _asks_server(plain) and importlib.util.find_spec("bitsandbytes") is None:
        yield f"{key}: {describe_missing_extra('quant', 'loading a model in 4 or 8 bits')}"


def find_from_scratch(plain: dict[str, Any]) -> Iterator[str]:
    """A model of random weights has learned nothing that a method could make it forget."""
    model, data = plain.get("model"), plain.get("data")
    forgets = isinstance(data, dict) and (data.get("forget") or data.get("forget_file"))
    unlearns = plain.get("mode") == "unlearn" or (plain.get("mode") == "train" and forgets)
    if not unlearns or not isinstance(model, dict) or model.get("model_handler") != "scratch":
        return
    args = model.get("model_args")
    if isinstance(args, dict) and not args.get(PATH):
        yield (
            f"{MODEL_KEY}: is not set, so random weights would be unlearned: name the model that "
            "knows what is to be forgotten, model=PATH (a run's folder, saves/train/…)"
        )
