"""The configuration as dataclasses: what a run is told, section by section."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from unteach.errors import UserError

BESIDE = {"alternate": "forget", "chosen": "train", "rejected": "train", "mismatched": "train"}
"""Streams that stand beside one another in the rows of a stream of the configuration: each is a part of every row."""


def holds_out(data: Any) -> bool:
    """Whether `data` has rows that are held out and measured: a stream of them, or how they come from files."""
    return isinstance(data, dict) and any(data.get(f"validation{kind}") for kind in ("", "_file", "_fraction"))


@dataclass
class Paths:
    output_dir: str
    cache_dir: str = "saves/.cache"
    model_cache_dir: str | None = None
    data_cache_dir: str | None = None


@dataclass
class TemplateArgs:
    """How a question becomes a prompt. The tags are used where no chat template applies."""

    kind: Literal["auto", "raw", "chat", "qa"] = "auto"
    apply_chat_template: bool | None = None
    system_prompt: str | None = None
    system_prompt_with_special_tokens: str | None = None
    date_string: str | None = None
    user_start_tag: str | None = None
    user_end_tag: str | None = None
    asst_start_tag: str | None = None
    asst_end_tag: str | None = None
    answer_prefix: str | None = None
    """stands before an answer and belongs to it: the space that a byte-level BPE learned its words with"""
    boundary: Literal["apart", "joint"] = "apart"


@dataclass
class ModelConfig:
    model_args: dict[str, Any]
    tokenizer_args: dict[str, Any] = field(default_factory=dict)
    template_args: TemplateArgs = field(default_factory=TemplateArgs)
    model_handler: str = "AutoModelForCausalLM"
    pure_bf16: bool = False
    packed: bool = False
    """rows go through the model end to end, without padding: for FlashAttention, and rows of very unequal lengths"""
    peft_args: dict[str, Any] | None = None
    """LoraConfig's own names: only an adapter trains"""
    added_tokens: list[str] = field(default_factory=list)
    """special tokens that the tokenizer lacks: each gets a row of the embeddings, which trains under LoRA too"""
    base_path: str | None = None
    """where an adapter's base is, if not where it was trained"""


@dataclass
class Part:
    """One dataset of a stream, or a collator: a registered class and its arguments."""

    handler: str
    args: dict[str, Any] = field(default_factory=dict)
    cls: Any = field(init=False, default=None)


Source = str | dict[str, Any]
"""A file or folder, a hub id, or the arguments of `datasets.load_dataset`."""


@dataclass
class Files:
    """Rows of your own (`data=files`): for each stream a file (csv, tsv, jsonl, json, parquet, arrow, txt), a folder of
    such files or of `unteach tokenize`, a hub id, or load_dataset's arguments.

    Columns are found by the names of what they are for: input and output, prompt and completion (or generation),
    question and answer, messages, text, chosen and rejected, label, forget, alternate.
    """

    train_file: Source | None = None
    """a method that unlearns takes the rows with forget=1 of it, and retains the others; all, without such a column"""
    validation_file: Source | None = None
    forget_file: Source | None = None
    retain_file: Source | None = None
    validation_fraction: float = 0.0
    """the share of train_file's rows that is held out, as a function of the seed"""
    max_rows: int | dict[str, int] | None = None
    """at most so many rows of each file, drawn by the seed; or a number for each stream"""
    columns: dict[str, str] = field(default_factory=dict)
    """what a column is for -> its name, where that is another: data.columns.input=Frage"""
    max_length: int | None = None
    """tokens of a row; null: as many as the model's context has, up to 2048"""
    too_long: Literal["truncate_right", "truncate_left", "drop", "split"] | None = None
    """what becomes of a longer row with an answer; null: truncate_right"""
    packing: Literal["chunked", "apart", "best_fit"] | None = None
    """how text is cut into rows; null: chunked"""
    pretrain_with_output: bool | None = None
    """whether pretraining learns the output column too; null: true"""
    txt: Literal["document", "line"] | None = None
    """what a .txt file holds; null: one document"""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"validation_fraction must be at least 0 and less than 1, got {self.validation_fraction:g}")
        if self.validation_fraction and self.validation_file is not None:
            raise UserError("validation_file and validation_fraction both say what to validate on; give one")
        if self.validation_fraction and self.train_file is None:
            raise UserError("validation_fraction holds out rows of train_file, and there is none")
        if self.max_length is not None and self.max_length < 2:
            raise UserError(f"max_length must be at least 2, got {self.max_length}")
        limits = self.max_rows if isinstance(self.max_rows, dict) else {"train": self.max_rows}
        for stream, most in limits.items():
            if self.of(stream) is None and most is not None and isinstance(self.max_rows, dict):
                of_train = stream in ("forget", "retain") or (stream == "validation" and self.validation_fraction)
                if not (of_train and self.train_file is not None):
                    raise UserError(f"max_rows.{stream}: there is no {stream}_file")
            if most is not None and most < 1:
                raise UserError(f"max_rows must be at least 1, got {most}")

    def of(self, stream: str) -> Source | None:
        """The file of a stream."""
        found: Source | None = getattr(self, f"{stream}_file", None)
        return found

    def most(self, stream: str) -> int | None:
        return self.max_rows.get(stream) if isinstance(self.max_rows, dict) else self.max_rows


