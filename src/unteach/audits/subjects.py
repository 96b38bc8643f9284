"""What was audited, file by file: the sha256 of everything that makes a model answer as it does.

The bytes are read anew each time. `fingerprints.hash_weights` remembers digests by size, time and
inode of the files, which is enough to find a cache entry and too little to sign: who changes a byte
can set the time back.
"""

import fnmatch
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from unteach import run_dir
from unteach.data import template
from unteach.errors import UserError
from unteach.fingerprints import DECODING_FILE, hash_files
from unteach.lazy import huggingface_errors
from unteach.models import adapters, decoding_folder, heads

WEIGHTS, ADAPTER, BASE, SECOND = "weights", "adapter", "base", "second"
TOKENIZER, TEMPLATE = "tokenizer", "template"

PATTERNS = {
    ADAPTER: (adapters.CONFIG, "adapter_model*", adapters.BASE),
    WEIGHTS: ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*"),
    "config": ("config.json", heads.FILE),
    "code": ("*.py",),
    TEMPLATE: ("chat_template*", "additional_chat_templates/*", template.FILE),
    TOKENIZER: (
        "tokenizer*",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab*",
        "merges.txt",
        "*.model",
        "*.tiktoken",
        "tekken.json",
    ),
    "generation": ("generation_config.json",),
    "processor": (DECODING_FILE,),
    "preprocessor": ("preprocessor_config.json", "processor_config.json", "video_*config.json"),
}
"""The role of a file in a model's folder, by its name; the first that matches holds, and the
subjects stand in this order. `code` is what `trust_remote_code` runs."""


@dataclass(frozen=True)
class Subject:
    """One file of what was audited.

    Attributes:
        name: its path inside the model's folder; that of an adapter's base begins with `base/`, and
            that of a tokenizer from elsewhere with `tokenizer/`.
        role: what it does for the model: a name in PATTERNS, `base` or `second`.
        sha256: of its bytes, in hexadecimal.
        uri: the hub model and the commit that it was downloaded from, as a package URL; "" for a
            folder of this machine.
    """

    name: str
    role: str
    sha256: str
    uri: str = ""


@dataclass(frozen=True)
class _Source:
    """A folder of a model, and where it was downloaded from."""

    folder: Path
    uri: str = ""


def list_subjects(
    model: str,
    base_path: str | None = None,
    tokenizer_path: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> list[Subject]:
    """List every file that a model consists of, with its sha256, in a fixed order.

    Args:
        model: a run's folder, a model's folder, an adapter's, a folder of two models whose logits
            are combined, or a hub id whose files were downloaded before.
        base_path: of an adapter's base, as `model.base_path`; None: the one that it names itself.
        tokenizer_path: as `model.tokenizer_args.pretrained_model_name_or_path`; None: the model's.
        revision: of a hub model; None: its main branch.
        cache_dir: where hub models are; None: the library's own place.

    Returns:
        The files of the model itself in the order of PATTERNS, then those of its second model and
        of its base, and last those of a tokenizer from elsewhere; each group by name.

    Raises:
        UserError: there is no such folder or download, or no weights are in it.
    """
    source = _find_source(model, "model", revision, cache_dir)
    subjects = _hash_roles(source)
    if adapters.is_adapter(str(source.folder)):
        base_name = base_path or adapters.read_base_path(str(source.folder))
        base = _find_source(base_name, "model.base_path", revision, cache_dir)
        _refuse_no_weights(base.folder)
        # The tokenizer of an adapter is its own.
        subjects += _hash_part(base, BASE, BASE, without=(TOKENIZER, TEMPLATE))
    elif (source.folder / DECODING_FILE).exists():
        decoding = decoding_folder.read_decoding_file(source.folder)
        _refuse_no_weights(source.folder / decoding.base)
        for role, name in ((BASE, decoding.base), (SECOND, decoding.second)):
            subjects += _hash_part(_Source(source.folder / name, source.uri), name, role)
    else:
        _refuse_no_weights(source.folder)
    if tokenizer_path is not None:
        elsewhere = _find_source(tokenizer_path, "model.tokenizer_args", revision, cache_dir)
        if elsewhere.folder.resolve() != source.folder.resolve():
            subjects += _hash_tokenizer(elsewhere)
    return subjects


def _find_source(name: str, key: str, revision: str | None, cache_dir: str | None) -> _Source:
    """Find the folder of a model, or of what was downloaded of a hub model.

    Args:
        key: by which a message calls the name.
    """
    folder = Path(run_dir.find_model_folder(name))
    if folder.is_dir():
        return _Source(folder)
    if name.startswith(("/", ".", "~")):
        raise UserError(f"{key}={name}: there is no such folder; name one that holds a model")
    try:
        snapshot = huggingface_hub.snapshot_download(
            name, revision=revision, cache_dir=cache_dir, local_files_only=True
        )
    except (huggingface_errors.LocalEntryNotFoundError, huggingface_errors.HFValidationError):
        where = f" at {revision}" if revision else ""
        raise UserError(
            f"{key}={name}: there is no such folder, and no such hub model{where} was downloaded "
            f"before; mend the name, or run `hf download {name}` where there is a network"
        ) from None
    # A snapshot's folder is called after its commit.
    return _Source(Path(snapshot), f"pkg:huggingface/{name}@{Path(snapshot).name}")


def _refuse_no_weights(folder: Path) -> None:
    """Raise UserError where a folder should hold a whole model, and holds no weights."""
    if any(role == WEIGHTS for role, _ in _find_files(folder)):
        return
    raise UserError(
        f"{folder}: no weights (*.safetensors, pytorch_model*.bin) are in this folder; name that "
        "of a model, of an adapter or of a finished run"
    )


def _hash_roles(source: _Source) -> list[Subject]:
    """Hash the files of a model's own folder, in the order of PATTERNS."""
    order = list(PATTERNS)
    files = []
    for role, name in _find_files(source.folder):
        files.append((order.index(role), name, role))
    return [_hash_file(source, name, name, role) for _, name, role in sorted(files)]


def _hash_part(
    source: _Source, prefix: str, role: str, without: tuple[str, ...] = ()
) -> list[Subject]:
    """Hash the files of a model that another one needs, all under one role.

    Args:
        prefix: the folder that their names begin with.
        without: the roles, in that model, of files that are left out.
    """
    names = [name for own_role, name in _find_files(source.folder) if own_role not in without]
    return [_hash_file(source, name, f"{prefix}/{name}", role) for name in sorted(names)]


def _hash_tokenizer(source: _Source) -> list[Subject]:
    """Hash the files of a tokenizer that is from elsewhere than its model."""
    files = [(name, role) for role, name in _find_files(source.folder)]
    subjects = []
    for name, role in sorted(files):
        if role in (TOKENIZER, TEMPLATE):
            subjects.append(_hash_file(source, name, f"{TOKENIZER}/{name}", role))
    return subjects


def _find_files(folder: Path) -> list[tuple[str, str]]:
    """Find the files in a folder that a model consists of: the role and the path inside of each."""
    files = []
    for path in [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]:
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        role = find_role(name)
        if role is not None:
            files.append((role, name))
    return files


def find_role(name: str) -> str | None:
    """Find what a file does for the model in whose folder it is; None for one that does nothing,
    as a README."""
    for role, patterns in PATTERNS.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return role
    return None


def _hash_file(source: _Source, path: str, name: str, role: str) -> Subject:
    return Subject(name, role, hash_files(source.folder / path), source.uri)
