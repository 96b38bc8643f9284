"""A model, its tokenizer and its template from a ModelConfig, in the dtype that the machine and the
config call for."""

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import fingerprints, registry, run_dir
from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.data.template import Template, load_saved_args
from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.lazy import torch, transformers
from unteach.models import (
    adapters,
    added_tokens,
    decoding_folder,
    four_bits,
    heads,
    integrity,
    portable,
    probing,
)
from unteach.models.decoding import attach_decoding, refuse_other_tokens
from unteach.models.decoding_folder import DecodingFolder
from unteach.models.dtypes import find_compute_dtype
from unteach.models.forward import extend
from unteach.models.heads import Head
from unteach.models.hub import PATH, SOURCE
from unteach.models.layers import keep_first_layers, unwrap_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_CHECKED_BYTES = 2_000_000_000
"""Bytes of weights that `unteach check` reads."""


@dataclass
class LoadedModel:
    """A model with the one forward, and what it is asked through.

    Attributes:
        compute: the dtype that passes run in.
        path: where the weights are from.
        adapter: the folder that the adapter on them is from, "" for a fresh one, None where there
            is none.
        added: ids of tokens that the weights at `path` lack.
        head: a classifier's.
        start: the settings of the model before anything here changed them; None for an adapter,
            which is saved without any.
        decoding: the folder that says with which second model's logits this one's are combined.
    """

    model: Any
    tokenizer: Any
    template: Template
    compute: str
    path: str | None = None
    adapter: str | None = None
    added: tuple[int, ...] = ()
    head: Head | None = None
    start: portable.StartSettings | None = None
    decoding: DecodingFolder | None = None

    def identity(self, memory: Path) -> str:
        """Return what tells these weights from all others.

        Args:
            memory: the file that remembers fingerprints of weights.
        """
        base = identify_model(self.path, self.model.config, memory)
        if self.adapter is None:
            return base
        if not self.adapter:
            return f"{base} + a fresh adapter"
        return f"{base} + {fingerprints.hash_weights(Path(self.adapter), memory)}"

    def base_weights(self, memory: Path) -> str:
        """Return what tells the weights under the adapter from all others."""
        return identify_weights(self.path, self.model.config, memory)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Run passes in their precision; nothing to do where the weights are in it already."""
        parameter = next(self.model.parameters())
        dtype = getattr(torch, self.compute)
        if dtype in (torch.float32, parameter.dtype):
            return contextlib.nullcontext()
        return torch.autocast(parameter.device.type, dtype)


def identify_model(path: str | None, config: "PretrainedConfig", memory: Path) -> str:
    """Return what tells a model from all others: its weights and its configuration, which
    model_args may have changed."""
    settings = config.to_dict()
    for name in ("dtype", "_name_or_path"):
        settings.pop(name, None)
    return f"{identify_weights(path, config, memory)} {fingerprints.hash_value(settings)}"


def identify_weights(path: str | None, config: "PretrainedConfig", memory: Path) -> str:
    """Return the sha256 of a local folder's weights, or a hub model's commit."""
    if path and Path(path).is_dir():
        return fingerprints.hash_weights(Path(path), memory)
    return f"{path}@{getattr(config, '_commit_hash', None)}"


@dataclass(frozen=True)
class _Weights:
    """Where a model comes from.

    Attributes:
        path: of the whole weights, None for a model made from scratch.
        adapter: the folder of one that was trained on them, "" for a fresh one, None for none.
    """

    path: str | None
    adapter: str | None
    tokenizer_args: dict[str, Any]


def load(
    config: ModelConfig,
    training: bool,
    texts: Callable[[], list[str]] | None = None,
    head: Head | None = None,
    num_layers: int | None = None,
) -> LoadedModel:
    """Load what a ModelConfig names; with a head, as a classifier.

    A folder of two models whose logits are combined gives the first, with the second on it.

    For training the weights are fp32 masters and `compute` says the autocast dtype (`pure_bf16`
    keeps them in it, and under an adapter only the adapter is fp32); otherwise the weights are in
    `compute` itself.

    Args:
        texts: gives the training text to a tokenizer that must be learned.
        num_layers: of how many of the model's first layers a smaller one is made; None: all.
    """
    transformers.utils.logging.disable_progress_bar()
    folder = decoding_folder.find_decoding(config)
    if folder is not None:
        return _load_decoding(config, folder, head)
    note = decoding_folder.describe_second(config.model_args.get(PATH))
    if note and launch_environment.rank() == 0:
        logger.warning(note)
    return _load_one(config, training, texts, head, num_layers)


def _load_one(
    config: ModelConfig,
    training: bool,
    texts: Callable[[], list[str]] | None = None,
    head: Head | None = None,
    num_layers: int | None = None,
) -> LoadedModel:
    """Load a model that is one."""
    args = dict(config.model_args)
    compute = find_compute_dtype(args.pop("dtype", None))
    if args.get("attn_implementation") == "auto":
        args.pop("attn_implementation")
    weights = _find_weights(config, head)
    if weights.path is not None:
        args[PATH] = weights.path

    # What is frozen, as the weights under an adapter are, needs no fp32 masters.
    has_masters = training and not config.pure_bf16 and weights.adapter is None
    args["dtype"] = getattr(torch, "float32" if has_masters else compute)
    model, tokenizer = _load_base(config, args, weights.tokenizer_args, texts, head)
    four_bits.repair_cpu_layers(model)
    if num_layers is not None:
        keep_first_layers(model, num_layers)
    start = None
    if weights.adapter is None:
        start = portable.StartSettings.read(model, weights.path, **_pick_source(args))
    model, added = _add_tokens_and_adapter(model, tokenizer, config, weights, training)

    # A model that is not whole, or whose layers cannot be run as we do, is answered for here.
    integrity.refuse_odd_stops(model, weights.path)
    integrity.refuse_small_embedding(model, tokenizer, weights.path)
    integrity.refuse_not_finite(model, weights.adapter or weights.path)
    _probe(model, tokenizer, config.packed)
    loaded = finish(model, tokenizer, _find_template_args(config), compute, config.packed)
    loaded.path = weights.path
    loaded.adapter = weights.adapter
    loaded.added = tuple(added)
    loaded.head = head
    loaded.start = start
    return loaded


def _load_decoding(config: ModelConfig, folder: DecodingFolder, head: Head | None) -> LoadedModel:
    """Load two models, frozen, whose logits are combined."""
    decoding_folder.refuse_for_two(config, folder, head is not None)
    base_config, second_config = decoding_folder.describe_two(config, folder)
    loaded = _load_one(base_config, training=False)
    second = _load_one(second_config, training=False, num_layers=folder.file.num_layers)
    refuse_other_tokens(loaded.tokenizer, second.tokenizer, str(folder.path))

    attach_decoding(loaded.model, second.model, folder.rule)
    # What answers `want` asks the model as it is now.
    loaded.model = extend(loaded.model, config.packed)
    loaded.path = str(folder.path)
    loaded.start = None
    loaded.decoding = folder
    return loaded


def _find_weights(config: ModelConfig, head: Head | None) -> _Weights:
    """Find the weights that a ModelConfig names, and the base under them where they are an
    adapter's."""
    named = config.model_args.get(PATH)
    path = run_dir.find_model_folder(str(named)) if named else None
    heads.refuse_other_head(head, path)
    if path is None or not adapters.is_adapter(path):
        if config.base_path:
            raise UserError(
                f"model.base_path is for an adapter, and {path} is a whole model; leave it out"
            )
        return _Weights(path, "" if config.peft_args else None, config.tokenizer_args)
    if config.peft_args:
        raise UserError(
            f"model.peft_args: {path} holds an adapter already, and goes on with that; leave them "
            "out"
        )
    base = run_dir.find_model_folder(config.base_path or adapters.read_base_path(path))
    decoding_folder.refuse_decoding(base, "an adapter is on one; name the base/ inside it")
    adapters.refuse_adapter_as_base(path, base)
    return _Weights(base, path, {PATH: path, **config.tokenizer_args})


