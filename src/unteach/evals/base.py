"""The contract of a metric: it says what it needs, and is a pure function of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from unteach.engines.base import Score
from unteach.errors import UserError
from unteach.evals import bootstrap


class Progress(Protocol):
    """Shows that a pass over `total` items begins; gives what is called with each number of items
    that are done."""

    def __call__(self, what: str, total: int, /) -> Callable[[int], None]: ...


@dataclass(frozen=True)
class Scores:
    """Need the scores of the answers in one column of some rows, as a list of ScoredRow.

    Attributes:
        column: `<rows>.<column>`, by the names in the suite's `rows`.
    """

    column: str


@dataclass(frozen=True)
class ReferenceScores:
    """Need the scores that the suite's reference model gives the same tokens, as a list of
    ScoredRow."""

    column: str


@dataclass(frozen=True)
class GradNorms:
    """Need the gradient norm of each row's answer, as a list of NormedRow.

    It is the mean over parameter tensors of the p-norm of grad avg_loss.

    Attributes:
        column: `<rows>.<column>`.
        p: which norm.
        drop_last_label: take the loss over all tokens of the answer but the last.
    """

    column: str
    p: float = 2.0
    drop_last_label: bool = False


@dataclass(frozen=True)
class Texts:
    """Need greedy continuations of the rows' prompts beside the true answers, as a list of
    Generated.

    Attributes:
        column: `<rows>.<column>`.
        truth_tokens: how many tokens of a true answer are kept, None for all.
        adaptive: cut a continuation where it has ten tokens more than the longest true answer, but
            not before fifty.
    """

    column: str
    truth_tokens: int | None = None
    adaptive: bool = False


@dataclass(frozen=True)
class Classes:
    """Need the class probabilities of the continuations that Texts(column) gives, by the suite's
    classifier, as a list of Classed."""

    column: str


@dataclass(frozen=True)
class Task:
    """Need the results of a task or a group of lm-evaluation-harness, as a list of one
    TaskResult."""

    name: str


Measurement = Scores | ReferenceScores | GradNorms | Texts | Classes | Task


@dataclass(frozen=True)
class Result:
    """Need another metric's Value."""

    metric: str


@dataclass(frozen=True)
class Retain:
    """Need another metric's entry in the retain model's log, as the JSON has it.

    Attributes:
        metric: the other metric's name.
        optional: be content with None where there is no log.
    """

    metric: str
    optional: bool = False


@dataclass(frozen=True)
class Before:
    """Need another metric's entry in the log of the model that unlearning started from
    (before_logs_path)."""

    metric: str
    optional: ClassVar[bool] = False


Logged = Retain | Before
Need = Measurement | Result | Logged


@dataclass(frozen=True)
class ScoredRow:
    """Hold the answers of one row, one or several.

    Attributes:
        index: the row's number in its set.
        scores: of each answer.
        texts: of each answer.
        has_alternatives: whether the column has a list of answers for each row.
    """

    index: int
    scores: list[Score]
    texts: list[str]
    has_alternatives: bool

    @property
    def losses(self) -> np.ndarray:
        """The average loss of each answer, [A], in nats."""
        return np.array([score.avg_loss for score in self.scores])

    @property
    def is_finite(self) -> bool:
        return all(np.isfinite(score.logprob).all() for score in self.scores)


@dataclass(frozen=True)
class NormedRow:
    """Hold the gradient norm of one row's answer."""

    index: int
    norm: float

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.norm))


@dataclass(frozen=True)
class Generated:
    """Hold what the model says to one row's prompt, and what is true.

    Attributes:
        index: the row's number in its set.
        prompt: what the model reads, as text.
        truths: the true answer, or several.
        text: the model's continuation.
        has_alternatives: whether the column has a list of answers for each row.
        question: what the row itself asks, without the template and the examples that the prompt
            adds.
    """

    index: int
    prompt: str
    truths: list[str]
    text: str
    has_alternatives: bool = False
    question: str = ""

    is_finite: ClassVar[bool] = True


@dataclass(frozen=True)
class Classed:
    """Hold a continuation and the probability of each class."""

    index: int
    text: str
    probabilities: dict[str, float]

    @property
    def is_finite(self) -> bool:
        probabilities = list(self.probabilities.values())
        return bool(np.isfinite(probabilities).all())


@dataclass(frozen=True)
class TaskResult:
    """Hold the values of a task by metric, and those of each of its documents.

    Attributes:
        values: by the harness's metric.
        documents: of a group, those of all its tasks.
        num_cut_prompts: how many prompts lost their beginning to the model's context, in all tasks
            that were run together.
    """

    values: dict[str, float]
    documents: list[dict[str, Any]]
    num_cut_prompts: int = 0

    index: ClassVar[int] = 0
    is_finite: ClassVar[bool] = True


MeasuredRow = ScoredRow | NormedRow | Generated | Classed | TaskResult


@dataclass
class Value:
    """Hold a metric's value.

    Attributes:
        agg: the aggregate; None where no row has a value.
        by_index: per-example values, by the row's number.
        n: number of examples.
        replicates: of the aggregate, for its interval, [R].
        extra: more entries of the metric's JSON.
    """

    agg: float | None
    by_index: dict[int, dict[str, Any]] | None = None
    n: int = 0
    replicates: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Write the value as <SUITE>_EVAL.json has it."""
        entry: dict[str, Any] = dict(self.extra)
        if self.by_index is not None:
            value_by_index = {str(index): row for index, row in self.by_index.items()}
            entry["value_by_index"] = value_by_index
        entry["agg_value"] = self.agg
        entry["n"] = self.n
        entry["ci"] = bootstrap.compute_interval(self.replicates, self.agg)
        return entry


class Metric:
    """Compute a Value from measurements, and from nothing else.

    Subclasses are dataclasses: their fields are the metric's configuration.

    Attributes:
        QUIRKS: values of the fields under `compat: openunlearning`.
        compute: called as compute(name, eos=…, **measured), with one argument for each need and the
            id of the end-of-sequence token.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {}
    compute: Callable[..., Value]

    def needs(self) -> dict[str, Need]:
        """Say what compute() is called with, by argument name."""
        raise NotImplementedError


def average_rows(
    name: str,
    by_index: dict[int, dict[str, Any]],
    key: str,
) -> Value:
    """Average one per-example value over the examples that have it.

    A list of several values, one for each alternative answer, counts by its own mean.

    Args:
        name: the metric's, which seeds its replicates.
        by_index: per-example values, by the row's number.
        key: which of an example's values is averaged.

    Raises:
        UserError: a value is not finite.
    """
    means = []
    for row in by_index.values():
        if row[key] is not None:
            means.append(np.mean(row[key]))
    values = np.array(means, dtype=float)  # [n]
    if not len(values):
        return Value(None, by_index)
    if not np.isfinite(values).all():
        bad_rows = []
        for index, row in by_index.items():
            if not _is_finite(row[key]):
                bad_rows.append(index)
        raise UserError(
            f"{name}: the model's values are not finite at rows {bad_rows[:8]}; the model has "
            "diverged"
        )
    return Value(
        float(values.mean()),
        by_index,
        n=len(values),
        replicates=bootstrap.resample_mean(values, name),
    )


def _is_finite(number: float | list[float] | None) -> bool:
    return number is not None and bool(np.isfinite(number).all())
