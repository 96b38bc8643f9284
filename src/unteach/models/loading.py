"""A model, its tokenizer and its template from a ModelConfig, in the dtype that the machine and the config call for."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach import registry, runs
from unteach.data.template import Template, saved_args
from unteach.errors import UserError
from unteach.models.forward import extend
from unteach.models.handlers import PATH
from unteach.schema import ModelConfig, TemplateArgs

DTYPES = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16"}


@dataclass
class Loaded:
    """A model with the one forward, and what it is asked through. `compute` is the dtype that passes run in."""

    model: Any
    tokenizer: Any
    template: Template
    compute: str
    path: str | None = None

    def identity(self, memory: Path) -> str:
        """What tells these weights from all others: sha256 of local files, or a hub model's commit."""
        if self.path and Path(self.path).is_dir():
            return runs.weights_fingerprint(Path(self.path), memory)
        return f"{self.path}@{getattr(self.model.config, '_commit_hash', None)}"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision that passes run in; nothing to do where the weights are in it already."""
        import torch

        parameter = next(self.model.parameters())
        if self.compute == "float32" or parameter.dtype == getattr(torch, self.compute):
            return contextlib.nullcontext()
        return torch.autocast(parameter.device.type, getattr(torch, self.compute))


def compute_dtype(asked: str | None) -> str:
    """`auto`: bfloat16 on a GPU that has it, float32 elsewhere."""
    import torch

    if asked in (None, "auto"):
        return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    if asked not in DTYPES:
        raise UserError(f"model.model_args.dtype: must be auto or one of {', '.join(DTYPES)}, got {asked!r}")
    return DTYPES[str(asked)]


def load(config: ModelConfig, training: bool, texts: Callable[[], list[str]] | None = None) -> Loaded:
    """Loads what a ModelConfig names.

    For training the weights are fp32 masters and `compute` says the autocast dtype (`pure_bf16` keeps them in it);
    otherwise the weights are in `compute` itself. `texts` gives the training text to a tokenizer that must be learned.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    args = dict(config.model_args)
    compute = compute_dtype(args.pop("dtype", None))
    held = compute if not training or config.pure_bf16 else "float32"
    if args.get("attn_implementation") == "auto":
        args.pop("attn_implementation")
    handler: Any = registry.model.get(config.model_handler)
    model, tokenizer = handler.load({**args, "dtype": getattr(torch, held)}, config.tokenizer_args, texts)
    loaded = finish(model, tokenizer, _template_args(config), compute)
    path = args.get(PATH)
    loaded.path = runs.model_folder(str(path)) if path else None
    return loaded


def finish(model: Any, tokenizer: Any, template_args: TemplateArgs, compute: str) -> Loaded:
    """Gives a model the one forward and its tokenizer a padding token that is not EOS in any mask."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks come from lengths, so padding is never confused with EOS
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return Loaded(extend(model), tokenizer, Template(tokenizer, template_args), compute)


def _template_args(config: ModelConfig) -> TemplateArgs:
    """What the config says of the template; where it says nothing, what the model was saved with."""
    given = config.template_args
    path = config.model_args.get(PATH)
    if given == TemplateArgs() and path:
        return saved_args(runs.model_folder(str(path))) or given
    return given


def load_frozen(config: ModelConfig) -> Any:
    """The same model once more, frozen, in its compute dtype: a reference copy."""
    frozen = load(config, training=False).model
    frozen.requires_grad_(False)
    return frozen.eval()
