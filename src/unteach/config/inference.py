"""What `unteach infer` is told: how text is continued, and all that a run of it needs to know."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from unteach import registry
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
        return (
            any(getattr(self, name) is not None for name in DRAWN)
            if self.do_sample is None
            else self.do_sample
        )

    def asked(self) -> dict[str, Any]:
        """The options that are not at their defaults, and that not every backend has."""
        names = [f.name for f in fields(self) if f.name not in ("max_new_tokens", "do_sample")]
        changed = {
            name: getattr(self, name)
            for name in names
            if getattr(self, name) != getattr(PLAIN, name)
        }
        return changed | ({"do_sample": True} if self.drawn else {})

    def __post_init__(self) -> None:
        problems = list(_wrong(self))
        if problems:
            raise UserError("; ".join(problems))


def _wrong(asked: Sampling) -> list[str]:
    """A sentence for each value that is impossible, alone or beside another."""
    found = []
    least = {"max_new_tokens": 1, "num_return_sequences": 1, "num_beams": 1, "top_k": 1}
    for name, bound in least.items():
        if (value := getattr(asked, name)) is not None and value < bound:
            found.append(f"{name} must be {bound} or more, got {value}")
    if asked.temperature is not None and asked.temperature <= 0:
        found.append(
            f"temperature must be more than 0, got {asked.temperature}; do_sample=false takes the "
            f"likeliest"
        )
    for name in ("top_p", "min_p"):
        if (value := getattr(asked, name)) is not None and not 0 < value <= 1:
            found.append(f"{name} must be more than 0 and at most 1, got {value}")
    if asked.repetition_penalty is not None and asked.repetition_penalty <= 0:
        found.append(
            f"repetition_penalty must be more than 0 (1 is none), got {asked.repetition_penalty}"
        )
    if any(not stop for stop in asked.stop_strings):
        found.append("stop_strings must not be empty texts")
    said = [name for name in DRAWN if getattr(asked, name) is not None]
    if asked.do_sample is False and said:
        says = "says" if len(said) == 1 else "say"
        found.append(
            f"{', '.join(said)} {says} how tokens are drawn, and do_sample=false draws none; leave "
            f"one out"
        )
    beams, several = asked.num_beams or 1, asked.num_return_sequences
    if beams > 1 and asked.drawn:
        found.append(
            "num_beams searches for the likeliest text and draws none; leave out do_sample or "
            "num_beams"
        )
    if several > beams and not asked.drawn:
        found.append(
            f"num_return_sequences={several} would be one text {several} times: set "
            f"do_sample=true, or num_beams to {several} or more"
        )
    return found


PLAIN = Sampling()
INPUTS = ("input", "messages", "prompt", "question", "text")
INSTRUCTION = "instruction"
"""Alpaca's column, which the column input follows."""
ANSWERS = ("output", "answer", "completion", "generation")
"""Columns that are found by themselves."""


@dataclass
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
    backend_class = (
        registry.backend.get(name) if isinstance(name, str) and name in registry.backend else None
    )
    top = select_known(reader, KEYS, set(), tree, backend_class)
    model = parse_model(reader, top.get("model") or {})
    if model and model.merge_adapter:
        reader.wrong("model.merge_adapter", NOT_SAVED)
    if model and model.peft_args:
        reader.wrong("model.peft_args", NOT_TRAINED)
    if isinstance(top.get("resume"), bool):  # resume=false is how the seed's users say it
        top["resume"] = "auto" if top["resume"] else "never"
    hints = get_type_hints(InferConfig)
    plain = {
        name: reader.value(hints[name], top[name], name)
        for name in OWN - {"model", "backend"}
        if name in top
    }
    sampling = reader.record(Sampling, {name: top[name] for name in DRAWING if name in top}, "")
    backend = _backend(reader, top.get("backend"), top.get("backend_args") or {})
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


def _backend(reader: Reader, name: Any, given: Any) -> Any:
    try:
        cls = registry.backend.get(str(name))
    except UserError as error:
        reader.wrong("backend", str(error))
        return None
    return reader.record(cls, given, "backend_args")


def _find_impossible(config: InferConfig) -> list[str]:
    """What the backend that was asked for cannot do, and which can; options that would be
    ignored."""
    found, backend = [], config.backend

    def others(can: Callable[[Any], bool]) -> str:
        names = [entry.name for entry in registry.backend.entries() if can(entry.target)]
        return f"; these can: {', '.join(f'backend={name}' for name in names)}" if names else ""

    for what in ("kind", "modality"):
        value = getattr(config, what)
        of = f"{what.upper().removesuffix('Y')}{'IES' if what == 'modality' else 'S'}"
        if value not in getattr(backend, of):
            can = others(lambda cls, of=of, value=value: value in getattr(cls, of))  # type: ignore[misc]
            found.append(f"{what}={value}: backend={config.backend_name} cannot do it{can}")
    asked = config.sampling.asked()
    if config.kind == "generate":
        for name in asked.keys() - backend.OPTIONS:
            can = others(lambda cls, name=name: name in cls.OPTIONS)  # type: ignore[misc]
            found.append(f"{name}: backend={config.backend_name} cannot do it{can}")
    else:
        given = sorted(asked) + ["max_new_tokens"] * (
            config.sampling.max_new_tokens != PLAIN.max_new_tokens
        )
        found += [
            f"{name}: says how text is continued, and kind={config.kind} continues none"
            for name in given
        ]
    if config.answer_column is not None and config.kind != "score":
        found.append(f"answer_column: is what kind=score scores; kind={config.kind} reads none")
    if config.modality == "vlm" and config.kind != "generate":
        found.append(
            f"kind={config.kind}: modality=vlm only continues conversations with images in them"
        )
    if config.too_long != "error" and (config.modality == "vlm" or not backend.LOCAL):
        who = "modality=vlm" if backend.LOCAL else f"backend={config.backend_name}"
        found.append(
            f"too_long={config.too_long}: with {who} the tokens of a prompt are not known "
            f"beforehand"
        )
    if config.quantization and not backend.LOCAL:
        found.append(
            f"quantization: backend={config.backend_name} asks a server, which loads its model "
            f"itself"
        )
    if config.launch is not None and config.launch.startswith(("fsdp", "zero")):
        found.append(
            f"launch={config.launch}: spreads what is trained; for inference, launch=ddp shares "
            f"the rows"
        )
    if config.nproc is not None and config.launch is None:
        found.append("nproc: says how many processes launch starts: set launch=ddp too")
    if not 0 <= config.seed < 2**32:
        found.append(f"seed: must be from 0 to {2**32 - 1}, got {config.seed}")
    return found


def find_output_file(config: InferConfig) -> Path:
    """Find where the answers go: output_file, or <input>_output.jsonl beside the input.

    Raises:
        UserError: where that is no name for them, or the input itself.
    """
    source = config.input_file
    path = Path(source).expanduser() if isinstance(source, str) else None
    if config.output_file is not None:
        output = Path(config.output_file).expanduser()
        if output.suffix != ".jsonl":
            raise UserError(
                f"output_file={output}: its name must end in .jsonl, for it holds JSON lines"
            )
    elif path is not None and path.exists():
        output = path.with_name(f"{path.stem if path.is_file() else path.name}_output.jsonl")
    else:
        raise UserError(
            "output_file: is required where the rows come from no file here; set "
            "output_file=NAME.jsonl"
        )
    if path is not None and output.resolve() == path.resolve():
        raise UserError(f"output_file={output}: is the input itself; name another file")
    return output
