"""Objects that are given in Python, as words of the command line.

Rows and models in memory are written to files first, under a name that is made of what is in them:
the same rows are the same file. So a run's record (its configuration, its command, its
fingerprints) is true, it goes on after an interruption, and it can be made again from the command
line.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

from unteach import atomic, registry
from unteach.atomic import atomic_write_folder
from unteach.config.overrides import quote, sort_overrides, spell_value
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
READ_BACK = "read_back"
"""The key under which a spelled value is read again."""


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
        lines.append(_write_row(row, f"{name}[{index}]") + "\n")
    if not lines:
        raise UserError(f"{name}: holds no rows")
    text = "".join(lines)
    digest = hashlib.sha256(text.encode()).hexdigest()
    file = ROWS_DIR / f"{digest[:LENGTH]}.jsonl"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, text)
    return str(file)


def _list_rows(rows: object, name: str) -> Iterable[Row]:
    """List the rows of a table, or of a sequence of mappings."""
    if isinstance(rows, DataFrame):
        columns = list(rows.columns)
        for column in columns:
            if columns.count(column) > 1:
                raise UserError(f"{name}: has two columns of the name {column!r}; rename one")
        return rows.to_dict("records")
    listed: object = rows
    if isinstance(rows, ArrowTable):
        listed = rows.to_pylist()
    elif isinstance(rows, HubDataset):
        listed = rows.to_list()
    if isinstance(listed, Sequence) and all(isinstance(row, Mapping) for row in listed):
        return listed
    raise UserError(
        f"{name}: takes a file's path, a list of mappings, a pandas or an Arrow table; got "
        f"{type(rows).__name__}"
    )


def _write_row(row: Row, place: str) -> str:
    """Write a row as a line of JSON; what is missing in a table (NaN) is null."""
    try:
        text = json.dumps(_to_plain(row, place), ensure_ascii=False)
        text.encode()
    except RecursionError:
        raise UserError(f"{place}: is nested too deeply, or holds itself") from None
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: holds what is no character ({error.reason})") from None

    def refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{place}: has the key {key!r} twice, as text and otherwise")
        return dict(pairs)

    # Read again, for JSON's keys are all text, and its numbers finite.
    plain = json.loads(text, parse_constant=lambda _: None, object_pairs_hook=refuse_repeated)
    return json.dumps(plain, ensure_ascii=False)


def _to_plain(value: object, place: str) -> Any:
    """Give a value as text, numbers, lists and mappings alone."""
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _to_plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise UserError(
        f"{place}: is a {type(value).__name__}, which no file can hold; give text, numbers, lists "
        "and mappings, or the path of a file"
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
        if not hasattr(tokenizer, "get_vocab"):
            raise UserError(
                "model: takes a model with its tokenizer, (model, tokenizer); the second is a "
                f"{type(tokenizer).__name__}"
            )
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


def spell_run(
    model: "Model | None",
    method: "str | Method | None",
    suites: str | Sequence[str] | None,
    task_name: str | None,
    seed: int | None,
    settings: Mapping[str, object] | None,
) -> list[str]:
    """Spell what every run may be told."""
    words = []
    if model is not None:
        words.append(f"model={spell_value(place_model(model))}")
    if method is not None:
        words += spell_method(method)
    if suites is not None:
        words.append(f"eval={_spell_suites(suites)}")
    if task_name is not None:
        if not isinstance(task_name, str):
            raise UserError(f"task_name: must be text, got a {type(task_name).__name__}")
        words.append(f"task_name={quote(task_name)}")
    if seed is not None:
        words.append(f"seed={spell_value(seed)}")
    return words + spell_settings({} if settings is None else settings)


def spell_rows(rows_by_key: Mapping[str, Rows | None]) -> list[str]:
    """Spell where rows are; those in memory are written to files."""
    words = []
    for key, rows in rows_by_key.items():
        if rows is not None:
            name = key.removeprefix("data.").removesuffix("_file")
            words.append(f"{key}={spell_value(place_rows(rows, name))}")
    return words


def _spell_suites(suites: str | Sequence[str]) -> str:
    """Spell the names of suites as the value of `eval`."""
    names = [suites] if isinstance(suites, str) else list(suites)
    for name in names:
        if not isinstance(name, str) or not name:
            raise UserError(f"suites: takes names of suites, got {name!r}; [] measures nothing")
    return spell_value(names) if names else "null"


def spell_method(method: "str | Method") -> list[str]:
    """Spell a method as words: its name, and each of its fields.

    Raises:
        UserError: where it is no registered method.
    """
    if isinstance(method, str):
        return [f"trainer={spell_value(method)}"]
    if isinstance(method, type):
        raise UserError(f"method: give an instance, {method.__name__}(), or the name as text")
    entry = registry.method.find_entry_of(type(method))
    if entry is None:
        raise UserError(
            f"method: {type(method).__name__} is registered under no name; take a name or an "
            "instance of one of `unteach list methods`, or register it with @method"
        )
    words = [f"trainer={entry.name}"]
    for field in dataclasses.fields(cast(Any, method)):
        if field.init:
            value = getattr(method, field.name)
            words.append(_spell_setting(f"trainer.method_args.{field.name}", value))
    return words


def spell_settings(settings: Mapping[str, object]) -> list[str]:
    """Spell keys and values as words.

    Raises:
        UserError: where a value would not arrive as it is given.
    """
    if not isinstance(settings, Mapping):
        raise UserError(f"settings: takes a mapping of keys, got a {type(settings).__name__}")
    return [_spell_setting(key, value) for key, value in settings.items()]


def _spell_setting(key: str, value: object) -> str:
    """Spell a key and its value as a word, and see that it is read as it was given."""
    plain = _to_plain(value, key)
    spelled = spell_value(plain)
    arrived = sort_overrides([f"{READ_BACK}={spelled}"]).values
    if repr(arrived) != repr([(READ_BACK, plain)]):
        raise UserError(
            f"{key}: {value!r} cannot be written as a word of the command line; write it into a "
            "run's YAML file, and give that file as the first argument"
        )
    return f"{key}={spelled}"
