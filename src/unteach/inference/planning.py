"""Plan a run of inference before any weights are loaded: prompts, and what answers depend on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from unteach import fingerprints, run_dir
from unteach.config.inference import INSTRUCTION, InferConfig
from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.data.template import load_saved_args
from unteach.engines.text_engine import get_context_length
from unteach.errors import UserError
from unteach.inference.backends import classifier
from unteach.inference.input_table import Columns, InputTable
from unteach.inference.prepared_requests import PreparedRequests
from unteach.inference.requests import MESSAGES, RequestBuilder, describe_first_prompt
from unteach.models import decoding_folder, loading, vision
from unteach.models.hub import PATH
from unteach.wording import format_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unteach.data.template import Template

FREE = (
    PATH,
    "token",
    "cache_dir",
    "local_files_only",
    "device_map",
    "max_memory",
    "offload_folder",
    "low_cpu_mem_usage",
)
"""model_args that change no answer, or that the model's identity stands for."""
BITS: dict[str, dict[str, Any]] = {
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "8bit": {"load_in_8bit": True},
}


@dataclass
class Plan:
    """What a run will ask.

    Attributes:
        settings: all that an answer depends on beside its row.
        notes: what the user should know before it starts.
        longest: tokens of the longest prompt and what may follow it.
    """

    model: ModelConfig
    prepared: PreparedRequests
    settings: dict[str, Any]
    notes: list[str]
    longest: int


@dataclass
class PromptBuilder:
    """Builds a model's prompts; its tokenizer and template are read, its weights are not.

    Attributes:
        describe_model: returns what answers depend on of the model; it takes the digest of the
            weights' files, which costs time.
        notes: what the user should know of how the model is asked.
    """

    model: ModelConfig
    requests: RequestBuilder
    describe_model: Callable[[], dict[str, Any]]
    notes: list[str]


def build_prompter(config: InferConfig, columns: Columns) -> PromptBuilder:
    """Read the tokenizer and the template of the model that `config` names."""
    if not getattr(config.backend, "DECODES", False):
        path = str(config.model.model_args[PATH])
        decoding_folder.refuse_decoding(
            path, f"backend={config.backend_name} answers by one; say backend=hf"
        )
    model = _quantise(config)
    if not config.backend.LOCAL:
        requests, describe_model = _read_remote(config, columns)
        return PromptBuilder(model, requests, describe_model, [])
    if config.modality == "vlm":
        requests, describe_model = _read_vision(replace(config, model=model), columns)
        return PromptBuilder(model, requests, describe_model, [])
    model, is_by_column = _choose_template(model, columns.input)
    requests, describe_model = _read_local(replace(config, model=model), columns)
    notes = []
    if is_by_column and requests.template:
        notes.append(_describe_template(requests.template, columns.input))
    return PromptBuilder(model, requests, describe_model, notes)


def plan(config: InferConfig, columns: Columns, table: InputTable) -> Plan:
    """Build every prompt, and name what the answers depend on."""
    notes = []
    if table.not_kept:
        notes.append(
            f"the columns {', '.join(table.not_kept)} hold no plain values and are not kept"
        )
    prompter = build_prompter(config, columns)
    notes += prompter.notes
    prepared = prompter.requests.build(table)
    if prepared.special_text:
        places = ", ".join(prepared.special_text)
        if prepared.num_special > len(prepared.special_text):
            places += " …"
        notes.append(
            f"{format_count(prepared.num_special, 'row')} with the text of special tokens, which "
            f"is read as text ({places}); model.template_args.special_tokens=tokens reads them as "
            "the tokens"
        )
    notes.append(f"the first prompt: {describe_first_prompt(prepared.requests)!r}")
    settings = {**prompter.describe_model(), **_describe_run(config, columns)}
    longest = prepared.requests.longest + prompter.requests.max_new_tokens
    return Plan(prompter.model, prepared, settings, notes, longest)


def _quantise(config: InferConfig) -> ModelConfig:
    """Write the key `quantization` as the argument of the model that it stands for."""
    if config.quantization is None:
        return config.model
    if "quantization_config" in config.model.model_args:
        raise UserError(
            "quantization and model.model_args.quantization_config say one thing in two ways; give "
            "one"
        )
    model_args = dict(config.model.model_args)
    model_args["quantization_config"] = {
        "quant_method": "bitsandbytes",
        **BITS[config.quantization],
    }
    return replace(config.model, model_args=model_args)


