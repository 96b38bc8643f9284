"""What an evaluation is told: suites, the rows they read, how text is continued for them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from unteach.config.metric_descriptions import MetricDescription, Role
from unteach.errors import UserError


@dataclass(frozen=True)
class GenerationArgs:
    """How text is continued for a metric, always greedily; what is null is the suite's, then the
    model's own."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None


OWN_ROWS = "rows"
"""The suite that measures rows of the user's own."""
MEASURED_KINDS = ("answers", "signed", "text")
"""Kinds of rows (a method's ROWS) that it can measure."""


@dataclass(frozen=True)
class RowsConfig:
    """Rows that metrics read (`<rows>.<column>` in their definitions), and how the model is asked
    about one of them.

    Either hf_args says where they are, or role takes the rows that the run itself has in that role,
    as it trains on
    them: their only column is `answer`.

    kind: `qa`, the question in the model's template, with shown pairs before it where few-shot rows
    are named; `completion`, plain text that goes on, after one space, with the asked column;
    `text`, plain text from its first token on. stop: what ends a continuation beside EOS. idk_path:
    a file of refusals, one a line, of which each row has one in the column `idk`; null for those
    that ship with unteach. keys_shared_with, keys_apart_from: other rows by their name; of these
    only the rows that share an entry of the column `keys` with one of those, or none.
    """

    hf_args: dict[str, Any] | None = None
    role: Role | None = None
    kind: Literal["qa", "completion", "text"] = "qa"
    question_key: str = "question"
    few_shot_dataset_hf_args: dict[str, Any] | None = None
    generation: GenerationArgs = field(default_factory=GenerationArgs)
    stop: list[str] = field(default_factory=list)
    idk_path: str | None = None
    keys_shared_with: str | None = None
    keys_apart_from: str | None = None

    def __post_init__(self) -> None:
        if (self.hf_args is None) == (self.role is None):
            raise UserError(
                "give one of hf_args (where the rows are) and role (the run's own rows)"
            )


@dataclass(frozen=True)
class HarnessArgs:
    """How lm-evaluation-harness asks its tasks, by its own names; include_path: a folder of more
    tasks."""

    num_fewshot: int | None = None
    limit: int | float | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    system_instruction: str | None = None
    include_path: str | None = None


@dataclass(frozen=True)
class SuiteConfig:
    """The metrics of one benchmark: the rows it reads, what each metric is, and which are asked
    for.

    tasks: of lm-evaluation-harness, each a metric under its own name: a name, or a mapping with
    `task: name` and fields of the task's configuration, which override those of that task or define
    a new one. batch_size: an upper bound; null leaves it to the memory. retain_model: a model that
    is evaluated first for its log, where there is no retain_logs_path. before_logs_path: the log of
    the model that unlearning started from. classifier_path: what tells clean text.
    tokens: the `rows.column` whose answers are kept token by token, for reports, where a metric
    measures it.
    describe: what metrics are called, by their names, which way is good and how they are shown;
    stronger, field by field, than what a metric's class says. max_rows: at most so many rows of
    each set, drawn by `seed`. before: whether a run also measures the weights that it starts from.
    """

    suite: str
    metrics: list[str] | str
    rows: dict[str, RowsConfig] = field(default_factory=dict)
    define: dict[str, dict[str, Any]] = field(default_factory=dict)
    describe: dict[str, MetricDescription] = field(default_factory=dict)
    tasks: list[str | dict[str, Any]] = field(default_factory=list)
    simple_evaluate_args: HarnessArgs = field(default_factory=HarnessArgs)
    default: list[str] = field(default_factory=list)
    compat: Literal["openunlearning"] | None = None
    batch_size: int | None = None
    max_rows: int | None = None
    seed: int = 0
    before: bool = False
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
        for name in ("batch_size", "max_length", "max_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")
        if self.retain_logs_path and self.retain_model:
            raise UserError(
                "retain_logs_path and retain_model both say what to compare with; give one"
            )
        object.__setattr__(self, "define", {**self._define_tasks(), **self.define})

    def _define_tasks(self) -> dict[str, dict[str, Any]]:
        """Make a metric of each task of lm-evaluation-harness, under the task's name."""
        metrics: dict[str, dict[str, Any]] = {}
        for index, task in enumerate(self.tasks):
            name = task.get("task") if isinstance(task, dict) else task
            if not (isinstance(name, str) and name):
                raise UserError(
                    f"tasks[{index}]: a mapping configures one task of lm-evaluation-harness and "
                    f"needs its name, as "
                    "{task: gsm8k, num_fewshot: 3}"
                )
            if name in metrics:
                raise UserError(
                    f"tasks[{index}]: the task {name} is asked for twice; name it once, or give "
                    "the mapping whose fields define it a name of its own"
                )
            metrics[name] = {"metric": "lm_eval", "task": name}
        return metrics

    def configured_tasks(self) -> dict[str, dict[str, Any]]:
        """The tasks of lm-evaluation-harness that are given as mappings, by their names."""
        return {task["task"]: task for task in self.tasks if isinstance(task, dict)}

    def list_metrics(self) -> list[str]:
        """The names of the metrics that are asked for."""
        named = {"all": list(self.define), "default": self.default}
        return (
            named.get(self.metrics, [self.metrics])
            if isinstance(self.metrics, str)
            else list(self.metrics)
        )

    def reads_own_rows(self) -> bool:
        """Whether it measures the run's own rows, by their role."""
        return any(rows.role is not None for rows in self.rows.values())