def _load_base(
    config: ModelConfig,
    args: dict[str, Any],
    tokenizer_args: dict[str, Any],
    texts: Callable[[], list[str]] | None,
    head: Head | None,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load the whole model and its tokenizer by the handler that the configuration names."""
    handler: Any = registry.model.get(config.model_handler)
    if head is None:
        model, tokenizer = handler.load(args, tokenizer_args, texts)
        return model, tokenizer
    if "head" not in inspect.signature(handler.load).parameters:
        raise UserError(
            f"model.model_handler={config.model_handler} makes language models and no classifiers"
        )
    model, tokenizer = handler.load(args, tokenizer_args, texts, head=head)
    heads.refuse_no_score(model)
    return model, tokenizer


def _add_tokens_and_adapter(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    config: ModelConfig,
    weights: _Weights,
    training: bool,
) -> tuple[Any, Sequence[int]]:
    """Put the adapter on, a trained or a fresh one, and give added tokens their rows.

    Returns:
        The model, and the ids of the tokens that its weights lack.
    """
    new_ids = added_tokens.add(tokenizer, config.added_tokens)
    if weights.adapter:
        base = str(weights.path)
        identity = identify_weights(base, model.config, get_fingerprints_path())
        adapters.refuse_another_base(weights.adapter, base, identity)
        if new_ids:
            raise UserError(
                f"model.added_tokens: the adapter {weights.adapter} was trained without them; "
                "leave them out"
            )
        adapted = adapters.attach_saved(model, weights.adapter, training)
        return adapted, adapters.read_added_ids(weights.adapter)
    added_tokens.grow(model, new_ids)
    if config.peft_args:
        adapted = adapters.attach(model, config.peft_args, new_ids)
        adapters.refuse_failing(adapted)
        return adapted, new_ids
    if training and getattr(model, "is_quantized", False):
        raise UserError(
            "quantised weights do not train: set model.peft_args to train an adapter over them"
        )
    return model, new_ids


def _pick_source(model_args: dict[str, Any]) -> dict[str, Any]:
    """Pick out of a model's arguments what says which files are read."""
    return {name: model_args[name] for name in SOURCE if name in model_args}


def _probe(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", packed: bool) -> None:
    """Find out what holds of a model, and say what is therefore done more slowly."""
    probing.probe(model, tokenizer)
    if packed:
        probing.refuse_packed(model)
    if launch_environment.rank() != 0:
        return
    for sentence in (probing.describe_padding(model), probing.describe_continuing(model)):
        if sentence:
            logger.info(sentence)


def get_fingerprints_path() -> Path:
    """Return the user's own file of fingerprints, for what no run's folder or cache is at hand."""
    cache_dir = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache_dir / "unteach" / fingerprints.MEMORY_FILE


def load_empty(
    config: ModelConfig,
    texts: Callable[[], list[str]] | None = None,
    head: Head | None = None,
    num_layers: int | None = None,
) -> LoadedModel:
    """Load the same with no weights, on torch's meta device: for a look at a run before it
    starts."""
    with torch.device("meta"):
        return load(config, training=True, texts=texts, head=head, num_layers=num_layers)


def load_for_check(
    config: ModelConfig,
    texts: Callable[[], list[str]] | None = None,
    head: Head | None = None,
    num_layers: int | None = None,
) -> LoadedModel:
    """Load a model to say of a run what can be said before it starts.

    Weights that are on this machine and small, an adapter's base included, are loaded and tried as
    the run tries them; of others names and shapes alone are read.
    """
    is_plain = not (
        config.model_args.get("device_map") or config.model_args.get("quantization_config")
    )
    decoding = decoding_folder.find_decoding(config)
    if decoding is not None:
        num_bytes = _count_bytes(decoding.base) + _count_bytes(decoding.second)
    else:
        num_bytes = _count_bytes(_find_weights(config, head).path)
    if is_plain and 0 < num_bytes <= MAX_CHECKED_BYTES:
        return load(config, training=True, texts=texts, head=head, num_layers=num_layers)
    return load_empty(config, texts, head, num_layers)


def _count_bytes(path: str | None) -> int:
    """Count the bytes of the weights in a local folder; 0 where there is none."""
    if path is None or not Path(path).is_dir():
        return 0
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))


def finish(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    template_args: TemplateArgs,
    compute: str,
    packed: bool = False,
) -> LoadedModel:
    """Give a model the one forward, its template, and its tokenizer a padding token."""
    if tokenizer.pad_token_id is None:
        # Masks come from lengths, so padding is never confused with EOS.
        tokenizer.pad_token = tokenizer.eos_token
    causal = unwrap_model(model)
    if hasattr(causal, "score"):
        # By which the library finds the last token.
        causal.config.pad_token_id = tokenizer.pad_token_id
    else:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    template = Template(tokenizer, template_args)
    return LoadedModel(extend(model, packed), tokenizer, template, compute)


def _find_template_args(config: ModelConfig) -> TemplateArgs:
    """Return what the config says of the template or, where it says nothing, what the model was
    saved with."""
    path = config.model_args.get(PATH)
    if config.template_args == TemplateArgs() and path:
        folder = run_dir.find_model_folder(str(path))
        return load_saved_args(folder) or config.template_args
    return config.template_args


def load_frozen(config: ModelConfig) -> "PreTrainedModel":
    """Load the same model once more, frozen, in its compute dtype: a reference copy."""
    frozen = load(config, training=False).model
    frozen.requires_grad_(False)
    return frozen.eval()
