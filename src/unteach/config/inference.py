"""What `unteach infer` is told: how text is continued, and all that a run of it needs to know."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from unteach import registry
from unteach.config.files import get_stem
from unteach.config.parse_config import parse_model, select_known
from unteach.config.reader import ConfigErrors, Reader
from unteach.config.schema import NOT_SAVED, NOT_TRAINED, ModelConfig
from unteach.errors import UserError

DRAWN = ("temperature", "top_p", "top_k", "min_p")
"""Options that say how a token is drawn; any of them means do_sample."""


@dataclass(frozen=True)
class Sampling:
    """How a prompt is continued, by transformers' names. What is null is off; a model's own
    defaults are not used.

    do_sample: null draws where temperature, top_p, top_k or min_p is given, and otherwise takes the
    likeliest token.
    stop_strings: end a text, and are cut from it with all that follows. perplexity: the log-probs
    of the continuation are kept, those of the model itself: before temperature, penalties and cuts.
    """

    max_new_tokens: int = 256
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    num_beams: int | None = None
    num_return_sequences: int = 1
    stop_strings: list[str] = field(default_factory=list)
    perplexity: bool = False

    @property
    def drawn(self) -> bool:
        """Whether tokens are drawn at random."""
        if self.do_sample is not None:
            return self.do_sample
        return any(getattr(self, name) is not None for name in DRAWN)

    def list_changed(self) -> dict[str, Any]:
        """List the options that are not at their defaults, and that not every backend has."""
        changed = {}
        for option in fields(self):
            if option.name in ("max_new_tokens", "do_sample"):
                continue
            value = getattr(self, option.name)
            if value != getattr(PLAIN, option.name):
                changed[option.name] = value
        if self.drawn:
            changed["do_sample"] = True
        return changed

    def __post_init__(self) -> None:
        problems = _find_wrong_values(self)
        problems += _find_clashes(self)
        if problems:
            raise UserError("; ".join(problems))


LEAST = {
    "max_new_tokens": 1,
    "num_return_sequences": 1,
    "num_beams": 1,
    "top_k": 1,
}
"""The least value that an option may have."""


def _find_wrong_values(sampling: Sampling) -> list[str]:
    """Write a sentence for each value that is impossible by itself."""
    problems = []
    for name, bound in LEAST.items():
        value = getattr(sampling, name)
        if value is not None and value < bound:
            problems.append(f"{name} must be {bound} or more, got {value}")
    if sampling.temperature is not None and sampling.temperature <= 0:
        problems.append(
            f"temperature must be more than 0, got {sampling.temperature}; do_sample=false takes "
            f"the likeliest"
        )
    for name in ("top_p", "min_p"):
        value = getattr(sampling, name)
        if value is not None and not 0 < value <= 1:
            problems.append(f"{name} must be more than 0 and at most 1, got {value}")
    penalty = sampling.repetition_penalty
    if penalty is not None and penalty <= 0:
        problems.append(f"repetition_penalty must be more than 0 (1 is none), got {penalty}")
    if not all(sampling.stop_strings):
        problems.append("stop_strings must not be empty texts")
    return problems


def _find_clashes(sampling: Sampling) -> list[str]:
    """Write a sentence for each value that is impossible beside another."""
    problems = []
    drawing = [name for name in DRAWN if getattr(sampling, name) is not None]
    if sampling.do_sample is False and drawing:
        names = ", ".join(drawing)
        says = "says" if len(drawing) == 1 else "say"
        problems.append(
            f"{names} {says} how tokens are drawn, and do_sample=false draws none; leave one out"
        )
    num_beams = sampling.num_beams or 1
    num_texts = sampling.num_return_sequences
    if num_beams > 1 and sampling.drawn:
        problems.append(
            "num_beams searches for the likeliest text and draws none; leave out do_sample or "
            "num_beams"
        )
    if num_texts > num_beams and not sampling.drawn:
        problems.append(
            f"num_return_sequences={num_texts} would be one text {num_texts} times: set "
            f"do_sample=true, or num_beams to {num_texts} or more"
        )
    return problems


PLAIN = Sampling()
INPUTS = ("input", "messages", "prompt", "question", "text")
INSTRUCTION = "instruction"
"""Alpaca's column, which the column input follows."""
ANSWERS = ("output", "answer", "completion", "generation")
"""Columns that are found by themselves."""


@dataclass(frozen=True)
class InferConfig:
    """All that `unteach infer` is told (configs/infer.yaml says each in words).

    backend: an object of the backend's own class. tree: the resolved configuration as plain values.
    """

    model: ModelConfig
    input_file: str | dict[str, Any]
    backend_name: str
    backend: Any
    sampling: Sampling
    seed: int = 0
    kind: Literal["generate", "score", "classify"] = "generate"
    modality: Literal["lm", "vlm"] = "lm"
    output_file: str | None = None
    input_column: str | None = None
    answer_column: str | None = None
    image_column: str = "image"
    id_column: str | None = None
    output_column: str = "output"
    keep_columns: list[str] | None = None
    too_long: Literal["error", "truncate_left", "skip"] = "error"
    quantization: Literal["4bit", "8bit"] | None = None
    resume: Literal["auto", "never"] = "auto"
    changed: Literal["refuse", "redo"] = "refuse"
    launch: str | None = None
    nproc: int | None = None
    plugins: list[str] = field(default_factory=list)


OWN = {f.name for f in fields(InferConfig)} - {"backend_name", "sampling"}
DRAWING = {f.name for f in fields(Sampling)}
KEYS = {*OWN, *DRAWING, "mode", "template", "backend_args"}
"""The keys of configs/infer.yaml: its own, those of Sampling, and what only composition reads."""