@dataclass
class TokenizeConfig:
    """What `unteach tokenize` is told. kind: null is by the columns, prompts with answers unless there is only text."""

    input_file: Source
    output_file: str
    """the folder that the tokens are written to"""
    tokenizer_path: str
    """a model's folder, a run's folder, or a hub id"""
    max_length: int = 2048
    too_long: Literal["truncate_right", "truncate_left", "drop", "split"] | None = None
    """what becomes of a longer row; null: truncate_right, and split for text, which training cuts into rows"""
    kind: Literal["answers", "text"] | None = None
    template: Literal["raw", "chat", "qa"] | None = None
    """null: by the columns"""
    columns: dict[str, str] = field(default_factory=dict)
    """what a column is for -> its name: columns.input=Frage"""
    pretrain_with_output: bool | None = None
    """kind=text: whether the output column is text too; null: true"""
    txt: Literal["document", "line"] | None = None
    num_proc: int | None = None
    """processes; null: one for each processor"""
    template_args: TemplateArgs = field(default_factory=TemplateArgs)
    tokenizer_args: dict[str, Any] = field(default_factory=dict)
    added_tokens: list[str] = field(default_factory=list)
    """special tokens that the tokenizer does not have yet; training gets the same as model.added_tokens"""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise UserError(f"max_length must be at least 2, got {self.max_length}")
        if self.num_proc is not None and self.num_proc < 1:
            raise UserError(f"num_proc must be at least 1, got {self.num_proc}")


FILE_KEYS = frozenset(one.name for one in fields(Files))
RENAMED_FILE_KEYS = {
    "eval_file": "validation_file",
    "test_file": "validation_file; a file that is only measured is given to unteach eval",
    "train_validation_split": "validation_fraction, the share that is held out (1 less what it was)",
    "validation_test_split": "validation_fraction; rows that are only measured are given to unteach eval",
    "max_train_samples": "max_rows.train",
    "max_valid_samples": "max_rows.validation",
    "max_test_samples": "max_rows.validation",
    "max_input_length": "max_length",
    "input_column": "columns.input",
    "output_column": "columns.output",
    "chosen_column": "columns.chosen",
    "rejected_column": "columns.rejected",
    "ga_forget_column": "columns.forget",
}
"""What llm-utils and training-code call these keys -> what they are called here."""


@dataclass
class DataConfig:
    """Streams by name, each of one dataset or several in a row. The anchor's length is an epoch.

    files: the user's own, whose datasets are not among the streams before the heads of the files are read.
    """

    streams: dict[str, dict[str, Part]]
    anchor: str = "train"
    files: Files | None = None


