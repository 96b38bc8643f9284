"""`unteach export`: anything trained as a plain model folder."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants

from unteach import atomic, fingerprints, json_files, owner
from unteach.atomic import atomic_write_folder
from unteach.config.verb_configs import ExportConfig
from unteach.errors import UserError
from unteach.export import save, trained, weights
from unteach.export.save import ExportOptions
from unteach.export.trained import Source

RECORD = "unteach_export.json"


def run(config: ExportConfig) -> Path | None:
    """Write what was trained as a plain model folder, upload it where that is asked for, and give
    the folder; None where it was only uploaded."""
    if config.push:
        refuse_offline(config.push)
    source = trained.find_source(config.sources[0])
    options = build_options(config)
    to = options.to
    with _open_target(options, source) as folder:
        if folder:
            save.write(source, options, folder)
        # A folder without a name of its own is gone when this ends.
        if config.push and folder and to is None:
            upload(folder, config.push, config.private)
    if config.push and to:
        upload(to, config.push, config.private)
    print(f"results: {to or f'https://huggingface.co/{config.push}'}")
    return to


def build_options(config: ExportConfig) -> ExportOptions:
    """Build what an export is made with."""
    return ExportOptions(
        Path(config.to) if config.to else None,
        config.form,
        config.dtype,
        config.model.base_path,
        config.model.peft_args,
    )


@contextlib.contextmanager
def _open_target(options: ExportOptions, source: Source) -> Iterator[Path | None]:
    """Give a folder to write, which takes its name when it is whole; None where the same was
    exported there before."""
    if options.to is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    with owner.own(options.to):
        if is_exported(options, source, options.to):
            print(f"exported before: {options.to}")
            yield None
            return
        with atomic_write_folder(options.to) as temporary:
            yield temporary
            atomic.write_json(temporary / RECORD, _describe(options, source))


def is_exported(options: ExportOptions, source: Source, to: Path) -> bool:
    """Whether a folder holds this very export.

    Raises:
        UserError: it holds anything else.
    """
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return False
    record = to / RECORD
    if record.exists():
        known = json_files.read_json(record, "the export's record")
        if known == _describe(options, source):
            return True
    raise UserError(
        f"to={to}: something else is there already; name another folder, or move it away"
    )


def _describe(options: ExportOptions, source: Source) -> dict[str, Any]:
    """Describe what an export is of, as far as it can be told without doing it."""
    weights_file = weights.find(source.location)
    if weights_file and weights_file.is_file():
        files = [weights_file]
    else:
        files = sorted(path for path in source.location.rglob("*") if path.is_file())
    file_facts = []
    for file in files:
        stat = file.stat()
        file_facts.append([file.name, stat.st_size, stat.st_mtime_ns])
    return {
        "from": str(source.location.resolve()),
        "files": fingerprints.hash_value(file_facts),
        "as": options.form,
        "dtype": options.dtype,
        "base": options.base,
        "peft_args": options.peft_args,
    }


def refuse_offline(repository: str) -> None:
    """Raise UserError where nothing may be uploaded."""
    if constants.is_offline_mode():
        raise UserError(
            f"push={repository}: HF_HUB_OFFLINE is set, so nothing can be uploaded, and nothing "
            "was done. Unset it, or say to=FOLDER and upload that later: hf upload REPO FOLDER"
        )


def upload(folder: Path, repository: str, private: bool) -> None:
    """Upload a folder as one commit; the repository is made where there is none, and nothing in it
    is deleted."""
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(
            repository,
            private=private,
            exist_ok=True,
        )
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            commit_message="Upload with unteach",
        )
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next(filter(None, lines), type(error).__name__)
        raise UserError(
            f"push={repository}: the hub did not take it ({reason}). Log in with `hf auth login`; "
            "what to=FOLDER names is whole, and the same command uploads it again"
        ) from None