def _choose_template(model: ModelConfig, column: str) -> tuple[ModelConfig, bool]:
    """Choose the model's template: as it is configured or saved, and else by the column.

    Returns:
        The model, and whether it was by the column.
    """
    folder = run_dir.find_model_folder(str(model.model_args[PATH]))
    if model.template_args != TemplateArgs() or load_saved_args(folder) is not None:
        return model, False
    kind: Any = {MESSAGES: "chat", "question": "auto", INSTRUCTION: "auto"}.get(column, "raw")
    return replace(model, template_args=TemplateArgs(kind=kind)), True


def _describe_template(template: "Template", column: str) -> str:
    """Say by which template a model is asked that was saved with none."""
    note = (
        f"no template was saved with this model: the column {column!r} is asked as {template.kind}"
    )
    has_chat_template = getattr(template.tokenizer, "chat_template", None)
    if has_chat_template and template.kind != "chat":
        note += "; it has a chat template, which template=chat takes"
    return note


def _read_local(
    config: InferConfig,
    columns: Columns,
) -> tuple[RequestBuilder, Callable[[], dict[str, Any]]]:
    """Read the tokenizer and template of a language model or a classifier."""
    template: Template | None = None
    template_settings: dict[str, Any] | None = None
    if config.kind == "classify":
        empty = classifier.load_empty(config.model)
    else:
        empty = loading.load_empty(config.model)
        template = empty.template
        template_settings = {**asdict(template.args), "kind": template.kind}
    context = get_context_length(empty.model)
    requests = RequestBuilder(config, columns, template, empty.tokenizer, context)

    def describe_model() -> dict[str, Any]:
        return {**_describe_weights(config, empty), "template": template_settings}

    return requests, describe_model


def _read_vision(
    config: InferConfig,
    columns: Columns,
) -> tuple[RequestBuilder, Callable[[], dict[str, Any]]]:
    """Read the processor of a model that reads images; prompts are made where images are read."""
    empty = vision.load_empty(config.model)

    def describe_model() -> dict[str, Any]:
        return {
            **_describe_weights(config, empty),
            "processor": fingerprints.hash_value(empty.processor.to_dict()),
            "template": fingerprints.hash_value(empty.processor.chat_template),
        }

    return RequestBuilder(config, columns, None, None, None), describe_model


def _describe_weights(config: InferConfig, empty: loading.LoadedModel) -> dict[str, Any]:
    """Name what answers depend on of a local model beside its template."""
    model_args = {
        name: value for name, value in config.model.model_args.items() if name not in FREE
    }
    return {
        "model": empty.identity(loading.get_fingerprints_path()),
        "model_args": model_args,
        "dtype": empty.compute,
        "tokenizer": _hash_tokenizer(empty.tokenizer),
    }


def _hash_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Digest all that a tokenizer does to a text."""
    vocabulary: Any = sorted(tokenizer.get_vocab().items())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        vocabulary = backend.to_str()
    chat_template = getattr(tokenizer, "chat_template", None)
    return fingerprints.hash_value([vocabulary, chat_template, tokenizer.special_tokens_map])


def _read_remote(
    config: InferConfig,
    columns: Columns,
) -> tuple[RequestBuilder, Callable[[], dict[str, Any]]]:
    """Read what the configuration says of a server's model."""
    args = config.model.template_args
    if args.kind == "qa":
        raise UserError(
            f"template=qa is read from a model's folder, and backend={config.backend_name} knows a "
            "server only: say template=raw or template=chat"
        )
    settings = {"model": config.model.model_args[PATH], "template": asdict(args)}
    return RequestBuilder(config, columns, None, None, None), lambda: settings


def _describe_run(config: InferConfig, columns: Columns) -> dict[str, Any]:
    """Name what an answer depends on beside the row and the model, each under the key that sets
    it."""
    backend_args = {}
    for name, value in vars(config.backend).items():
        if name not in config.backend.FREE:
            backend_args[name] = value
    settings = {
        "kind": config.kind,
        "modality": config.modality,
        "backend": config.backend_name,
        "backend_args": backend_args,
        "seed": config.seed if config.sampling.drawn else 0,
    }
    if config.kind == "generate":
        settings.update(asdict(config.sampling))
    for name, value in vars(columns).items():
        # A table of an older run has no column that follows.
        if name != "following" or value:
            settings[f"{name}_column"] = value
    for name in ("id_column", "output_column", "keep_columns", "too_long"):
        settings[name] = getattr(config, name)
    return settings
