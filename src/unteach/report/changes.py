"""What changed between two runs: every value with an interval of its difference, settings, and
single answers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from unteach.evals import bootstrap
from unteach.report.answers import Answer, Question, collect_question_sets
from unteach.report.collect import RunResult, to_finite
from unteach.report.distributions import read_halves

ABSENT = "(not set)"
ROUNDING = 1e-5
"""Batch size, process count and device move a value by no more than this."""
HALVES = ("forget", "holdout")
MOST_ANSWERS = 5

Log = dict[str, Any]
"""A metric's entry in an evaluation's log."""
Interval = tuple[float, float]


def _keep(values: np.ndarray) -> np.ndarray:
    return values


def _measure_closeness_to_one(ratios: np.ndarray) -> np.ndarray:
    return np.minimum(ratios, 1 / (ratios + 1e-10))


def _measure_true_better(ratios: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - ratios)


TRANSFORMS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    _keep,
    _measure_closeness_to_one,
    _measure_true_better,
)
"""What metrics do to per-example values before their mean is taken: nothing, or what truth ratios
are made into."""


@dataclass(frozen=True)
class Change:
    """One metric in two runs.

    Attributes:
        low, high: the 95 % interval of b - a.
        method: how the interval was found, "" where it could not be.
    """

    metric: str
    a: float | None
    b: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def is_significant(self) -> bool:
        """Whether zero lies outside the interval: neither chance nor rounding would give this
        difference."""
        if self.difference is None or self.low is None or self.high is None:
            return False
        return abs(self.difference) > ROUNDING and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class ChangedAnswer:
    """One question that both were asked, what they said, and by how much the ROUGE changed."""

    title: str
    question: Question
    a: Answer
    b: Answer
    difference: float


def list_changes(a: RunResult, b: RunResult) -> list[Change]:
    """List every metric that one of two runs has, with the interval of its difference.

    Where both were measured on the same rows, the interval comes from the pairs of rows; elsewhere
    from the intervals of both, taken as independent.
    """
    on_same_rows = not list_other_rows(a, b)
    metrics = sorted({*a.metrics(), *b.metrics()})
    return [_compare_metric(metric, a, b, on_same_rows) for metric in metrics]


def list_other_rows(a: RunResult, b: RunResult) -> list[str]:
    """List the columns that both logs say they measured, and on other rows."""
    columns = sorted(a.rows.keys() & b.rows.keys())
    return [
        column for column in columns if a.rows[column].get("digest") != b.rows[column].get("digest")
    ]


def _compare_metric(metric: str, a: RunResult, b: RunResult, on_same_rows: bool) -> Change:
    a_value, b_value = a.value(metric), b.value(metric)
    if a_value is None or b_value is None:
        return Change(metric, a_value, b_value)

    if on_same_rows:
        replicates = resample_difference(metric, a.results.get(metric), b.results.get(metric))
        bounds = bootstrap.compute_interval(replicates)
        if bounds is not None:
            return Change(metric, a_value, b_value, bounds[0], bounds[1], "row by row")

    a_interval, b_interval = a.interval(metric), b.interval(metric)
    if a_interval is None or b_interval is None:
        return Change(metric, a_value, b_value)
    low, high = combine_intervals(a_value, a_interval, b_value, b_interval)
    return Change(metric, a_value, b_value, low, high, "from both intervals")


def resample_difference(metric: str, a: object, b: object) -> np.ndarray | None:
    """Draw replicates of b - a, the same rows in both logs.

    Returns:
        One difference a replicate; None where the rows of the logs cannot be paired.
    """
    if not isinstance(a, dict) or not isinstance(b, dict):
        return None
    pairs = _pair_rows(a, b)
    if pairs is not None:
        return bootstrap.resample_mean(pairs[1] - pairs[0], metric)
    return _resample_auc_difference(metric, a, b)


def _pair_rows(a: Log, b: Log) -> tuple[np.ndarray, np.ndarray] | None:
    """Read two logs' per-example values in one order.

    Which of an example's numbers the metric averages is not written in a log. It is the first whose
    mean, after one of the transforms, is the aggregate in both logs, so that nothing is guessed.
    """
    indices = _list_indices(a)
    if not indices or indices != _list_indices(b):
        return None
    a_rows = [a["value_by_index"][index] for index in indices]
    b_rows = [b["value_by_index"][index] for index in indices]
    for a_row, b_row in zip(a_rows, b_rows, strict=True):
        if a_row.get("ground_truth") != b_row.get("ground_truth"):
            return None  # the same numbers, of other rows

    for key in a_rows[0]:
        a_column, b_column = _read_column(a_rows, key), _read_column(b_rows, key)
        if a_column is None or b_column is None:
            continue
        for transform in TRANSFORMS:
            a_values, b_values = transform(a_column), transform(b_column)
            if _is_mean(a["agg_value"], a_values) and _is_mean(b["agg_value"], b_values):
                return a_values, b_values
    return None


def _resample_auc_difference(metric: str, a: Log, b: Log) -> np.ndarray | None:
    """Draw replicates of the difference of two attacks' AUCs: both halves' rows anew, the same in
    both logs."""
    for half in HALVES:
        if not isinstance(a.get(half), dict) or not isinstance(b.get(half), dict):
            return None
        if _list_indices(a[half]) != _list_indices(b[half]):
            return None
    a_forget, a_holdout = read_halves(a)
    b_forget, b_holdout = read_halves(b)
    if len(a_forget) != len(b_forget) or len(a_holdout) != len(b_holdout):
        return None
    if not len(a_forget) or not len(a_holdout):
        return None

    forget_draws = bootstrap.draw_resamples(f"{metric}/0", len(a_forget))
    holdout_draws = bootstrap.draw_resamples(f"{metric}/1", len(a_holdout))
    differences = []
    for forget, holdout in zip(forget_draws, holdout_draws, strict=True):
        a_auc = bootstrap.auc(a_forget[forget], a_holdout[holdout])
        b_auc = bootstrap.auc(b_forget[forget], b_holdout[holdout])
        differences.append(b_auc - a_auc)
    return np.array(differences)


def _list_indices(log: Log) -> list[str]:
    """List the rows of a log; none where not each has values."""
    rows = log.get("value_by_index")
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        return []
    return sorted(rows)


def _read_column(rows: list[dict[str, Any]], key: str) -> np.ndarray | None:
    """Read one number of each row; None where a row has none."""
    numbers = [_read_number(row.get(key)) for row in rows]
    if any(number is None for number in numbers):
        return None
    return np.array(numbers, dtype=float)


def _read_number(value: object) -> float | None:
    """Read a number, or the mean of the numbers of several answers."""
    if not isinstance(value, list) or not value:
        return to_finite(value)
    numbers = [number for number in map(to_finite, value) if number is not None]
    return float(np.mean(numbers)) if len(numbers) == len(value) else None


def _is_mean(aggregate: object, values: np.ndarray) -> bool:
    if not isinstance(aggregate, int | float):
        return False
    return math.isclose(aggregate, values.mean(), rel_tol=1e-4, abs_tol=1e-9)


def combine_intervals(a: float, a_interval: Interval, b: float, b_interval: Interval) -> Interval:
    """Find the interval of b - a from those of two independent values.

    Source: Zou and Donner 2008, the MOVER.
    """
    below = math.hypot(b - b_interval[0], a_interval[1] - a)
    above = math.hypot(b_interval[1] - b, a - a_interval[0])
    return b - a - below, b - a + above


def list_changed_settings(a: object, b: object, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """List the dotted keys at which two configurations differ, with both values; what only one of
    them has, as a whole."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        if a != b:
            yield path, a, b
        return
    for key in dict.fromkeys([*a, *b]):
        key_path = f"{path}.{key}" if path else str(key)
        yield from list_changed_settings(a.get(key, ABSENT), b.get(key, ABSENT), key_path)


def list_changed_answers(a: RunResult, b: RunResult) -> list[ChangedAnswer]:
    """List the answers whose ROUGE changed most, over all questions that both were asked."""
    changed = []
    for question_set in collect_question_sets([a, b]):
        for question in question_set.questions:
            first, second = question.answers
            if first is None or second is None or first.score is None or second.score is None:
                continue
            difference = second.score - first.score
            if difference != 0:
                changed.append(
                    ChangedAnswer(question_set.title, question, first, second, difference)
                )
    changed.sort(key=lambda answer: -abs(answer.difference))
    return changed[:MOST_ANSWERS]
