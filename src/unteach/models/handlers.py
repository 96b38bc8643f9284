"""Model handlers: how a model and its tokenizer come into being. `model_handler` in a model's config names one."""

from pathlib import Path
from typing import Any

from unteach import runs
from unteach.errors import UserError, chain, nearest
from unteach.registry import model

PATH = "pretrained_model_name_or_path"
SOURCE = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")
"""What says where a repository's files come from; its config, weights and tokenizer share it."""
LOADING = (
    *SOURCE, "attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "max_memory", "offload_folder",
    "quantization_config", "use_safetensors", "variant",
)  # fmt: skip
"""What from_pretrained itself takes."""

NOWHERE = "there is no such folder here and no such model on the hub. Mend {key}; a private model needs `hf auth login`"
UNREACHED = (
    "there is no such folder here, it was not downloaded before, and the hub cannot be reached (no network, or "
    "HF_HUB_OFFLINE is set). Set {key} to a folder, or run `hf download {path}` where there is a network"
)
NO_TOKENIZER = (
    "it holds no tokenizer. Set model.tokenizer_args.{name} to the folder or hub model that has its tokenizer"
)
REMEDIES = {
    "GatedRepoError": "it is gated. Ask for access at https://huggingface.co/{path}, log in with `hf auth login`, run "
    "the same command again; or set {key} to a folder that holds it",
    "RevisionNotFoundError": "it has no such revision; mend {args}.revision (a branch, a tag or a commit)",
    "RepositoryNotFoundError": NOWHERE,
    "HFValidationError": NOWHERE,
    "LocalEntryNotFoundError": UNREACHED,
    "OfflineModeIsEnabled": UNREACHED,
    "trust_remote_code": "it runs on code of its own repository, and unteach runs nobody's code unasked. Read that "
    "code, pin it with {args}.revision=COMMIT, and set {args}.trust_remote_code=true",
    "model.safetensors": "it holds no weights as *.safetensors. Pickled ones (*.bin) can run code when they are read: "
    "convert them, or set {args}.use_safetensors=false if you trust who made them; or set {key} to another model",
    "backend tokenizer": NO_TOKENIZER,
    "ImportError": "{said} Install what is missing, or leave out what asks for it in {args}",
}
"""How each failure of from_pretrained is mended, by a sign of it: the name of an error, or words of the message."""


@model
class AutoModelForCausalLM:
    """A causal language model from the hub or a folder, as transformers loads it."""

    @staticmethod
    def load(model_args: dict[str, Any], tokenizer_args: dict[str, Any], texts: Any) -> tuple[Any, Any]:
        import transformers

        given = dict(model_args)
        path = runs.model_folder(str(given.pop(PATH)))
        source = {name: given[name] for name in SOURCE if name in given}
        refuse_absent_attention(given)
        config = from_hub(transformers.AutoConfig, path, **source)
        refuse_unknown(given, config, LOADING)
        if flash_attention_fits(given, config):
            given["attn_implementation"] = "flash_attention_2"
        return causal(path, **{"use_safetensors": True, **given}), load_tokenizer(path, tokenizer_args, source)


@model("scratch")
class Scratch:
    """A Llama made from scratch, its byte-level BPE learned from the training text; with a path, a saved one."""

    @staticmethod
    def load(model_args: dict[str, Any], tokenizer_args: dict[str, Any], texts: Any) -> tuple[Any, Any]:
        import transformers
        from huggingface_hub.errors import StrictDataclassError

        given = dict(model_args)
        path = given.pop(PATH, None)
        dtype = given.pop("dtype", None)
        refuse_absent_attention(given)
        refuse_unknown(given, transformers.LlamaConfig(), ("attn_implementation",))
        if path:
            folder = runs.model_folder(str(path))
            return causal(folder, dtype=dtype), load_tokenizer(folder, {}, {})
        if texts is None:
            raise UserError(
                f"a model from scratch learns its tokenizer from training text: set model.model_args.{PATH}"
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
            )
        except StrictDataclassError as error:
            raise UserError(f"model.model_args: {str(error).splitlines()[-1].strip()}") from None
        return transformers.LlamaForCausalLM(config), tokenizer


def causal(path: str, **arguments: Any) -> Any:
    """A causal language model with its weights; on torch's meta device, one of its configuration alone."""
    import torch
    import transformers

    if torch.get_default_device().type != "meta":
        return from_hub(transformers.AutoModelForCausalLM, path, **arguments)
    config = from_hub(transformers.AutoConfig, path, **{k: v for k, v in arguments.items() if k in SOURCE})
    return transformers.AutoModelForCausalLM.from_config(config, dtype=arguments.get("dtype"))


