"""Objects that are given in Python, as words of the command line.

Rows and models in memory are written to files first, under a name that is made of what is in them:
the same rows are the same file. So a run's record (its configuration, its command, its
fingerprints) is true, it goes on after an interruption, and it can be made again from the command
line.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

from unteach import atomic, registry
from unteach.atomic import atomic_write_folder
from unteach.config.overrides import spell_value
from unteach.errors import UserError
from unteach.lazy import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from unteach.methods.base import Method
    from unteach.models.loading import LoadedModel

    Model: TypeAlias = (
        str | os.PathLike[str] | tuple[PreTrainedModel, PreTrainedTokenizerBase] | LoadedModel
    )
    """A model: a folder, a run, a hub id or a configuration's name; or in memory, with its
    tokenizer."""

ROWS_DIR = Path("saves/rows")
"""Where rows that were given in memory are kept."""
MODELS_DIR = Path("saves/models")
"""Where models that were given in memory are kept."""
LENGTH = 16
"""Digits of a fingerprint in a name."""


@runtime_checkable
class DataFrame(Protocol):
    """A pandas DataFrame."""

    columns: Any

    def to_dict(self, orient: str) -> list[dict[Any, Any]]: ...


@runtime_checkable
class ArrowTable(Protocol):
    """An Arrow table."""

    def to_pylist(self) -> list[dict[str, Any]]: ...


@runtime_checkable
class HubDataset(Protocol):
    """A dataset of the library `datasets`."""

    def to_list(self) -> list[dict[str, Any]]: ...


Row = Mapping[str, Any]
Rows = str | os.PathLike[str] | Sequence[Row] | DataFrame | ArrowTable | HubDataset
"""Rows: a file, a folder or a hub id; or in memory: a list of mappings, a table."""


def place_rows(rows: Rows, name: str) -> str:
    """Give the path of rows; those in memory are written to a file first.

    Args:
        rows: where rows are, or rows.
        name: the argument's, for messages.

    Raises:
        UserError: where rows hold what no file of rows can.
    """
    if isinstance(rows, str | os.PathLike):
        return os.fspath(rows)
    lines = []
    for index, row in enumerate(_list_rows(rows, name)):
        plain = {
            str(key): _to_plain(value, f"{name}[{index}][{key!r}]") for key, value in row.items()
        }
        lines.append(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
    if not lines:
        raise UserError(f"{name}: holds no rows")
    text = "".join(lines)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    file = ROWS_DIR / f"{digest[:LENGTH]}.jsonl"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, text)
    return str(file)


def _list_rows(rows: object, name: str) -> Iterable[Row]:
    if isinstance(rows, DataFrame):
        return rows.to_dict("records")
    if isinstance(rows, ArrowTable):
        return rows.to_pylist()
    if isinstance(rows, HubDataset):
        return rows.to_list()
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return rows
    raise UserError(
        f"{name}: takes a file's path, a list of mappings, a pandas or an Arrow table; got "
        f"{type(rows).__name__}"
    )


def _to_plain(value: object, place: str) -> Any:
    """Give a cell as a file of rows has it; what is missing in a table is null."""
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise UserError(
        f"{place}: is a {type(value).__name__}, which no file of rows can hold; give text, "
        "numbers, lists and mappings, or rows as a file"
    )


def place_model(model: "Model") -> str:
    """Give the path of a model; one in memory is saved first, as it is now.

    Raises:
        UserError: where it cannot be saved as a plain folder.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    if isinstance(model, tuple) and len(model) == 2:
        network, tokenizer = model
        return str(_save_model(network, tokenizer, None))
    if hasattr(model, "model") and hasattr(model, "tokenizer"):
        return str(_save_model(model.model, model.tokenizer, getattr(model, "template", None)))
    raise UserError(
        "model: takes a path, a hub id, a run, what unteach.load gives, or a model and its "
        f"tokenizer, (model, tokenizer); got {type(model).__name__}"
    )


def _save_model(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", template: Any
) -> Path:
    _refuse_unsavable(model)
    digest = hashlib.sha256(model.config.to_json_string().encode())
    # All that is saved beside the weights: another tokenizer or generation config is another model.
    if getattr(model, "generation_config", None) is not None:
        digest.update(model.generation_config.to_json_string().encode())
    digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        digest.update(backend.to_str().encode())
    digest.update(repr(tokenizer.special_tokens_map).encode())
    digest.update(repr((tokenizer.padding_side, tokenizer.model_max_length)).encode())
    digest.update(repr((tokenizer.chat_template, getattr(template, "args", None))).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    name = f"{type(model).__name__}-{digest.hexdigest()[:LENGTH]}"
    folder = MODELS_DIR / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if template is not None:
            template.save(temporary)
    return folder


def _refuse_unsavable(model: Any) -> None:
    """Raise UserError where a model in memory is no plain model."""
    way_out = "save it by its own save_pretrained(FOLDER), and give model=FOLDER"
    if hasattr(model, "peft_config"):
        raise UserError(f"model: has an adapter on it; {way_out}")
    if getattr(model, "hf_quantizer", None) is not None:
        raise UserError(
            "model: its weights are quantised; give the model's path, and say how it is quantised "
            "by model.model_args.quantization_config"
        )
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise UserError(f"model: a {type(model).__name__} is no model of transformers; {way_out}")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UserError("model: some of its weights are not in memory; give the model's path")


def spell_method(method: "str | Method") -> list[str]:
    """Spell a method as words: its name, and each of its fields.

    Raises:
        UserError: where it is no registered method.
    """
    if isinstance(method, str):
        return [f"trainer={method}"]
    for entry in registry.method.entries():
        if entry.target is type(method):
            words = [f"trainer={entry.name}"]
            for field in dataclasses.fields(cast(Any, method)):
                if field.init:
                    value = _to_plain(getattr(method, field.name), f"method.{field.name}")
                    words.append(f"trainer.method_args.{field.name}={spell_value(value)}")
            return words
    raise UserError(
        f"method: {type(method).__name__} is registered under no name; take a name or an instance "
        "of one of `unteach list methods`, or register it with @method"
    )


def spell_settings(settings: Mapping[str, object]) -> list[str]:
    """Spell keys and values as words."""
    return [f"{key}={spell_value(value)}" for key, value in settings.items()]
