"""`unteach export`: anything trained as a plain model folder."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files, owner
from unteach.atomic import atomic_write_folder
from unteach.config import verb_keys
from unteach.config.environment import environment
from unteach.config.overrides import sort_words
from unteach.config.reader import Mistakes, Reader, mistakes
from unteach.errors import UserError, unknown
from unteach.export import save, trained, weights

FORMS = ("model", "adapter")
RECORD = "unteach_export.json"


def command(words: list[str], config_dirs: Iterable[str] = ()) -> None:
    places = [word for word in words if "=" not in word or Path(word).exists()]
    sorted_words = sort_words(word for word in words if word not in places)
    if sorted_words.problems:
        raise Mistakes(sorted_words.problems)
    given = dict(sorted_words.values)
    for key in given:
        if key not in verb_keys.KEYS["export"]:
            raise UserError(verb_keys.unknown_key("export", key))
    if len(places) != 1:
        raise UserError(
            f"name one thing to export, got {len(places)}: unteach export RUN to=FOLDER"
        )
    reader = Reader()
    hints: dict[str, Any] = {"private": bool, "model.peft_args": dict[str, Any]}
    read = {key: reader.value(hints.get(key, str), value, key) for key, value in given.items()}
    if reader.problems:
        raise UserError(mistakes(reader.problems))
    export(
        places[0],
        read.get("to"),
        read.get("as", "model"),
        read.get("dtype"),
        read.get("model.base_path"),
        read.get("model.peft_args"),
        read.get("push"),
        read.get("private", True),
    )


def export(
    what: str,
    to: str | None = None,
    form: str = "model",
    dtype: str | None = None,
    base: str | None = None,
    peft_args: dict[str, Any] | None = None,
    push: str | None = None,
    private: bool = True,
) -> Path | None:
    """The Python form of the command; returns the folder that was written, None where it was only
    uploaded."""
    environment()
    if form not in FORMS:
        raise UserError(unknown("form of export", form, FORMS))
    if not (to or push):
        raise UserError("say where to: to=FOLDER, or push=REPO")
    if push:
        _refuse_offline(push)
    source = trained.find_source(what)
    asked = save.ExportOptions(Path(to) if to else None, form, dtype, base, peft_args)
    with _target(asked, source) as folder:
        if folder:
            save.write(source, asked, folder)
        if push and folder and not asked.to:
            upload(folder, push, private)
    if push and asked.to:
        upload(asked.to, push, private)
    print(f"results: {asked.to or f'https://huggingface.co/{push}'}")
    return asked.to


@contextlib.contextmanager
def _target(asked: Any, source: Any) -> Iterator[Path | None]:
    """A folder to write, which takes its name when it is whole; None where the same was exported
    there before."""
    if asked.to is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    with owner.own(asked.to):
        yield from _target_owned(asked, source)


def _target_owned(asked: Any, source: Any) -> Iterator[Path | None]:
    if asked.to.exists() and (not asked.to.is_dir() or any(asked.to.iterdir())):
        record = asked.to / RECORD
        if record.exists() and json_files.read_json(record, "the export's record") == _record(
            asked, source
        ):
            print(f"exported before: {asked.to}")
            yield None
            return
        raise UserError(
            f"to={asked.to}: something else is there already; name another folder, or move it away"
        )
    with atomic_write_folder(asked.to) as folder:
        yield folder
        atomic.write_json(folder / RECORD, _record(asked, source))


def _record(asked: Any, source: Any) -> dict[str, Any]:
    """What an export is of, as far as it can be told without doing it."""
    found = weights.find(source.location)
    files = (
        [found]
        if found and found.is_file()
        else sorted(p for p in source.location.rglob("*") if p.is_file())
    )
    seen = [[path.name, (stat := path.stat()).st_size, stat.st_mtime_ns] for path in files]
    return {
        "from": str(source.location.resolve()),
        "files": fingerprints.hash_value(seen),
        "as": asked.form,
        "dtype": asked.dtype,
        "base": asked.base,
        "peft_args": asked.peft_args,
    }


def _refuse_offline(repository: str) -> None:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise UserError(
            f"push={repository}: HF_HUB_OFFLINE is set, so nothing can be uploaded, and nothing "
            "was done. Unset it, or say to=FOLDER and upload that later: hf upload REPO FOLDER"
        )


def upload(folder: Path, repository: str, private: bool) -> None:
    """Uploads a folder as one commit; the repository is made where there is none, and nothing in it
    is deleted."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=str(folder), commit_message="Upload with unteach"
        )
    except Exception as error:
        said = next(
            (line for line in str(error).splitlines() if line.strip()), type(error).__name__
        ).strip()
        raise UserError(
            f"push={repository}: the hub did not take it ({said}). Log in with `hf auth login`; "
            "what to=FOLDER names is whole, and the same command uploads it again"
        ) from None
