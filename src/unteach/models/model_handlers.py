"""Model handlers: how a model and its tokenizer are made. `model_handler` in a model's config names
one."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import run_dir
from unteach.errors import UserError, find_nearest
from unteach.lazy import huggingface_errors, tokenizers, torch, transformers
from unteach.models import heads, integrity
from unteach.models.heads import Head
from unteach.models.hub import NO_TOKENIZER, PATH, SOURCE, from_hub
from unteach.registry import model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Texts = Callable[[], list[str]] | None
"""Gives the training text to a tokenizer that must be learned."""
LOADING = (
    *SOURCE,
    "attn_implementation",
    "device_map",
    "dtype",
    "low_cpu_mem_usage",
    "max_memory",
    "offload_folder",
    "quantization_config",
    "use_safetensors",
    "variant",
)
"""What from_pretrained itself takes."""


@model
class AutoModelForCausalLM:
    """A causal language model from the hub or a folder, as transformers loads it."""

    @staticmethod
    def load(
        model_args: dict[str, Any],
        tokenizer_args: dict[str, Any],
        texts: Texts,
        head: Head | None = None,
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        args = dict(model_args)
        if not args.get(PATH):
            raise UserError(
                f"model.model_args.{PATH}: is required; a folder, a run's folder, or a hub id"
            )
        path = run_dir.find_model_folder(str(args.pop(PATH)))
        source = {name: args[name] for name in SOURCE if name in args}
        refuse_absent_attention(args)
        config = from_hub(transformers.AutoConfig, path, **source)
        refuse_unknown(args, config, LOADING)
        if flash_attention_fits(args, config):
            args["attn_implementation"] = "flash_attention_2"
        args.setdefault("use_safetensors", True)
        model = load_pretrained(path, head, **args)
        return model, load_tokenizer(path, tokenizer_args, source)


@model("scratch")
class Scratch:
    """A Llama made from scratch, its byte-level BPE learned from the training text; with a path, a
    saved one."""

    @staticmethod
    def load(
        model_args: dict[str, Any],
        tokenizer_args: dict[str, Any],
        texts: Texts,
        head: Head | None = None,
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        args = dict(model_args)
        path = args.pop(PATH, None)
        dtype = args.pop("dtype", None)
        refuse_absent_attention(args)
        refuse_unknown(args, transformers.LlamaConfig(), ("attn_implementation",))
        if path:
            folder = run_dir.find_model_folder(str(path))
            return load_pretrained(folder, head, dtype=dtype), load_tokenizer(folder, {}, {})
        if texts is None:
            raise UserError(
                f"a model from scratch learns its tokenizer from training text: set "
                f"model.model_args.{PATH}"
            )
        tokenizer = learn_tokenizer(texts(), int(tokenizer_args.get("vocab_size", 1024)))
        if head:
            args.update(head.settings())
        try:
            config = transformers.LlamaConfig(
                vocab_size=len(tokenizer),
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **args,
            )
        except huggingface_errors.StrictDataclassError as error:
            raise UserError(f"model.model_args: {str(error).splitlines()[-1].strip()}") from None
        if head:
            return transformers.LlamaForSequenceClassification(config), tokenizer
        return transformers.LlamaForCausalLM(config), tokenizer


def load_pretrained(path: str, head: Head | None, **arguments: object) -> "PreTrainedModel":
    """Load a causal language model with its weights, or its body under a classifier's head.

    The head is new unless the model was saved with one. On torch's meta device the model has no
    weights; where they are in a folder, their names and shapes are compared with the model's.

    Args:
        arguments: what `from_pretrained` takes.
    """
    auto: Any = transformers.AutoModelForCausalLM
    settings: dict[str, Any] = {}
    if head:
        auto = transformers.AutoModelForSequenceClassification
        settings = head.settings()
    if torch.get_default_device().type == "meta":
        source: dict[str, Any] = {}
        for name, value in arguments.items():
            if name in SOURCE:
                source[name] = value
        config = from_hub(transformers.AutoConfig, path, **source, **settings)
        is_quantized = "quantization_config" in arguments or hasattr(config, "quantization_config")
        if is_quantized or not any(Path(path).glob("*.safetensors*")):
            model: PreTrainedModel = auto.from_config(config, dtype=arguments.get("dtype"))
            # Of a folder without the file it has those that the configuration gives.
            with contextlib.suppress(OSError):
                model.generation_config = transformers.GenerationConfig.from_pretrained(
                    path, **source
                )
            return model
    has_new_head = head is not None and heads.read_head(path) is None
    return integrity.load_model(auto, path, has_new_head, **arguments, **settings)


def refuse_unknown(
    args: dict[str, Any], config: "PretrainedConfig", loading: tuple[str, ...]
) -> None:
    """Raise UserError for an argument that neither from_pretrained nor the model's config knows.

    Args:
        loading: what from_pretrained itself takes; the rest goes to the config.
    """
    for name in args:
        if name not in loading and not hasattr(config, name):
            guess = find_nearest(name, {*loading, *config.to_dict()})
            meant = f"; did you mean {guess}?" if guess else ""
            raise UserError(
                f"model.model_args.{name}: neither from_pretrained nor {type(config).__name__} has "
                f"it{meant}"
            )


def refuse_absent_attention(args: dict[str, Any]) -> None:
    """Raise UserError for FlashAttention 2 without a GPU and its own package (or `kernels`, from
    which transformers takes it too)."""
    if args.get("attn_implementation") != "flash_attention_2":
        return
    is_available = transformers.utils.is_flash_attn_2_available()
    if not is_available and not transformers.utils.is_kernels_available():
        raise UserError(
            "model.model_args.attn_implementation=flash_attention_2 needs a GPU and the package "
            "flash-attn, and one of them is not here. Install it (pip install flash-attn "
            "--no-build-isolation), or say auto, which takes it wherever it is"
        )


def flash_attention_fits(args: dict[str, Any], config: "PretrainedConfig") -> bool:
    """Say whether `auto` attention means FlashAttention 2: installed, on a GPU that has it, for
    weights that it takes.

    fp32 masters under autocast keep the library's own choice, because a pass outside autocast would
    fail.
    """
    is_half = args.get("dtype") in (torch.bfloat16, torch.float16)
    if "attn_implementation" in args or args.get("device_map") == "cpu" or not is_half:
        return False
    if not transformers.utils.is_flash_attn_2_available():
        return False
    architecture = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if not getattr(architecture, "_supports_flash_attn", False):
        return False
    return torch.cuda.get_device_capability() >= (8, 0)


def load_tokenizer(
    model_path: str, tokenizer_args: dict[str, Any], source: dict[str, Any]
) -> "PreTrainedTokenizerBase":
    """Load the model's own tokenizer, unless tokenizer_args name another.

    Args:
        source: what says which files of the model's repository are read.
    """
    args = dict(tokenizer_args)
    path = run_dir.find_model_folder(str(args.pop(PATH, None) or model_path))
    if path == model_path:
        args = {**source, **args}
    tokenizer: PreTrainedTokenizerBase = from_hub(transformers.AutoTokenizer, path, **args)
    # Without files transformers makes an empty one.
    if len(tokenizer.get_vocab()) == len(tokenizer.get_added_vocab()):
        raise UserError(f"cannot load the tokenizer of {path}: {NO_TOKENIZER.format(name=PATH)}")
    return tokenizer


def learn_tokenizer(texts: list[str], vocab_size: int) -> "PreTrainedTokenizerBase":
    """Learn a byte-level BPE tokenizer from texts, with <pad>, <s> and </s>; it puts no BOS."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
