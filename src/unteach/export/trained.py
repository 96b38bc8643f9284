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
from unteach.models import adapters, added_tokens, heads, loading, model_handlers, portable
from unteach.models.hub import PATH
from unteach.training import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass
class Source:
    """Something trained. place: its folder or file. told: its run's model section. adapter: of its
    own folder. run: the folder of its run, where it is in one."""

    place: Path
    told: schema.ModelConfig | None
    adapter: dict[str, Any] = field(default_factory=dict)
    run: Path | None = None

    @property
    def folder(self) -> str:
        return str(self.place.parent if self.place.is_file() else self.place)

    @property
    def path(self) -> str | None:
        """The model that its run started from."""
        return self.told.model_args.get(PATH) if self.told else None


def find_source(what: str) -> Source:
    """A run's final model, a whole checkpoint, or a place that others wrote; with what its run says
    of it."""
    place = Path(run_dir.find_model_folder(what))
    if not place.exists():
        raise UserError(f"{what}: there is no such file or folder")
    if (place / run_dir.CONFIG).exists() and not (place / "config.json").exists():
        checkpoints = sorted(path.name for path in place.glob("checkpoint-*"))
        those = (
            f"one of its checkpoints ({', '.join(checkpoints)})"
            if checkpoints
            else "nothing to export yet"
        )
        raise UserError(f"{what}: this run holds no {run_dir.FINAL}/; it has {those}")
    run = next(
        (folder for folder in (place, *place.parents[:2]) if (folder / run_dir.CONFIG).exists()),
        None,
    )
    ours = run is not None and re.fullmatch(r"checkpoint-\d+", place.name)
    if ours and (reason := checkpoint.find_fault(place)):
        raise UserError(f"{what}: this checkpoint cannot be used, {reason}")
    adapter = place / "adapter_config.json"
    said = json_files.read_json(adapter, "the adapter's configuration") if adapter.exists() else {}
    return Source(place, read_model_section(run) if run else None, said, run)


def read_model_section(run: Path) -> schema.ModelConfig | None:
    """The model section of a run's configuration."""
    reader = Reader()
    section = run_dir.read_config(run).get("model")
    model: schema.ModelConfig | None = reader.record(schema.ModelConfig, section, "model")
    return model


def find_base(source: Source, asked: str | None) -> str:
    """Where the model under an adapter is."""
    path = asked or source.adapter.get("base_model_name_or_path")
    if not path and source.told:
        started = run_dir.find_model_folder(str(source.path)) if source.path else None
        path = source.told.base_path or (
            adapters.read_base_path(started)
            if started and adapters.is_adapter(started)
            else started
        )
    if not path:
        raise UserError(
            f"{source.place} holds an adapter, and nothing says what it was trained on; set "
            f"model.base_path"
        )
    base = run_dir.find_model_folder(str(path))
    adapters.refuse_adapter_as_base(source.folder, base)
    return base


def read_peft_args(source: Source) -> dict[str, Any] | None:
    """LoraConfig's fields from the adapter's own file, or from its run."""

    known = set(inspect.signature(peft.LoraConfig).parameters) - {
        "peft_type",
        "base_model_name_or_path",
        "inference_mode",
    }
    own = {
        name: value for name, value in source.adapter.items() if name in known and value is not None
    }
    return own or (source.told.peft_args if source.told else None)


def load_base(source: Source, base: str) -> tuple[Any, Any]:
    """The model under an adapter in full precision, as its run made it, and the dtype that it is
    kept in."""
    without = ("quantization_config", "attn_implementation", "device_map", "dtype", PATH)
    args: dict[str, Any] = {"dtype": "auto"}
    if source.told:
        args |= {
            name: value for name, value in source.told.model_args.items() if name not in without
        }
    handler: Any = (
        registry.model.get(source.told.model_handler)
        if source.told
        else model_handlers.AutoModelForCausalLM
    )
    # no tokenizer need be there
    if handler in (model_handlers.AutoModelForCausalLM, model_handlers.Scratch):
        model = model_handlers.load_pretrained(
            base, heads.read_head(source.folder), **{"use_safetensors": True, **args}
        )
    else:
        model, _ = handler.load(
            {**args, PATH: base}, source.told.tokenizer_args if source.told else {}, None
        )
    held = next(model.parameters()).dtype
    added_tokens.grow(model, adapters.read_added_ids(source.folder))
    return model.to(torch.float32), held


def identify_base(base: str) -> str:
    return loading.identify_weights(
        base, transformers.AutoConfig.from_pretrained(base), loading.get_fingerprints_path()
    )


def find_tokenizer(source: Source, base: str | None) -> "PreTrainedTokenizerBase | None":
    """The tokenizer beside the weights, or of their run, or of the model under them; None where
    none has one."""
    named = source.told.tokenizer_args.get(PATH) if source.told else None
    places = [source.folder, named, base, source.path]
    found: PreTrainedTokenizerBase | None = convert.find_tokenizer(
        [run_dir.find_model_folder(str(place)) if place else None for place in places]
    )
    return found


def save_tokenizer_and_template(
    source: Source, base: str | None, tokenizer: "PreTrainedTokenizerBase | None", folder: Path
) -> None:
    """Write the tokenizer, and the template that the model was trained with."""
    if tokenizer is None:
        logger.info(
            "no tokenizer was found beside these weights or their base; this folder has none"
        )
        return
    portable.save_tokenizer(tokenizer, folder)
    said = template.load_saved_args(source.folder) or (
        source.told.template_args if source.told else None
    )
    said = said or (template.load_saved_args(base) if base else None)
    if said:
        template.Template(tokenizer, said).save(folder)