@dataclass
class ForgetSet:
    """Which rows are to be forgotten: those about entities that are drawn at random or named (see data/entities.py).

    by: `question` (rows themselves), `relationship` (pairs of entities that a row is about), or a kind of entity:
    author, book, publisher… fraction, count: how many of them are drawn, rounded down; named: which they are (pairs for
    relationship, row numbers for question). stratified: a kind of entity; so many are drawn within each of these.
    author_block: rows in a row that are about one author, where the rows do not say what they are about (TOFU: 20).
    kinds_path: a JSON file with the kind of each key, where the rows do not say it: {key: kind} or {key: {type: kind}}.
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
        if sum(given is not None for given in (self.fraction, self.count, self.named)) != 1:
            raise UserError("give one of fraction, count, named: how many are forgotten, or which")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise UserError(f"fraction must lie between 0 and 1, got {self.fraction}")
        if self.count is not None and self.count < 1:
            raise UserError(f"count must be 1 or more, got {self.count}")
        if self.named is not None and self.stratified:
            raise UserError("stratified is about a draw, and named names all there is; leave one out")
        if self.author_block is not None and self.author_block < 1:
            raise UserError(f"author_block must be 1 or more, got {self.author_block}")


@dataclass
class TheirTrainer:
    """A plugin's subclass of transformers.Trainer and the arguments it takes; its loss is its own."""

    cls: type
    arguments: dict[str, Any]

    def streams(self) -> tuple[str, ...]:
        """It does not say which streams it trains on: all that the configuration has."""
        return ()


@dataclass
class Guard:
    """What counts as a collapse of what should be retained, and what to do about it (see training/guard.py).

    max_rise: of the retain answers' mean loss since the beginning, in nats. max_repetition: the share of repeated pairs
    of tokens in greedy continuations. action: `warn` says it; `stop` ends training there; `best` ends it and takes the
    model of the last look that was healthy.
    """

    action: Literal["warn", "stop", "best"] = "warn"
    every: int = 10
    rows: int = 8
    max_rise: float = 1.0
    max_repetition: float = 0.8

    def __post_init__(self) -> None:
        if self.every < 1 or self.rows < 1:
            raise UserError("every and rows must be at least 1")


@dataclass
class Samples:
    """Texts that the model generates while it trains: written to <run>/samples.jsonl and shown in the trackers.

    stream: whose first rows are asked; null for the anchor. every: steps from one look to the next, the first before
    training; null: whenever suites run. temperature: 0 is greedy; above it, texts are drawn, the same for one seed.
    """

    stream: str | None = None
    rows: int = 4
    max_new_tokens: int = 64
    every: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        if min(self.rows, self.max_new_tokens, 1 if self.every is None else self.every) < 1:
            raise UserError("rows, max_new_tokens and every must be at least 1")
        if self.temperature < 0:
            raise UserError("temperature must not be below 0")
        if self.temperature == 0 and (self.top_p is not None or self.top_k is not None):
            raise UserError("top_p and top_k are for a temperature above 0: greedy texts have no use for them")


@dataclass
class Profiler:
    """torch.profiler's schedule, in optimiser steps; each active stretch gives a Chrome trace in <run>/profile.

    stack, shapes, memory: what is recorded beside times, at a cost.
    """

    skip_first: int = 3
    wait: int = 1
    warmup: int = 1
    active: int = 2
    repeat: int = 2
    stack: bool = False
    shapes: bool = False
    memory: bool = False

    def __post_init__(self) -> None:
        if self.active < 1 or self.repeat < 1 or min(self.skip_first, self.wait, self.warmup) < 0:
            raise UserError("active and repeat must be at least 1, skip_first, wait and warmup at least 0")


@dataclass
class TrainerConfig:
    """A method by its registered name, with its fields checked, and the TrainingArguments of the run."""

    handler: str
    method: Any
    args: dict[str, Any]
    guard: Guard | None = None
    samples: Samples | None = None
    profiler: Profiler | None = None


