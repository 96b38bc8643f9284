"""Model handlers: how a model and its tokenizer come into being. `model_handler` in a model's
config names one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import run_dir
from unteach.errors import UserError, nearest
from unteach.lazy import tokenizers, torch, transformers
from unteach.models import heads, integrity
from unteach.models.heads import Head
from unteach.models.hub import NO_TOKENIZER, PATH, SOURCE, from_hub
from unteach.registry import model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

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
        texts: Any,
        head: Head | None = None,
    ) -> tuple[Any, Any]:
        given = dict(model_args)
        if not given.get(PATH):
            raise UserError(
                f"model.model_args.{PATH}: is required; a folder, a run's folder, or a hub id"
            )
        path = run_dir.find_model_folder(str(given.pop(PATH)))
        source = {name: given[name] for name in SOURCE if name in given}
        refuse_absent_attention(given)
        config = from_hub(transformers.AutoConfig, path, **source)
        refuse_unknown(given, config, LOADING)
        if flash_attention_fits(given, config):
            given["attn_implementation"] = "flash_attention_2"
        model = load_pretrained(path, head, **{"use_safetensors": True, **given})
        return model, load_tokenizer(path, tokenizer_args, source)


@model("scratch")
class Scratch:
    """A Llama made from scratch, its byte-level BPE learned from the training text; with a path, a
    saved one."""

    @staticmethod
    def load(
        model_args: dict[str, Any],
        tokenizer_args: dict[str, Any],
        texts: Any,
        head: Head | None = None,
    ) -> tuple[Any, Any]:
        from huggingface_hub.errors import StrictDataclassError

        given = dict(model_args)
        path = given.pop(PATH, None)
        dtype = given.pop("dtype", None)
        refuse_absent_attention(given)
        refuse_unknown(given, transformers.LlamaConfig(), ("attn_implementation",))
        if path:
            folder = run_dir.find_model_folder(str(path))
            return load_pretrained(folder, head, dtype=dtype), load_tokenizer(folder, {}, {})
        if texts is None:
            raise UserError(
                f"a model from scratch learns its tokenizer from training text: set "
                f"model.model_args.{PATH}"
            )
        tokenizer = learn_tokenizer(texts(), int(tokenizer_args.get("vocab_size", 1024)))
        try:
            config = transformers.LlamaConfig(
                vocab_size=len(tokenizer),
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **given,
                **(head.settings() if head else {}),
            )
        except StrictDataclassError as error:
            raise UserError(f"model.model_args: {str(error).splitlines()[-1].strip()}") from None
        kind = (
            transformers.LlamaForSequenceClassification if head else transformers.LlamaForCausalLM
        )
        return kind(config), tokenizer


def load_pretrained(path: str, head: Head | None, **arguments: dict[str, Any]) -> Any:
    """A causal language model with its weights, or its body under a classifier's head, which is new
    unless it was saved with one; on torch's meta device it has none, and where they lie in a folder
    it is seen whether they fit."""

    kind = (
        transformers.AutoModelForSequenceClassification
        if head
        else transformers.AutoModelForCausalLM
    )
    settings = head.settings() if head else {}
    source = {k: v for k, v in arguments.items() if k in SOURCE}
    if torch.get_default_device().type == "meta":
        config = from_hub(transformers.AutoConfig, path, **source, **settings)
        is_quantized = "quantization_config" in arguments or hasattr(config, "quantization_config")
        if is_quantized or not any(Path(path).glob("*.safetensors*")):
            return kind.from_config(config, dtype=arguments.get("dtype"))
    has_new_head = head is not None and heads.read_head(path) is None
    return integrity.load_model(kind, path, has_new_head, **arguments, **settings)


def refuse_unknown(
    given: dict[str, Any], config: "PretrainedConfig", loading: tuple[str, ...]
) -> None:
    """model_args go to from_pretrained and, from there, to the model's config: anything neither
    knows is a mistake."""
    for name in given:
        if name not in loading and not hasattr(config, name):
            guess = nearest(name, {*loading, *config.to_dict()})
            meant = f"; did you mean {guess}?" if guess else ""
            raise UserError(
                f"model.model_args.{name}: neither from_pretrained nor {type(config).__name__} has "
                f"it{meant}"
            )


def refuse_absent_attention(given: dict[str, Any]) -> None:
    """FlashAttention 2 is taken on a GPU and from its own package (or from `kernels`, as
    transformers does)."""
    if given.get("attn_implementation") != "flash_attention_2":
        return
    if (
        not transformers.utils.is_flash_attn_2_available()
        and not transformers.utils.is_kernels_available()
    ):
        raise UserError(
            "model.model_args.attn_implementation=flash_attention_2 needs a GPU and the package "
            "flash-attn, and one of them is not here. Install it (pip install flash-attn "
            "--no-build-isolation), or say auto, which takes it wherever it is"
        )


def flash_attention_fits(given: dict[str, Any], config: "PretrainedConfig") -> bool:
    """Whether `auto` attention means FlashAttention 2: installed, on a GPU that has it, for weights
    that it takes.

    fp32 masters under autocast keep the library's own choice, because a pass outside autocast would
    fail.
    """

    half = given.get("dtype") in (torch.bfloat16, torch.float16)
    if (
        "attn_implementation" in given
        or given.get("device_map") == "cpu"
        or not half
        or not transformers.utils.is_flash_attn_2_available()
    ):
        return False
    architecture = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return getattr(
        architecture, "_supports_flash_attn", False
    ) and torch.cuda.get_device_capability() >= (8, 0)


def load_tokenizer(model_path: str, tokenizer_args: dict[str, Any], source: dict[str, Any]) -> Any:
    """The model's own tokenizer, from where the model comes from, unless tokenizer_args name
    another."""
    given = dict(tokenizer_args)
    path = run_dir.find_model_folder(str(given.pop(PATH, None) or model_path))
    tokenizer = from_hub(
        transformers.AutoTokenizer, path, **({**source, **given} if path == model_path else given)
    )
    # transformers makes an empty one without files
    if len(tokenizer.get_vocab()) == len(tokenizer.get_added_vocab()):
        raise UserError(f"cannot load the tokenizer of {path}: {NO_TOKENIZER.format(name=PATH)}")
    return tokenizer


def learn_tokenizer(texts: list[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer learned from texts, with <pad>, <s> and </s>; it puts no BOS."""

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
