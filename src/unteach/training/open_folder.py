"""Open a run's folder: write its configuration, and a manifest of its rows and weights, which must
be the same when it goes on."""

import hashlib
from array import array
from pathlib import Path
from typing import Any, TypedDict

from unteach import atomic, fingerprints, json_files, run_dir
from unteach.config import schema
from unteach.config.tree import to_yaml
from unteach.data.io import sources
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.methods.edit.base import Edit
from unteach.models.loading import LoadedModel
from unteach.training.build_reference import REFERENCE


class InputHashes(TypedDict):
    """What a run is made of, as its manifest has it: sha256 by name."""

    files: dict[str, str]
    data: dict[str, str]
    models: dict[str, str]


def open_folder(
    config: schema.TrainConfig,
    run_folder: Path,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    dist: DistContext,
    step: int,
) -> None:
    """Make a run's folder ready to start, or to go on after `step`."""
    hash_cache = Path(config.paths.cache_dir) / fingerprints.MEMORY_FILE
    manifest_path = run_folder / run_dir.MANIFEST
    model_paths = [loaded.path, loaded.adapter]
    method = config.trainer.method
    if isinstance(method, Edit):
        model_paths += map(run_dir.find_model_folder, method.other_models().values())
    hashes = InputHashes(
        files=fingerprint_files(config),
        data=fingerprint_streams(streams),
        models=fingerprints.hash_models(model_paths, hash_cache),
    )
    if step and manifest_path.exists():
        old_manifest = json_files.read_mapping(manifest_path, "the run's manifest")
        refuse_other_data(run_folder, old_manifest, hashes)

    # The configuration comes first: it makes the folder a run's, into which everything else may be
    # written.
    atomic.write_text(run_folder / run_dir.CONFIG, to_yaml(config.tree))
    if step == 0:
        # Tables of an earlier start may be of other weights.
        for table in (run_folder / REFERENCE).glob("*.safetensors"):
            if table.stem in streams:
                table.unlink()
    json_files.truncate_after_step(run_folder / run_dir.METRICS, step if step else -1)
    manifest = fingerprints.build_manifest(
        config.seed,
        command=config.command,
        data=hashes["data"],
        files=hashes["files"],
        models=hashes["models"],
        weights=loaded.identity(hash_cache),
        world=dist.world_size,
        mode=dist.mode,
        resumed_at=step,
    )
    atomic.write_json(manifest_path, manifest)


def fingerprint_streams(streams: dict[str, Stream]) -> dict[str, str]:
    """Compute the sha256 of the token ids and labels of each stream, in order."""
    hashes = {}
    for name, stream in streams.items():
        digest = hashlib.sha256()
        for row in range(len(stream)):
            example = stream.example(row)
            for tokens in (example["input_ids"], example["labels"]):
                digest.update(array("q", tokens).tobytes() + b"/")
        hashes[name] = digest.hexdigest()
    return hashes


def fingerprint_files(config: schema.TrainConfig) -> dict[str, str]:
    """Compute the sha256 of each local file that rows are read from."""
    hashes = {}
    for datasets in config.data.streams.values():
        for dataset in datasets.values():
            hf_args = dataset.args.get("hf_args")
            for file in sources.list_files(hf_args) if hf_args else ():
                hashes[str(file)] = fingerprints.hash_files(file)
    return hashes


def refuse_other_data(run_folder: Path, manifest: dict[str, Any], hashes: InputHashes) -> None:
    """Raise UserError where a run would go on with other data or weights than it began with.

    Args:
        run_folder: the run's.
        manifest: that it began with.
        hashes: of what it would go on with.
    """
    _refuse_changes(run_folder, "", hashes["files"], manifest.get("files", {}))
    _refuse_changes(run_folder, "data.", hashes["data"], manifest.get("data", {}))
    _refuse_changes(run_folder, "", hashes["models"], manifest.get("models", {}))


def _refuse_changes(
    run_folder: Path, prefix: str, hashes: dict[str, str], old_hashes: dict[str, str]
) -> None:
    """Raise UserError where a hash is another than it was; names that are new are none."""
    for name, digest in hashes.items():
        if old_hashes.get(name, digest) != digest:
            raise UserError(
                f"{prefix}{name}: is not what it was when {run_folder} began to train on it; put "
                "it back, or start again with resume=never or another task_name"
            )
