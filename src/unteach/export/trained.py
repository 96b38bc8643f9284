"""Something trained: where its weights are, and what its files and its run say of it."""

import inspect
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import json_files, registry, run_dir
from unteach.config import schema
from unteach.config.reader import Reader
from unteach.data import template
from unteach.errors import UserError
from unteach.export import convert
from unteach.lazy import peft, torch, transformers
from unteach.models import (
    adapters,
    added_tokens,
    decoding_folder,
    heads,
    loading,
    model_handlers,
    portable,
)
from unteach.models.hub import PATH
from unteach.training import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass
class Source:
    """Something trained.

    Attributes:
        location: its folder or file.
        model_config: the model section of its run.
        adapter_config: the adapter's own, from its folder.
        run: the folder of its run, where it is in one.
    """

    location: Path
    model_config: schema.ModelConfig | None
    adapter_config: dict[str, Any] = field(default_factory=dict)
    run: Path | None = None

    @property
    def folder(self) -> str:
        return str(self.location.parent if self.location.is_file() else self.location)

    @property
    def start_path(self) -> str | None:
        """The model that its run started from."""
        path = self.model_config.model_args.get(PATH) if self.model_config else None
        return str(path) if path else None


def find_source(name: str) -> Source:
    """Find a run's final model, a whole checkpoint, or what others wrote, with what its run says of
    it."""
    location = Path(run_dir.find_model_folder(name))
    decoding_folder.refuse_decoding(
        location,
        "no one plain model, adapter or file for another program says the same. The folder is "
        "whole: copy it",
    )
    if not location.exists():
        raise UserError(f"{name}: there is no such file or folder")
    if (location / run_dir.CONFIG).exists() and not (location / "config.json").exists():
        checkpoints = sorted(path.name for path in location.glob("checkpoint-*"))
        remedy = "nothing to export yet"
        if checkpoints:
            remedy = f"one of its checkpoints ({', '.join(checkpoints)})"
        raise UserError(f"{name}: this run holds no {run_dir.FINAL}/; it has {remedy}")

    run = None
    for folder in (location, *location.parents[:2]):
        if (folder / run_dir.CONFIG).exists():
            run = folder
            break
    if run is not None and re.fullmatch(r"checkpoint-\d+", location.name):
        reason = checkpoint.find_fault(location)
        if reason:
            raise UserError(f"{name}: this checkpoint cannot be used, {reason}")
    adapter_config: dict[str, Any] = {}
    if (location / adapters.CONFIG).exists():
        adapter_config = json_files.read_json(
            location / adapters.CONFIG, "the adapter's configuration"
        )
    return Source(location, read_model_section(run) if run else None, adapter_config, run)


def read_model_section(run: Path) -> schema.ModelConfig | None:
    """Read the model section of a run's configuration."""
    reader = Reader()
    section = run_dir.read_config(run).get("model")
    model: schema.ModelConfig | None = reader.record(schema.ModelConfig, section, "model")
    return model


def find_base(source: Source, base_path: str | None) -> str:
    """Find where the model under an adapter is.

    Args:
        base_path: what the user says of it.
    """
    path = base_path or source.adapter_config.get("base_model_name_or_path")
    if not path:
        path = _find_base_of_run(source)
    if not path:
        raise UserError(
            f"{source.location} holds an adapter, and nothing says what it was trained on; set "
            f"model.base_path"
        )
    base = run_dir.find_model_folder(str(path))
    adapters.refuse_adapter_as_base(source.folder, base)
    return base


def _find_base_of_run(source: Source) -> str | None:
    """Find the model that a run put its adapter on: the one it started from, or that one's base."""
    if source.model_config is None:
        return None
    if source.model_config.base_path:
        return source.model_config.base_path
    if source.start_path is None:
        return None
    start = run_dir.find_model_folder(source.start_path)
    return adapters.read_base_path(start) if adapters.is_adapter(start) else start


def read_peft_args(source: Source) -> dict[str, Any] | None:
    """Read LoraConfig's fields from the adapter's own file, or from its run."""
    names = set(inspect.signature(peft.LoraConfig).parameters)
    names -= {"peft_type", "base_model_name_or_path", "inference_mode"}
    peft_args = {}
    for name, value in source.adapter_config.items():
        if name in names and value is not None:
            peft_args[name] = value
    if peft_args:
        return peft_args
    return source.model_config.peft_args if source.model_config else None


def load_base(source: Source, base: str) -> "tuple[PreTrainedModel, torch.dtype]":
    """Load the model under an adapter in full precision, as its run made it.

    Returns:
        The model, and the dtype that it is kept in.
    """
    args: dict[str, Any] = {"dtype": "auto"}
    handler: Any = model_handlers.AutoModelForCausalLM
    tokenizer_args: dict[str, Any] = {}
    if source.model_config:
        handler = registry.model.get(source.model_config.model_handler)
        tokenizer_args = source.model_config.tokenizer_args
        left_out = ("quantization_config", "attn_implementation", "device_map", "dtype", PATH)
        for name, value in source.model_config.model_args.items():
            if name not in left_out:
                args[name] = value
    if handler in (model_handlers.AutoModelForCausalLM, model_handlers.Scratch):
        # No tokenizer need be there.
        head = heads.read_head(source.folder)
        args.setdefault("use_safetensors", True)
        model: Any = model_handlers.load_pretrained(base, head, **args)
    else:
        model, _ = handler.load({**args, PATH: base}, tokenizer_args, None)
    dtype = next(model.parameters()).dtype
    added_tokens.grow(model, adapters.read_added_ids(source.folder))
    return model.to(torch.float32), dtype


def identify_base(base: str) -> str:
    """Return what tells the weights of a base from all others."""
    config = transformers.AutoConfig.from_pretrained(base)
    return loading.identify_weights(base, config, loading.get_fingerprints_path())


def find_tokenizer(source: Source, base: str | None) -> "PreTrainedTokenizerBase | None":
    """Find the tokenizer beside the weights, or of their run, or of the model under them; None
    where none has one."""
    run_tokenizer = None
    if source.model_config:
        run_tokenizer = source.model_config.tokenizer_args.get(PATH)
    paths = []
    for path in (source.folder, run_tokenizer, base, source.start_path):
        if path:
            paths.append(run_dir.find_model_folder(str(path)))
    return convert.load_first_tokenizer(paths)


def save_tokenizer_and_template(
    source: Source, base: str | None, tokenizer: "PreTrainedTokenizerBase | None", folder: Path
) -> None:
    """Save the tokenizer, and the template that the model was trained with."""
    if tokenizer is None:
        logger.info(
            "no tokenizer was found beside these weights or their base; this folder has none"
        )
        return
    portable.save_tokenizer(tokenizer, folder)
    template_args = template.load_saved_args(source.folder)
    if not template_args and source.model_config:
        template_args = source.model_config.template_args
    if not template_args and base:
        template_args = template.load_saved_args(base)
    if template_args:
        template.Template(tokenizer, template_args).save(folder)
