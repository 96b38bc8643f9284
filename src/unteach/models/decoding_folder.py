"""A model whose forgetting is in its decoding, as a folder: two models, and how their logits are
combined.

`decoding.json` names the rule, its arguments and the folders of the two models beside it, so the
folder is whole and can be moved. Its own config.json is of no architecture: whatever does not know
of the rule, and would serve the base alone, stops there and says so.
"""

from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, json_files, registry, run_dir
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import PATH, ModelConfig
from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.fingerprints import DECODING_FILE
from unteach.models import adapters
from unteach.models.hub import SOURCE

if TYPE_CHECKING:
    from unteach.models.decoding import Decoding

BASE = "base"
"""The folder, inside, of the model as it was before."""
SECOND_NOTE = "unteach_second.json"
"""Beside the weights of a second model, wherever they are saved: what it is."""
GUARD = {
    "model_type": "unteach_decoding",
    "architectures": ["UnteachDecoding"],
    "unteach": "two models whose logits are combined (decoding.json); load this folder by unteach",
}
"""config.json of such a folder."""


@dataclass(frozen=True)
class DecodingFile:
    """What decoding.json holds.

    Attributes:
        decoding: the registered name of the rule.
        arguments: its fields.
        base: the folder of the model whose logits the rule changes.
        second: the folder of the other model, or of its adapter on the base.
        num_layers: of how many of the base's first layers the other one is made, where it is an
            adapter; None: all.
    """

    decoding: str
    base: str
    second: str
    arguments: dict[str, Any] = field(default_factory=dict)
    num_layers: int | None = None

    def __post_init__(self) -> None:
        for name in ("base", "second"):
            folder = getattr(self, name)
            # What is read must be inside, wherever the folder was from.
            if folder in ("", ".", "..") or Path(folder).name != folder:
                raise UserError(f"{name}: must name a folder beside this file, got {folder!r}")


@dataclass(frozen=True)
class DecodingFolder:
    """Such a folder, read."""

    path: Path
    file: DecodingFile
    rule: "Decoding"

    @property
    def base(self) -> str:
        return str(self.path / self.file.base)

    @property
    def second(self) -> str:
        return str(self.path / self.file.second)

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in vars(self.rule).items())
        return f"{self.file.decoding}({arguments})"


def has_decoding(path: str | Path | None) -> bool:
    """Say whether a folder, or a run's final model, is of two models whose logits are combined."""
    if path is None:
        return False
    return (Path(run_dir.find_model_folder(str(path))) / DECODING_FILE).is_file()


def find_decoding(config: ModelConfig) -> DecodingFolder | None:
    """Read the decoding of the model that a configuration names; None where it has none."""
    path = config.model_args.get(PATH)
    if not path or not has_decoding(str(path)):
        return None
    return read_decoding(Path(run_dir.find_model_folder(str(path))))


def read_decoding(folder: Path) -> DecodingFolder:
    """Read a folder of two models.

    Raises:
        UserError: its file is damaged, names what is not there, or a rule that nothing registers.
    """
    path = folder / DECODING_FILE
    file = read_decoding_file(folder)
    try:
        cls = registry.decoding.get(file.decoding)
    except UserError as error:
        raise UserError(
            f"{path}: {error}\n  A plugin's decoding needs its file: plugins=[FILE]"
        ) from None
    reader = Reader()
    rule = reader.record(cls, file.arguments, "arguments")
    if rule is None:
        raise UserError(f"{path}: {join_problems(reader.problems)}")
    return DecodingFolder(folder, file, rule)


def read_decoding_file(folder: Path) -> DecodingFile:
    """Read which two models a folder is of, without the rule, which a plugin may hold.

    Raises:
        UserError: its file is damaged, or names what is not there.
    """
    path = folder / DECODING_FILE
    reader = Reader()
    content = json_files.read_mapping(path, "the decoding of a model")
    file: DecodingFile | None = reader.record(DecodingFile, content, "")
    if file is None:
        raise UserError(f"{path}: {join_problems(reader.problems)}")
    for name in (file.base, file.second):
        if not (folder / name).is_dir():
            raise UserError(
                f"{path}: names the folder {name}, and there is none beside it; copy the folder "
                "whole"
            )
    return file


