"""The configuration as dataclasses: what a run is told, section by section."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from unteach import registry
from unteach.config.audits import ENDPOINT, ENGINE, LOCAL, AuditSettings
from unteach.config.dual_optim import DualOptim
from unteach.config.files import Files
from unteach.config.suites import SuiteConfig
from unteach.config.watching import Guard, Land, Profiler, Samples
from unteach.errors import UserError

BESIDE = {
    "alternate": "forget",
    "retain_alternate": "retain",
    "chosen": "train",
    "rejected": "train",
    "mismatched": "train",
}
"""Streams that stand beside one another in the rows of a stream of the configuration: each is a
part of every row."""
PARTS = {"retain_alternate": "alternate"}
"""What the part of a row is called that such a stream takes, where that is not its own name."""
PATH = "pretrained_model_name_or_path"
"""The argument that says which model, and which tokenizer."""
MODEL_KEY = f"model.model_args.{PATH}"
TOKENIZER_KEY = f"model.tokenizer_args.{PATH}"
REFUSAL = "refusal"
"""The stream of prompts that the model refuses to answer."""
LANDING = "landing"
"""The stream of prompts whose answers, as the model writes them, a landing measures on."""
NO_LANDING = (
    "is what a landing is measured on, and this run does not land; set trainer.land.budget, or "
    "leave it out"
)
PROMPT_STREAMS = (REFUSAL, LANDING)
STREAMS = ("train", "validation", "holdout", "forget", "retain", "alternate", *PROMPT_STREAMS)


def has_held_out_rows(data: object) -> bool:
    """Whether `data` has rows that are held out and measured: a stream of them, or how they come
    from files."""
    if not isinstance(data, dict):
        return False
    keys = ("validation", "validation_file", "validation_fraction")
    return any(data.get(key) for key in keys)


def begins_by_fila(peft_args: dict[str, Any] | None) -> bool:
    """Whether a fresh adapter begins by FILA, an initialisation that is ours and not PEFT's."""
    return str((peft_args or {}).get("init_lora_weights")).lower() == "fila"


@dataclass(frozen=True)
class Paths:
    output_dir: str
    cache_dir: str = "saves/.cache"
    model_cache_dir: str | None = None
    data_cache_dir: str | None = None


@dataclass(frozen=True)
class TemplateArgs:
    """How a question becomes a prompt. The tags are used where no chat template applies."""

    kind: Literal["auto", "raw", "chat", "qa"] = "auto"
    apply_chat_template: bool | None = None
    chat_template: str | None = None
    """the name of one of the tokenizer's chat templates, where it has several; else its default"""
    system_prompt: str | None = None
    system_prompt_with_special_tokens: str | None = None
    date_string: str | None = None
    user_start_tag: str | None = None
    user_end_tag: str | None = None
    asst_start_tag: str | None = None
    asst_end_tag: str | None = None
    answer_prefix: str | None = None
    """stands before an answer and belongs to it: the space that a byte-level BPE learned its words
    with"""
    boundary: Literal["apart", "joint"] = "apart"
    special_tokens: Literal["text", "tokens"] = "text"
    """what a special token is that stands in a question, an answer or a text: the letters that it
    is written with, or the token"""


NOT_TRAINED = "makes a new adapter, and nothing is trained here; model=FOLDER takes one that was"
NOT_SAVED = "says how a trained model is saved, and nothing is trained here; leave it out"


@dataclass(frozen=True)
class ModelConfig:
    model_args: dict[str, Any]
    tokenizer_args: dict[str, Any] = field(default_factory=dict)
    template_args: TemplateArgs = field(default_factory=TemplateArgs)
    model_handler: str = "AutoModelForCausalLM"
    pure_bf16: bool = False
    packed: bool = False
    """rows go through the model end to end, without padding: for FlashAttention, and rows of very
    unequal lengths"""
    peft_args: dict[str, Any] | None = None
    """LoraConfig's own names: only an adapter trains. init_lora_weights=fila begins it where the
    weights matter more to the rows to forget (docs/methods.md, IHL)"""
    added_tokens: list[str] = field(default_factory=list)
    """special tokens that the tokenizer lacks: each gets a row of the embeddings, which trains
    under LoRA too"""
    base_path: str | None = None
    """where an adapter's base is, if not where it was trained"""
    merge_adapter: bool = False
    """the final model is saved whole, its adapter merged into the base; the adapter is kept in
    `adapter/`"""


@dataclass(frozen=True)
class ComponentConfig:
    """A class, the name that it is registered under where the run is composed, and its
    arguments."""

    KIND: ClassVar[registry.Registry]
    handler: str
    args: dict[str, Any]
    cls: type

    @classmethod
    def find(cls, handler: str, args: dict[str, Any]) -> Self:
        """Find the class of a name. Raises UserError where there is none."""
        return cls(handler, args, cls.KIND.get(handler))


@dataclass(frozen=True)
class DatasetConfig(ComponentConfig):
    """One dataset of a stream."""

    KIND = registry.dataset


@dataclass(frozen=True)
class CollatorConfig(ComponentConfig):
    """What makes a batch of examples."""

    KIND = registry.collator