def from_hub(auto: Any, path: str, **arguments: Any) -> Any:
    """`auto.from_pretrained`, with its failures said in one message that tells what to do.

    A repository's own code runs only where `trust_remote_code` says so; unset, transformers would stop and ask.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    args = "model.tokenizer_args" if auto.__name__ == "AutoTokenizer" else "model.model_args"
    if path.startswith(("/", ".", "~")) or Path(path).is_dir():
        _refuse_no_folder(Path(path), f"{args}.{PATH}", needs_config=args == "model.model_args")
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return auto.from_pretrained(path, **{"trust_remote_code": False, **given})
    except (OSError, ValueError, ImportError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"cannot load {path}: {_remedy(error, path, args)}") from None


def _refuse_no_folder(folder: Path, key: str, needs_config: bool) -> None:
    if not folder.is_dir():
        home = "; write the home folder out in full" if str(folder).startswith("~") else ""
        raise UserError(f"{key}={folder}: there is no such folder{home}")
    if needs_config and not (folder / "config.json").exists():
        if (folder / runs.CONFIG).exists():
            raise UserError(f"{key}={folder}: this run holds no {runs.FINAL}/ yet; run its command again to finish it")
        raise UserError(f"{key}={folder}: no model is in this folder; one holds config.json and *.safetensors")


def _remedy(error: Exception, path: str, args: str) -> str:
    """What to do about a failed from_pretrained, or else what it said itself."""
    names = " ".join(kind.__name__ for link in chain(error) for kind in type(link).__mro__)
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
    otherwise = "{said}\n  A model folder holds config.json, *.safetensors and a tokenizer. Mend it, or set {key}"
    remedy = next((text for sign, text in REMEDIES.items() if sign in f"{error} {names}"), otherwise)
    return remedy.format(path=path, args=args, key=f"{args}.{PATH}", name=PATH, said=said)


def refuse_unknown(given: dict[str, Any], config: Any, loading: tuple[str, ...]) -> None:
    """model_args go to from_pretrained and, from there, to the model's config: anything neither knows is a mistake."""
    for name in given:
        if name not in loading and not hasattr(config, name):
            guess = nearest(name, {*loading, *config.to_dict()})
            meant = f"; did you mean {guess}?" if guess else ""
            raise UserError(
                f"model.model_args.{name}: neither from_pretrained nor {type(config).__name__} has it{meant}"
            )


def refuse_absent_attention(given: dict[str, Any]) -> None:
    """FlashAttention 2 is taken on a GPU and from its own package (or from `kernels`, as transformers does)."""
    from transformers.utils import is_flash_attn_2_available, is_kernels_available

    if given.get("attn_implementation") != "flash_attention_2":
        return
    if not is_flash_attn_2_available() and not is_kernels_available():
        raise UserError(
            "model.model_args.attn_implementation=flash_attention_2 needs a GPU and the package flash-attn, and one of "
            "them is not here. Install it (pip install flash-attn --no-build-isolation), or say auto, which takes it "
            "wherever it is"
        )


def flash_attention_fits(given: dict[str, Any], config: Any) -> bool:
    """Whether `auto` attention means FlashAttention 2: installed, on a GPU that has it, for weights that it takes.

    fp32 masters under autocast keep the library's own choice, because a pass outside autocast would fail.
    """
    import torch
    import transformers
    from transformers.utils import is_flash_attn_2_available

    half = given.get("dtype") in (torch.bfloat16, torch.float16)
    if (
        "attn_implementation" in given
        or given.get("device_map") == "cpu"
        or not half
        or not is_flash_attn_2_available()
    ):
        return False
    architecture = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return getattr(architecture, "_supports_flash_attn", False) and torch.cuda.get_device_capability() >= (8, 0)


def load_tokenizer(model_path: str, tokenizer_args: dict[str, Any], source: dict[str, Any]) -> Any:
    """The model's own tokenizer, from where the model comes from, unless tokenizer_args name another."""
    import transformers

    given = dict(tokenizer_args)
    path = runs.model_folder(str(given.pop(PATH, None) or model_path))
    tokenizer = from_hub(transformers.AutoTokenizer, path, **({**source, **given} if path == model_path else given))
    if len(tokenizer.get_vocab()) == len(tokenizer.get_added_vocab()):  # transformers makes an empty one without files
        raise UserError(f"cannot load the tokenizer of {path}: {NO_TOKENIZER.format(name=PATH)}")
    return tokenizer


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
