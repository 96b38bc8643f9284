"""Model handlers: how a model and its tokenizer come into being. `model_handler` in a model's config names one."""

from pathlib import Path
from typing import Any

from unteach import runs
from unteach.errors import UserError, nearest
from unteach.registry import model

PATH = "pretrained_model_name_or_path"
LOADING = (
    "attn_implementation cache_dir device_map dtype local_files_only low_cpu_mem_usage max_memory offload_folder "
    "quantization_config revision subfolder token trust_remote_code use_safetensors variant"
).split()
"""What from_pretrained itself takes."""


@model
class AutoModelForCausalLM:
    """A causal language model from the hub or a folder, as transformers loads it."""

    @staticmethod
    def load(model_args: dict[str, Any], tokenizer_args: dict[str, Any], texts: Any) -> tuple[Any, Any]:
        import transformers

        given = dict(model_args)
        path = runs.model_folder(str(given.pop(PATH)))
        config = from_hub(transformers.AutoConfig, path, revision=given.get("revision"))
        refuse_unknown(given, config)
        loaded = from_hub(transformers.AutoModelForCausalLM, path, **given)
        return loaded, load_tokenizer(path, tokenizer_args)


@model("scratch")
class Scratch:
    """A Llama made from scratch, its byte-level BPE learned from the training text; with a path, a saved one."""

    @staticmethod
    def load(model_args: dict[str, Any], tokenizer_args: dict[str, Any], texts: Any) -> tuple[Any, Any]:
        import transformers

        given = dict(model_args)
        path = given.pop(PATH, None)
        dtype = given.pop("dtype", None)
        if path:
            folder = runs.model_folder(str(path))
            return from_hub(transformers.AutoModelForCausalLM, folder, dtype=dtype), load_tokenizer(folder, {})
        if texts is None:
            raise UserError(
                f"a model from scratch learns its tokenizer from training text: set model.model_args.{PATH}"
            )
        tokenizer = learn_tokenizer(texts(), int(tokenizer_args.get("vocab_size", 1024)))
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **given,
        )
        return transformers.LlamaForCausalLM(config), tokenizer


def from_hub(auto: Any, path: str, **arguments: Any) -> Any:
    """`auto.from_pretrained`, with its failures said in one message that tells what to do."""
    if path.startswith(("/", ".", "~")) and not Path(path).exists():
        raise UserError(f"model.model_args.{PATH}={path}: there is no such folder")
    try:
        return auto.from_pretrained(path, **{key: value for key, value in arguments.items() if value is not None})
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot load {path}: {reason}\n"
            f"  A folder must hold config.json and *.safetensors; a hub model needs the network, and a gated one your "
            f"consent on its page and `hf auth login`. Set model.model_args.{PATH}."
        ) from None


def refuse_unknown(given: dict[str, Any], config: Any) -> None:
    """model_args go to from_pretrained and, from there, to the model's config: anything neither knows is a mistake."""
    for name in given:
        if name not in LOADING and not hasattr(config, name):
            guess = nearest(name, {*LOADING, *config.to_dict()})
            meant = f"; did you mean {guess}?" if guess else ""
            raise UserError(
                f"model.model_args.{name}: neither from_pretrained nor {type(config).__name__} has it{meant}"
            )


def load_tokenizer(model_path: str, tokenizer_args: dict[str, Any]) -> Any:
    """The model's own tokenizer, unless tokenizer_args name another."""
    import transformers

    given = dict(tokenizer_args)
    path = runs.model_folder(str(given.pop(PATH, None) or model_path))
    return from_hub(transformers.AutoTokenizer, path, **given)


def learn_tokenizer(texts: list[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer learned from texts, with <pad>, <s> and </s>; it puts no BOS."""
    import tokenizers
    import transformers

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
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
