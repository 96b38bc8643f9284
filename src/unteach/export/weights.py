"""Weights as a training left them, in whatever files: one mapping of names to tensors, on the CPU.

Read are safetensors, pickled state dicts (`pytorch_model.bin`, whole or sharded, FSDP's full one),
FSDP's sharded checkpoints (torch.distributed.checkpoint) and DeepSpeed's. Nothing is unpickled that
is not a tensor or a name known to be harmless: a file that holds anything else is refused, because
reading it could run code.
"""

import contextlib
import enum
import io
import pickle
import pkgutil
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import json_files
from unteach.errors import UserError, explain_unreadable, missing_extra, refuse_path
from unteach.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.bin",
    "pytorch_model_fsdp.bin",
)
"""Files that hold all weights, or name the shards that do, the likeliest first."""
DEEPSPEED, DCP = "latest", ".metadata"
"""What marks a checkpoint of DeepSpeed's, and one of torch.distributed.checkpoint's."""
WRAPPERS = r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""What torch.compile, FSDP 1 and activation checkpointing put into the names of weights."""
INDEX = (
    r"torch\.(Size|device|bool|strided|(b?float|u?int|complex)\d+|float8_\w+|serialization\._get_layout)",
    r"torch\.distributed\.checkpoint\.metadata\.\w+",
    r"torch\.distributed\.checkpoint\.filesystem\._StorageInfo",
    r"collections\.(OrderedDict|defaultdict)",
    r"pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path",
)
"""Names, as regular expressions, that the pickled index of a sharded checkpoint needs; all of them
only hold values."""
OF_DEEPSPEED = (
    r"deepspeed\.runtime\.zero\.config\.ZeroStageEnum",
    r"deepspeed\.runtime\.fp16\.loss_scaler\.(Dynamic)?LossScaler",
    r"deepspeed\.utils\.tensor_fragment\.(fragment_address|tensor_fragment)",
)
"""The same of DeepSpeed's checkpoints, beside what torch takes for weights anyway."""
GETATTR = "builtins.getattr"
"""What Python up to 3.11.3 pickles a member of an enumeration with."""


def find(place: Path) -> Path | None:
    """The file or folder in `place` that holds its weights; None where there are none."""
    if place.is_file():
        return place
    for name in WHOLE:
        if (place / name).exists():
            return place / name
    sharded = [place, *sorted(p for p in place.glob("pytorch_model*_0") if p.is_dir())]
    if found := next((folder for folder in sharded if (folder / DCP).exists()), None):
        return found
    return place if (place / DEEPSPEED).exists() else None


def read(place: Path) -> "dict[str, Tensor]":
    """Every weight of a checkpoint by the name that it has in the model, without what wrapped the
    model."""
    found = find(place)
    if found is None:
        raise UserError(
            f"{place}: no weights are in it; these would be: {', '.join(WHOLE)}, an FSDP folder "
            f"with {DCP}, or DeepSpeed's with a file {DEEPSPEED}"
        )
    weights = _folder(found) if found.is_dir() else _file(found)
    return {plain_name(name): tensor for name, tensor in weights.items()}


def plain_name(name: str) -> str:
    return re.sub(WRAPPERS, "", name.removeprefix("module."))


def _file(file: Path) -> "dict[str, Tensor]":
    if file.name.endswith(".index.json"):
        index = json_files.read_json(file, "the index of the weights")
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not all(
            isinstance(shard, str) for shard in shards.values()
        ):
            raise UserError(f"{file}: holds no weight_map, which says in which file each weight is")
        for shard in shards.values():
            refuse_path(shard, file)
        absent = sorted({shard for shard in shards.values() if not (file.parent / shard).exists()})
        if absent:
            raise UserError(f"{file} names shards that are not there: {', '.join(absent)}")
        return {
            name: tensor
            for shard in sorted({*shards.values()})
            for name, tensor in _file(file.parent / shard).items()
        }
    if file.suffix == ".safetensors":
        return _safetensors(file)
    return _tensors(_unpickled(file), file)