def parse_infer_config(tree: dict[str, Any], variables: set[str]) -> InferConfig:
    """Parse the composed, resolved tree of configs/infer.yaml.

    Args:
        tree: plain values.
        variables: not used: no file declares names for its own interpolations here.

    Raises:
        UserError: with every mistake found.
    """
    reader = Reader()
    name = tree.get("backend")
    backend_class = None
    if isinstance(name, str) and name in registry.backend:
        backend_class = registry.backend.get(name)
    top = select_known(reader, KEYS, set(), tree, backend_class)
    model = parse_model(reader, top.get("model") or {})
    if model and model.merge_adapter:
        reader.wrong("model.merge_adapter", NOT_SAVED)
    if model and model.peft_args:
        reader.wrong("model.peft_args", NOT_TRAINED)
    if isinstance(top.get("resume"), bool):  # resume=false is how the seed's users say it
        top["resume"] = "auto" if top["resume"] else "never"
    hints = get_type_hints(InferConfig)
    plain = {}
    for name in OWN - {"model", "backend"}:
        if name in top:
            plain[name] = reader.value(hints[name], top[name], name)
    sampling_options = {name: top[name] for name in DRAWING if name in top}
    sampling = reader.record(Sampling, sampling_options, "")
    backend_args = top.get("backend_args") or {}
    backend = _parse_backend(reader, top.get("backend"), backend_args)
    if not reader.problems and model and sampling:
        config = InferConfig(
            model=model,
            backend_name=top["backend"],
            backend=backend,
            sampling=sampling,
            **plain,
        )
        reader.problems += _find_impossible(config)
    if reader.problems:
        raise ConfigErrors(reader.problems)
    return config


def _parse_backend(reader: Reader, name: object, args: object) -> Any:
    """Build the backend of a name; None, and reported, where it cannot be."""
    try:
        cls = registry.backend.get(str(name))
    except UserError as error:
        reader.wrong("backend", str(error))
        return None
    return reader.record(cls, args, "backend_args")


def _list_able(attribute: str, value: str) -> str:
    """Say which backends have a value among those of an attribute of their class."""
    able = []
    for entry in registry.backend.entries():
        if value in getattr(entry.target, attribute):
            able.append(f"backend={entry.name}")
    if not able:
        return ""
    names = ", ".join(able)
    return f"; these can: {names}"


CAPABILITIES = {
    "kind": "KINDS",
    "modality": "MODALITIES",
}
"""Keys, and the attribute of a backend's class with the values that it can do."""


def _find_impossible(config: InferConfig) -> list[str]:
    """Find what the backend that was asked for cannot do, and which can; options that would be
    ignored."""
    found = []
    backend = config.backend
    name = config.backend_name
    for key, attribute in CAPABILITIES.items():
        value = getattr(config, key)
        if value not in getattr(backend, attribute):
            able = _list_able(attribute, value)
            found.append(f"{key}={value}: backend={name} cannot do it{able}")
    options = config.sampling.list_changed()
    if config.kind == "generate":
        for option in options.keys() - backend.OPTIONS:
            able = _list_able("OPTIONS", option)
            found.append(f"{option}: backend={name} cannot do it{able}")
    else:
        ignored = sorted(options)
        if config.sampling.max_new_tokens != PLAIN.max_new_tokens:
            ignored.append("max_new_tokens")
        for option in ignored:
            found.append(
                f"{option}: says how text is continued, and kind={config.kind} continues none"
            )
    if config.answer_column is not None and config.kind != "score":
        found.append(f"answer_column: is what kind=score scores; kind={config.kind} reads none")
    if config.modality == "vlm" and config.kind != "generate":
        found.append(
            f"kind={config.kind}: modality=vlm only continues conversations with images in them"
        )
    counts_tokens = backend.LOCAL and config.modality != "vlm"
    if config.too_long != "error" and not counts_tokens:
        who = "modality=vlm" if backend.LOCAL else f"backend={name}"
        found.append(
            f"too_long={config.too_long}: with {who} the tokens of a prompt are not known "
            f"beforehand"
        )
    if config.quantization and not backend.LOCAL:
        found.append(f"quantization: backend={name} asks a server, which loads its model itself")
    if config.launch is not None and config.launch.startswith(("fsdp", "zero")):
        found.append(
            f"launch={config.launch}: spreads what is trained; for inference, launch=ddp shares "
            f"the rows"
        )
    if config.nproc is not None and config.launch is None:
        found.append("nproc: says how many processes launch starts: set launch=ddp too")
    most = 2**32 - 1
    if not 0 <= config.seed <= most:
        found.append(f"seed: must be from 0 to {most}, got {config.seed}")
    return found


def find_output_file(config: InferConfig) -> Path:
    """Find where the answers go: output_file, or <input>_output.jsonl beside the input.

    Raises:
        UserError: where that is no name for them, or the input itself.
    """
    path = None
    if isinstance(config.input_file, str):
        path = Path(config.input_file).expanduser()
    if config.output_file is not None:
        output = Path(config.output_file).expanduser()
        if output.suffix != ".jsonl":
            raise UserError(
                f"output_file={output}: its name must end in .jsonl, for it holds JSON lines"
            )
    elif path is not None and path.exists():
        stem = get_stem(path) if path.is_file() else path.name
        output = path.with_name(f"{stem}_output.jsonl")
    else:
        raise UserError(
            "output_file: is required where the rows come from no file here; set "
            "output_file=NAME.jsonl"
        )
    if path is not None and output.resolve() == path.resolve():
        raise UserError(f"output_file={output}: is the input itself; name another file")
    return output