@dataclass(frozen=True)
class DataConfig:
    """Streams by name, each of one dataset or several in a row. The anchor's length is an epoch.

    files: the user's own, whose datasets are among the streams once `resolve_files` has read the
    heads of the files. measured: those of them that the run does not train on and a suite measures,
    by role. notes: how the files are read, a sentence each.
    """

    streams: dict[str, dict[str, DatasetConfig]]
    anchor: str = "train"
    files: Files | None = None
    measured: dict[str, dict[str, DatasetConfig]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForgetSet:
    """Which rows are to be forgotten: those about entities that are drawn at random or named (see
    data/entities.py).

    by: `question` (rows themselves), `relationship` (pairs of entities that a row is about), or a
    kind of entity: author, book, publisher… fraction, count: how many of them are drawn, rounded
    down; named: which they are (pairs for relationship, row numbers for question). stratified: a
    kind of entity; so many are drawn within each of these.
    author_block: rows in a row that are about one author, where the rows do not say what they are
    about (TOFU: 20).
    kinds_path: a JSON file with the kind of each key, where the rows do not say it: {key: kind} or
    {key: {type: kind}}.
    """

    by: str = "author"
    fraction: float | None = None
    count: int | None = None
    named: list[Any] | None = None
    stratified: str | None = None
    seed: int = 0
    author_block: int | None = None
    kinds_path: str | None = None

    def __post_init__(self) -> None:
        ways = (self.fraction, self.count, self.named)
        if ways.count(None) != len(ways) - 1:
            raise UserError("give one of fraction, count, named: how many are forgotten, or which")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise UserError(f"fraction must lie between 0 and 1, got {self.fraction}")
        if self.count is not None and self.count < 1:
            raise UserError(f"count must be 1 or more, got {self.count}")
        if self.named is not None and self.stratified:
            raise UserError(
                "stratified is about a draw, and named names all there is; leave one out"
            )
        if self.author_block is not None and self.author_block < 1:
            raise UserError(f"author_block must be 1 or more, got {self.author_block}")


@dataclass(frozen=True)
class TheirTrainer:
    """A plugin's subclass of transformers.Trainer and the arguments it takes; its loss is its
    own."""

    cls: type
    arguments: dict[str, Any]

    def streams(self) -> tuple[str, ...]:
        """It does not say which streams it trains on: all that the configuration has."""
        return ()


@dataclass(frozen=True)
class TrainerConfig:
    """A method by its registered name, with its fields checked, and the TrainingArguments of the
    run."""

    handler: str
    method: Any
    args: dict[str, Any]
    guard: Guard | None = None
    samples: Samples | None = None
    profiler: Profiler | None = None
    land: Land | None = None
    dual_optim: DualOptim | None = None
    surgery: Any = None
    """methods.wrap.surgery.Surgery: combines the forget and the retain gradient"""
    perturb: Any = None
    """methods.wrap.perturb.Perturbation: of the forget side"""

    @property
    def does_land(self) -> bool:
        """Whether the run lands on a budget: by `land`, or by its method's own search."""
        return self.land is not None or getattr(self.method, "LANDS_ITSELF", False)


@dataclass(frozen=True)
class Wandb:
    """How a run is told to Weights & Biases (trainer.args.report_to=wandb). In a study the group is
    the study and the job type the kind of run; a run that goes on is the same run there. dir: where
    its files are written."""

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    log_model: Literal["false", "end", "checkpoint"] = "false"
    dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a training run and an evaluation have in common."""

    mode: str
    task_name: str
    seed: int
    paths: Paths
    model: ModelConfig
    data: DataConfig | None = None
    collator: CollatorConfig | None = None
    eval: dict[str, SuiteConfig] = field(default_factory=dict)
    wandb: Wandb | None = None
    resume: str = "auto"
    launch: str | None = None
    nproc: int | None = None
    plugins: list[str] = field(default_factory=list)
    tree: dict[str, Any] = field(default_factory=dict)
    """the whole resolved tree as plain values, as it is written into the run's folder"""
    command: str = ""
    """the command line that composes it, without secrets"""

    def measures_own_rows(self) -> bool:
        """Whether a suite measures the rows of `data`, by their role."""
        return any(suite.reads_own_rows() for suite in self.eval.values())


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A run of `unteach train` or `unteach unlearn`."""

    trainer: TrainerConfig
    data: DataConfig
    gpu_bytes: int | None = None
    """the memory that it is to fit into, where it is only checked; None: that of this machine"""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(RunConfig):
    """A run of `unteach eval`; `data` is there where a suite measures the user's own rows."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig(RunConfig):
    """A run of `unteach audit`: the facts are the rows of data.forget.

    backend: the server that is asked (an inference backend's object); None: the model is run here.
    engine: what runs it here in place of transformers (the object of backend=vllm).
    """

    audit: AuditSettings
    data: DataConfig
    backend: Any = None
    engine: Any = None

    @property
    def backend_name(self) -> str:
        """What `backend` was set to."""
        if self.backend is not None:
            return ENDPOINT
        return LOCAL if self.engine is None else ENGINE

    def measures_own_rows(self) -> bool:
        """Whether the rows of `data` are measured: they are what an audit is about."""
        return True
