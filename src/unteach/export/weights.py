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

from safetensors import SafetensorError

from unteach import json_files
from unteach.errors import UserError, describe_missing_extra, explain_unreadable, refuse_path
from unteach.lazy import safetensors_torch, torch

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
DEEPSPEED = "latest"
"""What marks a checkpoint of DeepSpeed's."""
DCP = ".metadata"
"""What marks one of torch.distributed.checkpoint's."""
WRAPPERS = r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""What torch.compile, FSDP 1 and activation checkpointing put into the names of weights."""
INDEX_NAMES = (
    r"torch\.(Size|device|bool|strided|serialization\._get_layout)",
    r"torch\.((b?float|u?int|complex)\d+|float8_\w+)",
    r"torch\.distributed\.checkpoint\.metadata\.\w+",
    r"torch\.distributed\.checkpoint\.filesystem\._StorageInfo",
    r"collections\.(OrderedDict|defaultdict)",
    r"pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path",
)
"""Names, as regular expressions, that the pickled index of a sharded checkpoint needs; all of them
only hold values."""
DEEPSPEED_NAMES = (
    r"deepspeed\.runtime\.zero\.config\.ZeroStageEnum",
    r"deepspeed\.runtime\.fp16\.loss_scaler\.(Dynamic)?LossScaler",
    r"deepspeed\.utils\.tensor_fragment\.(fragment_address|tensor_fragment)",
)
"""The same of DeepSpeed's checkpoints, beside what torch takes for weights anyway."""
GETATTR = "builtins.getattr"
"""What Python up to 3.11.3 pickles a member of an enumeration with."""


def find(path: Path) -> Path | None:
    """Find the file or folder in `path` that holds its weights; None where there are none."""
    if path.is_file():
        return path
    for name in WHOLE:
        if (path / name).exists():
            return path / name
    for folder in [path, *sorted(path.glob("pytorch_model*_0"))]:
        if folder.is_dir() and (folder / DCP).exists():
            return folder
    return path if (path / DEEPSPEED).exists() else None


def read(path: Path) -> "dict[str, Tensor]":
    """Read every weight of a checkpoint by the name that it has in the model, without what wrapped
    the model."""
    location = find(path)
    if location is None:
        raise UserError(
            f"{path}: no weights are in it; these would be: {', '.join(WHOLE)}, an FSDP folder "
            f"with {DCP}, or DeepSpeed's with a file {DEEPSPEED}"
        )
    if not location.is_dir():
        weights = _read_file(location)
    elif (location / DCP).exists():
        weights = _read_sharded(location)
    else:
        weights = _read_deepspeed(location)
    return {_unwrap_name(name): tensor for name, tensor in weights.items()}


def _unwrap_name(name: str) -> str:
    return re.sub(WRAPPERS, "", name.removeprefix("module."))


def _read_file(file: Path) -> "dict[str, Tensor]":
    """Read a file of weights, or the shards that an index names."""
    if file.name.endswith(".index.json"):
        weights = {}
        for shard in _list_shards(file):
            weights.update(_read_file(shard))
        return weights
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    return _find_state_dict(_unpickle(file), file)


def _list_shards(index_path: Path) -> list[Path]:
    """List the files that an index names."""
    index = json_files.read_json(index_path, "the index of the weights")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    names: list[Any] = list(weight_map.values()) if isinstance(weight_map, dict) else [None]
    if not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{index_path}: holds no weight_map, which says in which file each weight is"
        )
    names = sorted(set(names))
    for name in names:
        refuse_path(name, index_path)
    absent = [name for name in names if not (index_path.parent / name).exists()]
    if absent:
        raise UserError(f"{index_path} names shards that are not there: {', '.join(absent)}")
    return [index_path.parent / name for name in names]


def _read_safetensors(file: Path) -> "dict[str, Tensor]":
    """Read a file of safetensors."""
    try:
        weights: dict[str, Tensor] = safetensors_torch.load_file(file)
        return weights
    except SafetensorError as error:
        raise UserError(
            f"{file} cannot be read ({error}); it is damaged or was not finished"
        ) from None


def _unpickle(file: Path) -> object:
    """Read a pickled file, in which nothing but tensors may be."""
    try:
        content: object = torch.load(file, map_location="cpu", weights_only=True)
        return content
    except pickle.UnpicklingError as error:
        reason = "unreadable"
        for line in str(error).splitlines():
            if "GLOBAL" in line or "Unsupported" in line:
                reason = line.strip()
                break
        raise UserError(
            f"{file} holds more than weights ({reason}), and reading that "
            "could run code. Save its state_dict alone, or convert it to safetensors where it was "
            "made"
        ) from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({str(error).splitlines()[0]}); it is damaged"
        ) from None