@dataclass
class GenerationArgs:
    """How text is continued for a metric, always greedily; what is null is the suite's, then the model's own."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None


@dataclass
class RowsConfig:
    """Rows that metrics read (`<rows>.<column>` in their definitions), and how the model is asked about one of them.

    kind: `qa`, the question in the model's template, with shown pairs before it where few-shot rows are named;
    `completion`, plain text that goes on, after one space, with the asked column; `text`, plain text from its first
    token on. stop: what ends a continuation beside EOS. idk_path: a file of refusals, one a line, of which each row has
    one in the column `idk`; null for those that ship with unteach. keys_shared_with, keys_apart_from: other rows by
    their name; of these only the rows that share an entry of the column `keys` with one of those, or none.
    """

    hf_args: dict[str, Any]
    kind: Literal["qa", "completion", "text"] = "qa"
    question_key: str = "question"
    few_shot_dataset_hf_args: dict[str, Any] | None = None
    generation: GenerationArgs = field(default_factory=GenerationArgs)
    stop: list[str] = field(default_factory=list)
    idk_path: str | None = None
    keys_shared_with: str | None = None
    keys_apart_from: str | None = None


@dataclass
class HarnessArgs:
    """How lm-evaluation-harness asks its tasks, by its own names; include_path: a folder of more tasks."""

    num_fewshot: int | None = None
    limit: int | float | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    system_instruction: str | None = None
    include_path: str | None = None


@dataclass
class SuiteConfig:
    """The metrics of one benchmark: the rows it reads, what each metric is, and which are asked for.

    tasks: of lm-evaluation-harness, each a metric under its own name. batch_size: an upper bound; null leaves it to the
    memory. retain_model: a model that is evaluated first for its log, where there is no retain_logs_path.
    before_logs_path: the log of the model that unlearning started from. classifier_path: what tells clean text.
    tokens: the `rows.column` whose answers are kept token by token, for reports, where a metric measures it.
    """

    suite: str
    metrics: list[str] | str
    rows: dict[str, RowsConfig] = field(default_factory=dict)
    define: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    simple_evaluate_args: HarnessArgs = field(default_factory=HarnessArgs)
    default: list[str] = field(default_factory=list)
    compat: Literal["openunlearning"] | None = None
    batch_size: int | None = None
    max_length: int = 512
    generation: GenerationArgs = field(default_factory=GenerationArgs)
    retain_logs_path: str | None = None
    retain_model: str | None = None
    before_logs_path: str | None = None
    reference_model_path: str | None = None
    classifier_path: str | None = None
    tokens: str | None = None
    forget_split: str | None = None
    holdout_split: str | None = None
    question_key: str = "question"

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")
        if self.retain_logs_path and self.retain_model:
            raise UserError("retain_logs_path and retain_model both say what to compare with; give one")
        self.define = {**{task: {"metric": "lm_eval", "task": task} for task in self.tasks}, **self.define}

    def asked(self) -> list[str]:
        """The names of the metrics that are asked for."""
        named = {"all": list(self.define), "default": self.default}
        return named.get(self.metrics, [self.metrics]) if isinstance(self.metrics, str) else list(self.metrics)


@dataclass
class Wandb:
    """How a run is told to Weights & Biases (trainer.args.report_to=wandb). In a study the group is the study and the
    job type the kind of run; a run that goes on is the same run there. dir: where its files are written."""

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    log_model: Literal["false", "end", "checkpoint"] = "false"
    dir: str | None = None


@dataclass
class Config:
    mode: str
    task_name: str
    seed: int
    paths: Paths
    model: ModelConfig
    trainer: TrainerConfig | None = None
    data: DataConfig | None = None
    collator: Part | None = None
    eval: dict[str, SuiteConfig] = field(default_factory=dict)
    wandb: Wandb | None = None
    resume: str = "auto"
    launch: str | None = None
    nproc: int | None = None
    plugins: list[str] = field(default_factory=list)
    tree: dict[str, Any] = field(default_factory=dict)
    """the whole resolved tree as plain values, as it is written into the run's folder"""
