"""What a run of inference will ask, found out before any weights are loaded: prompts, and what
answers depend on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from unteach import fingerprints, run_dir
from unteach.config.inference import INSTRUCTION, InferConfig
from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.data.template import load_saved_args
from unteach.engines.hf import get_context_length
from unteach.errors import UserError
from unteach.inference.input_table import Columns, InputTable
from unteach.inference.requests import MESSAGES, PreparedRequests, RequestBuilder, shown
from unteach.models.hub import PATH
from unteach.models.loading import get_fingerprints_path
from unteach.models.vision import load_empty
from unteach.wording import counted

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
SHOWN = 3
"""Places of rows that a note lists."""
BITS: dict[str, dict[str, Any]] = {
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "8bit": {"load_in_8bit": True},
}


@dataclass
class Plan:
    """settings: all that an answer depends on beside its row. said: what the user should know
    before it starts."""

    model: ModelConfig
    asked: PreparedRequests
    settings: dict[str, Any]
    said: list[str]
    longest: int


@dataclass
class PromptBuilder:
    """Builds a model's prompts; its tokenizer and template are read, its weights are not.

    describe_model: what answers depend on of the model; it takes the digest of the weights' files,
    which costs time.
    notes: what the user should know of how the model is asked.
    """

    model: ModelConfig
    asker: RequestBuilder
    describe_model: Callable[[], dict[str, Any]]
    notes: list[str]


def build_prompter(config: InferConfig, columns: Columns) -> PromptBuilder:
    """Reads the tokenizer and the template of the model that `config` names."""
    model, notes = _quantised(config), list[str]()
    if config.backend.LOCAL and config.modality == "vlm":
        asker, describe_model = _seeing(replace(config, model=model), columns)
    elif config.backend.LOCAL:
        model, by_column = _templated(model, columns.input)
        asker, describe_model = _local(replace(config, model=model), columns)
        if by_column and asker.template:
            notes.append(_of_template(asker.template, columns.input))
    else:
        asker, describe_model = _remote(config, columns)
    return PromptBuilder(model, asker, describe_model, notes)


def plan(config: InferConfig, columns: Columns, sheet: InputTable) -> Plan:
    """Builds every prompt, and names what the answers depend on."""
    said = (
        [f"the columns {', '.join(sheet.not_kept)} hold no plain values and are not kept"]
        if sheet.not_kept
        else []
    )
    prompter = build_prompter(config, columns)
    said += prompter.notes
    asked = prompter.asker.ask(sheet)
    if asked.special:
        listed = ", ".join(asked.special[:SHOWN]) + (" …" if len(asked.special) > SHOWN else "")
        said.append(
            f"{counted(len(asked.special), 'row')} with the text of special tokens, which is read "
            f"as text ({listed}); model.template_args.special_tokens=tokens reads them as the "
            "tokens"
        )
    said.append(f"the first prompt: {shown(asked.requests)!r}")
    settings = {**prompter.describe_model(), **_of_run(config, columns)}
    return Plan(prompter.model, asked, settings, said, asked.longest + prompter.asker.new)


def _quantised(config: InferConfig) -> ModelConfig:
    if config.quantization is None:
        return config.model
    if "quantization_config" in config.model.model_args:
        raise UserError(
            "quantization and model.model_args.quantization_config say one thing in two ways; give "
            "one"
        )
    bits: dict[str, Any] = {
        "quantization_config": {"quant_method": "bitsandbytes", **BITS[config.quantization]}
    }
    return replace(config.model, model_args={**config.model.model_args, **bits})


def _templated(model: ModelConfig, column: str) -> tuple[ModelConfig, bool]:
    """The model's template: as it is configured or saved; else by the column, as everywhere.
    Whether it was by that."""
    folder = run_dir.find_model_folder(str(model.model_args[PATH]))
    if model.template_args != TemplateArgs() or load_saved_args(folder) is not None:
        return model, False
    kind = {MESSAGES: "chat", "question": "auto", INSTRUCTION: "auto"}.get(column, "raw")
    return replace(model, template_args=TemplateArgs(kind=kind)), True  # type: ignore[arg-type]


def _of_template(template: "Template", column: str) -> str:
    chat = getattr(template.tokenizer, "chat_template", None) and template.kind != "chat"
    said = (
        f"no template was saved with this model: the column {column!r} is asked as {template.kind}"
    )
    return said + ("; it has a chat template, which template=chat takes" if chat else "")


def _local(
    config: InferConfig, columns: Columns
) -> tuple[RequestBuilder, Callable[[], dict[str, Any]]]:
    if config.kind == "classify":
        from unteach.inference.backends.classifier import load_empty
    else:
        from unteach.models.loading import load_empty
    empty = load_empty(config.model)
    shown_by = None if config.kind == "classify" else empty.template
    asker = RequestBuilder(
        config, columns, shown_by, empty.tokenizer, get_context_length(empty.model)
    )
    given = {name: value for name, value in config.model.model_args.items() if name not in FREE}
    template = {**asdict(shown_by.args), "kind": shown_by.kind} if shown_by else None

    def describe_model() -> dict[str, Any]:
        return {
            "model": empty.identity(get_fingerprints_path()),
            "model_args": given,
            "dtype": empty.compute,
            "tokenizer": _of_tokenizer(empty.tokenizer),
            "template": template,
        }

    return asker, describe_model


def _seeing(
    config: InferConfig, columns: Columns
) -> tuple[RequestBuilder, Callable[[], dict[str, Any]]]:
    """Of a model that reads images; its prompts are made where its images are read."""
    empty = load_empty(config.model)
    given = {name: value for name, value in config.model.model_args.items() if name not in FREE}

    def describe_model() -> dict[str, Any]:
        return {
            "model": empty.identity(get_fingerprints_path()),
            "model_args": given,
            "dtype": empty.compute,
            "tokenizer": _of_tokenizer(empty.tokenizer),
            "processor": fingerprints.hash_value(empty.processor.to_dict()),
            "template": fingerprints.hash_value(empty.processor.chat_template),
        }

    return RequestBuilder(config, columns, None, None, None), describe_model


def _of_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return fingerprints.hash_value(
        [words, getattr(tokenizer, "chat_template", None), tokenizer.special_tokens_map]
    )


def _remote(
    config: InferConfig, columns: Columns
) -> tuple[RequestBuilder, Callable[[], dict[str, Any]]]:
    args = config.model.template_args
    if args.kind == "qa":
        raise UserError(
            f"template=qa is read from a model's folder, and backend={config.backend_name} knows a "
            "server only: say template=raw or template=chat"
        )
    settings = {"model": config.model.model_args[PATH], "template": asdict(args)}
    return RequestBuilder(config, columns, None, None, None), lambda: settings


def _of_run(config: InferConfig, columns: Columns) -> dict[str, Any]:
    """What an answer depends on beside the row and the model, each under the key that sets it."""
    backend = {
        name: value
        for name, value in vars(config.backend).items()
        if name not in config.backend.FREE
    }
    sampling = asdict(config.sampling) if config.kind == "generate" else {}
    return {
        "kind": config.kind,
        "modality": config.modality,
        "backend": config.backend_name,
        "backend_args": backend,
        "seed": config.seed if config.sampling.drawn else 0,
        **sampling,
        **{
            f"{name}_column": value
            for name, value in vars(columns).items()
            if name != "following" or value
        },
        **{
            name: getattr(config, name)
            for name in ("id_column", "output_column", "keep_columns", "too_long")
        },
    }