def _find_state_dict(content: object, file: Path) -> "dict[str, Tensor]":
    """Find the state dict in what a file held; some trainers put it under `model`, `state_dict` or
    `module`."""
    for name in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    tensors = {}
    if isinstance(content, dict):
        for name, value in content.items():
            if isinstance(value, torch.Tensor):
                tensors[name] = value
    if not tensors:
        raise UserError(f"{file} holds no state dict: it should map names to tensors")
    return tensors


def _get_enum_member(cls: object, name: str) -> Any:
    """Stand in for getattr: return a member of an enumeration, and nothing else."""
    if not (isinstance(cls, type) and issubclass(cls, enum.Enum) and name in cls.__members__):
        raise pickle.UnpicklingError(f"{GETATTR} of {cls!r}")
    return cls[name]


class _IndexUnpickler(pickle.Unpickler):
    """Unpickles nothing but what INDEX_NAMES name."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" == GETATTR:
            return _get_enum_member
        if not _matches_any(INDEX_NAMES, f"{module}.{name}"):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _matches_any(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _read_index(path: Path) -> Any:
    """Read the index of a sharded checkpoint, which is a pickle."""
    try:
        with path.open("rb") as file:
            return _IndexUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} names {error}, which an index of weights has no use for; not read"
        ) from None


def _read_sharded(folder: Path) -> "dict[str, Tensor]":
    """Put FSDP's sharded checkpoint together again."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        index = _read_index(folder / DCP)
        shards = {str(stored.relative_path) for stored in index.storage_data.values()}
    except UserError:
        raise
    except (AttributeError, TypeError, ValueError, EOFError, LookupError, OverflowError) as error:
        raise UserError(
            f"{folder / DCP}: no whole index of weights ({explain_unreadable(error)})"
        ) from None
    for shard in shards:
        refuse_path(shard, folder / DCP)
    weights = {}
    for name, entry in index.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            weights[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    absent = {shard for shard in shards if not (folder / shard).exists()}
    if absent:
        raise UserError(f"{folder}: shards are missing: {', '.join(sorted(absent))}")
    try:
        checkpoint.load(weights, storage_reader=checkpoint.FileSystemReader(folder), no_dist=True)
    except (checkpoint.CheckpointException, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder}: its shards cannot be read ({explain_unreadable(error)})"
        ) from None
    # In accelerate's folders the model is under the name `model`.
    if folder.name.startswith("pytorch_model"):
        return {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    return weights


def _gets_only_enum_members(file: Path, known: list[str]) -> bool:
    """Say whether a file of DeepSpeed's calls getattr for members of enumerations alone; its
    tensors are not read."""
    try:
        safe = [*map(pkgutil.resolve_name, known), (_get_enum_member, GETATTR)]
        with torch.serialization.safe_globals(safe):
            torch.load(file, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, ImportError, AttributeError):
        return False
    return True


def _refuse_strange_names(file: Path) -> None:
    """Raise UserError where unpickling a file of DeepSpeed's would need a name that weights have no
    use for."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    known = [name for name in names if _matches_any(DEEPSPEED_NAMES, name)]
    strange = [name for name in names if name not in known]
    if set(strange) == {GETATTR} and _gets_only_enum_members(file, known):
        return
    if strange:
        raise UserError(
            f"{file} names {', '.join(strange)}, which weights have no use for; not read"
        )


def _read_deepspeed(folder: Path) -> "dict[str, Tensor]":
    """Read fp32 weights out of DeepSpeed's checkpoint, stage 1 to 3, by its own code, after a look
    at what it unpickles."""
    name = (folder / DEEPSPEED).read_text(encoding="utf-8", errors="replace").strip()
    refuse_path(name, folder / DEEPSPEED)
    tag = folder / name
    files = sorted(tag.glob("*_states.pt"))
    if not files:
        raise UserError(
            f"{folder / DEEPSPEED} names {tag.name}, and there are no *_states.pt in {tag}"
        )
    for file in files:
        _refuse_strange_names(file)
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError:
        raise UserError(
            describe_missing_extra("deepspeed", "reading DeepSpeed's checkpoints")
        ) from None
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
                str(folder), tag.name
            )
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    return weights
