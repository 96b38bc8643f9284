"""A run's folder, made ready: its configuration, and a manifest of the rows and weights that it
began with, which must be the same when it goes on."""

import hashlib
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files, run_dir
from unteach.config import schema
from unteach.config.tree import to_yaml
from unteach.data.io import sources
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.lazy import np
from unteach.models.loading import LoadedModel
from unteach.training.build_reference import REFERENCE


def open_folder(
    config: schema.TrainConfig,
    folder: Path,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    dist: DistContext,
    step: int,
) -> None:
    """Make the run's folder ready to start, or to go on after `step`."""
    memory = Path(config.paths.cache_dir) / fingerprints.MEMORY_FILE
    models = fingerprints.hash_models([loaded.path, loaded.adapter], memory)
    data = {
        "data": fingerprint_streams(streams),
        "files": fingerprint_files(config),
        "models": models,
    }
    if step and (folder / run_dir.MANIFEST).exists():
        refuse_other_data(
            folder, json_files.read_mapping(folder / run_dir.MANIFEST, "the run's manifest"), data
        )
    # The configuration comes first: it makes the folder a run's, into which all else may be
    # written.
    atomic.write_text(folder / run_dir.CONFIG, to_yaml(config.tree))
    if step == 0:
        for table in (folder / REFERENCE).glob("*.safetensors"):
            if table.stem in streams:
                table.unlink()
    json_files.truncate_after_step(folder / run_dir.METRICS, step if step else -1)
    weights = loaded.identity(memory)
    facts = {
        **data,
        "weights": weights,
        "world": dist.world_size,
        "mode": dist.mode,
        "resumed_at": step,
    }
    made_by = fingerprints.build_manifest(config.seed, command=config.command, **facts)
    atomic.write_json(folder / run_dir.MANIFEST, made_by)


def fingerprint_streams(streams: dict[str, Stream]) -> dict[str, str]:
    """Take the sha256 of the token ids and labels of each stream, in order."""
    found = {}
    for name, stream in streams.items():
        digest = hashlib.sha256()
        for number in range(len(stream)):
            example = stream.example(number)
            for key in ("input_ids", "labels"):
                digest.update(np.asarray(example[key], np.int64).tobytes() + b"/")
        found[name] = digest.hexdigest()
    return found


def fingerprint_files(config: schema.TrainConfig) -> dict[str, str]:
    """Take the sha256 of each local file that rows are read from."""
    told = [
        part.args.get("hf_args")
        for parts in config.data.streams.values()
        for part in parts.values()
    ]
    return {
        str(file): fingerprints.hash_files(file)
        for hf_args in told
        if hf_args
        for file in sources.files_of(hf_args)
    }


def refuse_other_data(folder: Path, began: dict[str, Any], now: dict[str, dict[str, str]]) -> None:
    """Raise UserError where a run would go on with other data or weights than it began with."""
    for kind, named in (("files", "{}"), ("data", "data.{}"), ("models", "{}")):
        for name, fingerprint in now[kind].items():
            if began.get(kind, {}).get(name, fingerprint) != fingerprint:
                raise UserError(
                    f"{named.format(name)}: is not what it was when {folder} began to train on it; "
                    "put it back, or start again with resume=never or another task_name"
                )