def _safetensors(file: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(
            f"{file} cannot be read ({error}); it is damaged or was not finished"
        ) from None


def _unpickled(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        said = next(
            (line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line),
            "",
        )
        raise UserError(
            f"{file} holds more than weights ({said.strip() or 'unreadable'}), and reading that "
            "could run code. Save its state_dict alone, or convert it to safetensors where it was "
            "made"
        ) from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({str(error).splitlines()[0]}); it is damaged"
        ) from None


def _tensors(value: object, file: Path) -> "dict[str, Tensor]":
    """The state dict in what a file held; some trainers put it under `model`, `state_dict` or
    `module`."""
    for name in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            value = value[name]
    tensors = (
        {k: v for k, v in value.items() if isinstance(v, torch.Tensor)}
        if isinstance(value, dict)
        else {}
    )
    if not tensors:
        raise UserError(f"{file} holds no state dict: it should map names to tensors")
    return tensors


def _folder(folder: Path) -> "dict[str, Tensor]":
    return _sharded(folder) if (folder / DCP).exists() else _deepspeed(folder)


def _member(of: Any, name: str) -> Any:
    """In place of getattr: a member of an enumeration, and nothing else."""
    if not (isinstance(of, type) and issubclass(of, enum.Enum) and name in of.__members__):
        raise pickle.UnpicklingError(f"{GETATTR} of {of!r}")
    return of[name]


class _Index(pickle.Unpickler):
    """Unpickles nothing but names of INDEX."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" == GETATTR:
            return _member
        if not _among(INDEX, f"{module}.{name}"):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _among(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _sharded(folder: Path) -> "dict[str, Tensor]":
    """FSDP's sharded checkpoint put together again; its index is a pickle, and read as little else
    may be."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        with (folder / DCP).open("rb") as file:
            told = _Index(file).load()
            names = {str(stored.relative_path) for stored in told.storage_data.values()}
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{folder / DCP} names {error}, which an index of weights has no use for; not read"
        ) from None
    except (AttributeError, TypeError, ValueError, EOFError, LookupError, OverflowError) as error:
        raise UserError(
            f"{folder / DCP}: no whole index of weights ({explain_unreadable(error)})"
        ) from None
    for name in names:
        refuse_path(name, folder / DCP)
    entries = {
        name: kind
        for name, kind in told.state_dict_metadata.items()
        if isinstance(kind, TensorStorageMetadata)
    }
    weights = {
        name: torch.empty(kind.size, dtype=kind.properties.dtype) for name, kind in entries.items()
    }
    if absent := {name for name in names if not (folder / name).exists()}:
        raise UserError(f"{folder}: shards are missing: {', '.join(sorted(absent))}")
    try:
        checkpoint.load(weights, storage_reader=checkpoint.FileSystemReader(folder), no_dist=True)
    except (checkpoint.CheckpointException, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder}: its shards cannot be read ({explain_unreadable(error)})"
        ) from None
    # accelerate's: the model is under the name `model`
    nested = folder.name.startswith("pytorch_model")
    return {
        name.removeprefix("model.") if nested else name: tensor for name, tensor in weights.items()
    }


def _members(file: Path, known: list[str]) -> bool:
    """Whether a file of DeepSpeed's calls getattr for members of enumerations alone; its tensors
    are not read."""
    try:
        safe = [*map(pkgutil.resolve_name, known), (_member, GETATTR)]
        with torch.serialization.safe_globals(safe):
            torch.load(file, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, ImportError, AttributeError):
        return False
    return True


def _deepspeed(folder: Path) -> "dict[str, Tensor]":
    """fp32 weights out of DeepSpeed's checkpoint, stage 1 to 3, by its own code, after a look at
    what it unpickles."""
    named = (folder / DEEPSPEED).read_text(encoding="utf-8", errors="replace").strip()
    refuse_path(named, folder / DEEPSPEED)
    tag = folder / named
    files = sorted(tag.glob("*_states.pt"))
    if not files:
        raise UserError(
            f"{folder / DEEPSPEED} names {tag.name}, and there are no *_states.pt in {tag}"
        )
    for file in files:
        globals_named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        known = [name for name in globals_named if _among(OF_DEEPSPEED, name)]
        if strange := [
            name
            for name in globals_named
            if name not in known and not (name == GETATTR and _members(file, known))
        ]:
            raise UserError(
                f"{file} names {', '.join(strange)}, which weights have no use for; not read"
            )
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError:
        raise UserError(missing_extra("deepspeed", "reading DeepSpeed's checkpoints")) from None
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
                str(folder), tag.name
            )
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    return weights
