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
from unteach.config import audits, groups
from unteach.config.files import get_format, name_and_split
from unteach.config.overrides import Overrides
from unteach.config.references import is_local
from unteach.config.schema import MODEL_KEY, PATH
from unteach.errors import describe_missing_extra, find_nearest

NEAR = 0.75
"""How like a name must be to be offered: two of one format are alike by their endings already."""
OWN = ("train", "unlearn", "eval", "audit", "infer")
"""The primary configurations of the package; a user's own may name a model and rows itself."""


def find_unnamed(config_name: str, words: Overrides) -> Iterator[str]:
    """A sentence for a model, rows or a suite that nobody named: a benchmark's are taken where it
    is."""
    if config_name not in OWN:
        return
    chosen = {}
    for word in words.groups:
        group, _, name = word.partition("=")
        chosen[group.lstrip("+")] = name
    experiment = chosen.get("experiment")
    files = chosen.get("data") == "files"
    shipped = experiment in groups.list_options("experiment")
    keys = words.keys()
    names_model = "model" in chosen or MODEL_KEY in keys
    brings_model = experiment and not (files and shipped)
    if not names_model and not brings_model:
        yield (
            "model: no model was named: model=PATH (a model's or a run's folder), model=org/name "
            "(of the hub), or a configuration (`unteach list models`)"
        )
    if experiment or config_name == "infer":
        return
    streams = [key for key in chosen if key.startswith("data/datasets@")]
    trains = config_name in ("train", "unlearn")
    if trains and not streams and not words.chooses("data"):
        rows = "data=FILE.csv"
        stream = "train"
        if config_name == "unlearn":
            rows = "data=FILE.csv with a column forget, or forget=FILE and retain=FILE"
            stream = "forget"
        yield (
            f"data: no rows were named: {rows}, data.{stream}=DATASET (`unteach list datasets`), "
            "or experiment=NAME (`unteach list experiments`)"
        )
    names_suite = words.eval_off or files or words.chooses("eval")
    if config_name == "eval" and not names_suite:
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
    model = plain.get("model")
    if isinstance(model, dict) and not _asks_server(plain):
        for section in ("model_args", "tokenizer_args"):
            args = model.get(section)
            path = args.get(PATH) if isinstance(args, dict) else None
            if path in coming or not isinstance(path, str) or not is_local(path):
                continue
            if not os.path.exists(os.path.expanduser(path)):
                key = f"model.{section}.{PATH}"
                label = "model" if key in placed else key
                yield f"{label}={path}: there is no such folder{_suggest_beside(path)}"

    files = {}
    data = plain.get("data")
    if isinstance(data, dict):
        files = {f"data.{key}": source for key, source in data.items()}
    files["input_file"] = plain.get("input_file")
    for key, source in files.items():
        if not key.endswith("_file") or not isinstance(source, str):
            continue
        name, _ = name_and_split(source)
        is_path = is_local(source) or get_format(name) != ""
        if is_path and not _is_there(source):
            label = "data" if key in placed else key
            yield f"{label}={source}: there is no such file{_suggest_beside(source)}"


def _is_there(source: str) -> bool:
    """Whether a file or folder is there, or the folder of a set whose split is named."""
    if os.path.exists(os.path.expanduser(source)):
        return True
    name, split = name_and_split(source)
    return split is not None and os.path.isdir(os.path.expanduser(name))


def _asks_server(plain: dict[str, Any]) -> bool:
    """Whether the model is a name that a server knows, and no place here."""
    name = plain.get("backend")
    if not isinstance(name, str) or name not in registry.backend:
        return False
    backend = registry.backend.get(name)
    return not getattr(backend, "LOCAL", True)


def _suggest_beside(path: str) -> str:
    """Say what to look at instead: the nearest name in the folder, or that it is not there."""
    parent = Path(path).expanduser().parent
    if not os.path.isdir(parent):
        return f", and no folder {parent}"
    names = [other.name for other in parent.iterdir()]
    guess = find_nearest(Path(path).name, names, NEAR)
    if guess is None:
        return ""
    return f"; did you mean {Path(path).with_name(guess)}?"


def find_not_installed(plain: dict[str, Any]) -> Iterator[str]:
    """A sentence where weights are to be quantised and the package that does it is not there."""
    model = plain.get("model")
    args = model.get("model_args") if isinstance(model, dict) else None
    quantization = args.get("quantization_config") if isinstance(args, dict) else None
    key = None
    if plain.get("quantization"):
        key = "quantization"
    elif isinstance(quantization, dict):
        flags = [quantization.get("load_in_4bit"), quantization.get("load_in_8bit")]
        if any(flags):
            key = "model.model_args.quantization_config"
    # Other backends quantise in ways of their own, or not at all, and say so.
    if key is None or plain.get("backend") not in (None, audits.LOCAL):
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        missing = describe_missing_extra("quant", "loading a model in 4 or 8 bits")
        yield f"{key}: {missing}"


def find_from_scratch(plain: dict[str, Any]) -> Iterator[str]:
    """A model of random weights has learned nothing that a method could make it forget."""
    model = plain.get("model")
    if not isinstance(model, dict) or model.get("model_handler") != "scratch":
        return
    data = plain.get("data")
    forgets = isinstance(data, dict) and (data.get("forget") or data.get("forget_file"))
    mode = plain.get("mode")
    if mode != "unlearn" and not (mode == "train" and forgets):
        return
    args = model.get("model_args")
    if isinstance(args, dict) and not args.get(PATH):
        yield (
            f"{MODEL_KEY}: is not set, so random weights would be unlearned: name the model that "
            "knows what is to be forgotten, model=PATH (a run's folder, saves/train/…)"
        )
