"""The contract of a metric: it says what it needs, and is a pure function of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from unteach.engines.base import Score
from unteach.errors import UserError
from unteach.evals import bootstrap


@dataclass(frozen=True)
class Scores:
    """Need: scores of the answers in one column of some rows (`rows.column`): list of ScoredRow."""

    of: str


@dataclass(frozen=True)
class ReferenceScores:
    """Need: the same of the suite's reference model, over the same tokens: list of ScoredRow."""

    of: str


@dataclass(frozen=True)
class GradNorms:
    """Need: the mean over parameter tensors of the p-norm of grad avg_loss, of each row's answer:
    list of NormedRow.

    drop_last_label: the loss is over all tokens of the answer but the last.
    """

    of: str
    p: float = 2.0
    drop_last_label: bool = False


@dataclass(frozen=True)
class Texts:
    """Need: greedy continuations of the rows' prompts, beside the true answers: list of Generated.

    truth_tokens: how many tokens of a true answer are kept, None for all. adaptive: a continuation
    is cut where it has ten tokens more than the longest true answer, but not before fifty.
    """

    of: str
    truth_tokens: int | None = None
    adaptive: bool = False


@dataclass(frozen=True)
class Classes:
    """Need: what the suite's classifier says of the continuations that Texts(of) gives: list of
    Classed."""

    of: str


@dataclass(frozen=True)
class Task:
    """Need: what lm-evaluation-harness finds on one of its tasks or groups: list of one
    TaskResult."""

    name: str


Measurement = Scores | ReferenceScores | GradNorms | Texts | Classes | Task


@dataclass(frozen=True)
class Result:
    """Need: another metric's Value."""

    of: str


@dataclass(frozen=True)
class Retain:
    """Need: another metric's entry in the retain model's log, as the JSON has it; None where
    `optional` and no log."""

    of: str
    optional: bool = False


@dataclass(frozen=True)
class Before:
    """Need: the same of the log of the model that unlearning started from (before_logs_path)."""

    of: str
    optional: ClassVar[bool] = False


Logged = Retain | Before
Need = Measurement | Result | Logged


@dataclass(frozen=True)
class ScoredRow:
    """The answers of one row: their scores and their texts. `index` is the row's number in its
    set."""

    index: int
    scores: list[Score]
    texts: list[str]
    several: bool

    @property
    def losses(self) -> np.ndarray:
        return np.array([score.avg_loss for score in self.scores])

    @property
    def finite(self) -> bool:
        return all(np.isfinite(score.logprob).all() for score in self.scores)


@dataclass(frozen=True)
class NormedRow:
    """The gradient norm of one row's answer."""

    index: int
    norm: float

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.norm))


@dataclass(frozen=True)
class Generated:
    """What the model says to one row's prompt, and what is true: one text, or several.

    question: what the row itself asks, without the template and the examples that the prompt adds.
    """

    index: int
    prompt: str
    truths: list[str]
    text: str
    several: bool = False
    question: str = ""

    finite = True


@dataclass(frozen=True)
class Classed:
    """A continuation and the probability of each class."""

    index: int
    text: str
    probabilities: dict[str, float]

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(list(self.probabilities.values())).all())


@dataclass(frozen=True)
class TaskResult:
    """The values of a task by metric, and those of each of its documents; of a group, of all its
    tasks.

    cut: how many prompts lost their beginning to the model's context, in all tasks that were asked
    together.
    """

    values: dict[str, float]
    documents: list[dict[str, Any]]
    cut: int = 0

    index, finite = 0, True


@dataclass
class Value:
    """A metric's value: the aggregate, its per-example values, and replicates of the aggregate for
    its interval."""

    agg: float | None
    by_index: dict[int, dict[str, Any]] | None = None
    n: int = 0
    replicates: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = dict(self.extra)
        if self.by_index is not None:
            found["value_by_index"] = {str(index): value for index, value in self.by_index.items()}
        return {
            **found,
            "agg_value": self.agg,
            "n": self.n,
            "ci": bootstrap.interval(self.replicates, self.agg),
        }


class Metric:
    """A pure function from measurements to a Value. Subclasses are dataclasses: their fields are
    its configuration.

    QUIRKS: values of the fields under `compat: openunlearning`. compute(name, eos=…, **measured)
    gets one argument for each need, and the id of the end-of-sequence token.
    """

    QUIRKS: ClassVar[dict[str, Any]] = {}
    compute: Callable[..., Value]

    def needs(self) -> dict[str, Need]:
        """What compute() is called with, by argument name."""
        raise NotImplementedError


def mean_of(name: str, by_index: dict[int, dict[str, Any]], key: str) -> Value:
    """The mean of one per-example value over the examples that have it; a list of several counts by
    its own mean."""
    values = np.array(
        [np.mean(v[key]) for v in by_index.values() if v[key] is not None], dtype=float
    )
    if not len(values):
        return Value(None, by_index, 0)
    if not np.isfinite(values).all():
        bad = [
            index
            for index, v in by_index.items()
            if v[key] is None or not np.isfinite(v[key]).all()
        ]
        raise UserError(
            f"{name}: the model's values are not finite at rows {bad[:8]}; the model has diverged"
        )
    return Value(float(values.mean()), by_index, len(values), bootstrap.of_mean(values, name))