def write_decoding(folder: Path, rule: "Decoding", num_layers: int | None) -> None:
    """Write what makes a folder, in which both models are, one of two models.

    Args:
        num_layers: as in DecodingFile.
    """
    assert is_dataclass(rule)
    file = DecodingFile(find_name(rule), BASE, rule.SECOND, asdict(rule), num_layers)
    atomic.write_json(folder / "config.json", GUARD)
    atomic.write_json(folder / DECODING_FILE, asdict(file))


def find_name(rule: "Decoding") -> str:
    """Find the name that a rule's class is registered under."""
    entry = registry.decoding.find_entry_of(type(rule))
    if entry is not None:
        return entry.name
    raise UserError(
        f"{type(rule).__name__} is no registered decoding; put @decoding before its class "
        "(unteach.registry)"
    )


def write_second_note(folder: Path, rule: "Decoding") -> None:
    """Write beside the weights of a second model that they are no model to be used alone."""
    atomic.write_json(folder / SECOND_NOTE, {"decoding": find_name(rule), "is": rule.SECOND})


def describe_second(path: str | None) -> str | None:
    """Say what a second model is that is loaded alone; None where a folder holds none."""
    if path is None or not (Path(path) / SECOND_NOTE).is_file():
        return None
    note = json_files.read_mapping(Path(path) / SECOND_NOTE, "the note of a second model")
    return (
        f"{path} is the {note.get('is')} model of the decoding {note.get('decoding')}, alone: it "
        f"has forgotten nothing. The model that forgets is its run's {run_dir.FINAL}"
    )


def refuse_decoding(path: str | Path | None, reason: str) -> None:
    """Raise UserError where a folder is of two models, and something takes one.

    Args:
        reason: why it does, and what to do, after `;`.
    """
    if path is None or not has_decoding(path):
        return
    raise UserError(
        f"{path}: this model forgets in its decoding: {DECODING_FILE} combines the logits of two "
        f"models, and {reason}"
    )


def refuse_for_two(config: ModelConfig, folder: DecodingFolder, has_head: bool) -> None:
    """Raise UserError for what cannot be done with two models whose logits are combined."""
    where = f"{folder.path} forgets in its decoding, {folder}"
    if has_head:
        raise UserError(
            f"{where}, which combines the logits of tokens; a classifier has none. Name its base/"
        )
    if config.peft_args or config.base_path or config.added_tokens:
        raise UserError(
            f"{where}: model.peft_args, model.base_path and model.added_tokens are for one model "
            "that trains; leave them out"
        )
    for name in ("device_map", "quantization_config"):
        if config.model_args.get(name):
            raise UserError(
                f"model.model_args.{name}: {where}; its two models are run side by side, whole and "
                "on one device, as they were saved. Leave it out"
            )
    refuse_sharded(launch_environment.parallel_mode(), str(folder.path))


def refuse_sharded(mode: str | None, where: str) -> None:
    """Raise UserError where a parallelism strategy would wrap one of two models."""
    if mode in (None, "one", "ddp"):
        return
    raise UserError(
        f"launch={mode}: {where} is two models, which run side by side in each process, and {mode} "
        "shards one. launch=ddp shares the rows between processes"
    )


def describe_two(config: ModelConfig, folder: DecodingFolder) -> tuple[ModelConfig, ModelConfig]:
    """Describe both models of a folder, each as one to be loaded as `config` says."""
    model_args = {name: value for name, value in config.model_args.items() if name not in SOURCE}
    base = replace(config, model_args={**model_args, PATH: folder.base})
    second = replace(
        config,
        model_args={**model_args, PATH: folder.second},
        tokenizer_args={},
        base_path=folder.base if adapters.is_adapter(folder.second) else None,
    )
    return base, second
