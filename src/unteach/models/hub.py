"""Loading what others published, or what lies in a folder: `from_pretrained`, its failures said
with their remedy."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unteach import run_dir
from unteach.config.schema import PATH
from unteach.errors import UserError, describe_machine_failure, get_first_line, list_causes
from unteach.fingerprints import DECODING_FILE
from unteach.lazy import huggingface_errors

SOURCE = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")
"""What says where a repository's files come from; its config, weights and tokenizer share it."""

NOWHERE = (
    "there is no such folder here and no such model on the hub. Mend {key}; a private model "
    "needs `hf auth login`"
)
UNREACHED = (
    "there is no such folder here, it was not downloaded before, and the hub cannot be reached "
    "(no network, or HF_HUB_OFFLINE is set). Set {key} to a folder, or run `hf download {path}` "
    "where there is a network"
)
NO_TOKENIZER = (
    "it holds no tokenizer. Set model.tokenizer_args.{name} to the folder or hub model "
    "that has its tokenizer"
)
REMEDIES = {
    "GatedRepoError": "it is gated. Ask for access at https://huggingface.co/{path}, log in with "
    "`hf auth login`, run "
    "the same command again; or set {key} to a folder that holds it",
    "RevisionNotFoundError": "it has no such revision; mend {args}.revision (a branch, a tag or a "
    "commit)",
    "RepositoryNotFoundError": NOWHERE,
    "HFValidationError": NOWHERE,
    "LocalEntryNotFoundError": UNREACHED,
    "OfflineModeIsEnabled": UNREACHED,
    "trust_remote_code": "it runs on code of its own repository, and unteach runs nobody's code "
    "unasked. Read that "
    "code, pin it with {args}.revision=COMMIT, and set {args}.trust_remote_code=true",
    "model.safetensors": "it holds no weights as *.safetensors. Pickled ones (*.bin) can run code "
    "when they are read: "
    "convert them, or set {args}.use_safetensors=false if you trust who made them; or set {key} to "
    "another model",
    "backend tokenizer": NO_TOKENIZER,
    "ImportError": "{message} Install what is missing, or leave out what asks for it in {args}",
}
"""How each failure of from_pretrained is mended, by a sign of it: the name of an error, or words of
the message."""


def from_hub(auto: Any, path: str, **arguments: Any) -> Any:
    """Call `auto.from_pretrained`; a failure becomes one message that says what to do.

    A repository's own code runs only where `trust_remote_code` says so; unset, transformers would
    stop and ask.
    """
    args = "model.tokenizer_args" if auto.__name__ == "AutoTokenizer" else "model.model_args"
    if path.startswith(("/", ".", "~")) or Path(path).is_dir():
        is_model = args == "model.model_args"
        if is_model and (Path(path) / DECODING_FILE).exists():
            raise UserError(
                f"cannot load {path}: it forgets in its decoding, which combines the logits of two "
                "models, and one plain model is taken here; `unteach eval` and `unteach infer` "
                "with backend=hf read such a folder"
            )
        _refuse_no_folder(
            Path(path), "model" if is_model else f"{args}.{PATH}", needs_config=is_model
        )
    library_args = {name: value for name, value in arguments.items() if value is not None}
    library_args.setdefault("trust_remote_code", False)
    try:
        return auto.from_pretrained(path, **library_args)
    except (
        OSError,
        ValueError,
        ImportError,
        SafetensorError,
        huggingface_errors.StrictDataclassError,
    ) as error:
        raise UserError(f"cannot load {path}: {_find_remedy(error, path, args)}") from None
    except Exception as error:  # files of another form than the library expects fail in it anywhere
        if describe_machine_failure(error):
            raise
        raise UserError(
            f"cannot load {path}: one of its files is not what {auto.__name__} expects "
            f"({type(error).__name__}: {get_first_line(error)}). Compare config.json, "
            "generation_config.json and the tokenizer's files with those that were published, and "
            "mend them"
        ) from error


def _refuse_no_folder(folder: Path, key: str, needs_config: bool) -> None:
    """Raise UserError where a folder is not there, or holds no model."""
    if not folder.is_dir():
        home = "; write the home folder out in full" if str(folder).startswith("~") else ""
        raise UserError(f"{key}={folder}: there is no such folder{home}")
    if needs_config and not (folder / "config.json").exists():
        if (folder / run_dir.CONFIG).exists():
            raise UserError(f"{key}={folder}: {_explain_no_model(folder)}")
        inside = sorted(str(child) for child in folder.iterdir() if _is_model(child))
        hint = "one holds config.json and *.safetensors"
        if inside:
            hint = f"did you mean {', '.join(inside[:5])}?"
        raise UserError(f"{key}={folder}: no model is in this folder; {hint}")


def _is_model(folder: Path) -> bool:
    return Path(run_dir.find_model_folder(str(folder)), "config.json").exists()


def _explain_no_model(run: Path) -> str:
    """Say why a run's folder holds no model: it was an evaluation of another, or has not ended."""
    config = run_dir.read_config(run)
    if config.get("mode") == "eval":
        evaluated = config["model"]["model_args"][PATH]
        return f"this is an evaluation, which holds no model. It measured {evaluated}; name that"
    return f"this run holds no {run_dir.FINAL}/ yet; run its command again to finish it"


def _find_remedy(error: Exception, path: str, args: str) -> str:
    """Say what to do about a failed from_pretrained, or else what it said itself."""
    names: list[str] = []
    for link in list_causes(error):
        names += [cls.__name__ for cls in type(link).__mro__]
    signs = f"{error} {' '.join(names)}"
    remedy = (
        "{message}\n  A model folder holds config.json, *.safetensors and a tokenizer. Mend "
        "it, or set {key}"
    )
    for sign, text in REMEDIES.items():
        if sign in signs:
            remedy = text
            break
    lines = [line.strip() for line in str(error).splitlines()]
    message = next(filter(None, lines), type(error).__name__)
    return remedy.format(path=path, args=args, key=f"{args}.{PATH}", name=PATH, message=message)
