"""What changed between two runs: every value with an interval of its difference, settings, and
single answers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
ChangedSetting = tuple[str, Any, Any]
"""A dotted key, and its value in either run."""


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
        """By how much b is more than a; None where one of them has no value."""
        if self.a is None or self.b is None:
            return None
        return self.b - self.a

    @property
    def is_significant(self) -> bool:
        """Whether zero lies outside the interval: neither chance nor rounding would give this
        difference."""
        if self.difference is None or self.low is None or self.high is None:
            return False
        is_rounding = abs(self.difference) <= ROUNDING
        holds_zero = self.low <= 0 <= self.high
        return not is_rounding and not holds_zero


@dataclass(frozen=True)
class ChangedAnswer:
    """One question that both were asked, what they said, and by how much the ROUGE changed.

    Attributes:
        title: the set of questions that it is one of.
        difference: the ROUGE of b less that of a.
    """

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
    metrics = {*a.metrics(), *b.metrics()}
    return [_compare_metric(metric, a, b, on_same_rows) for metric in sorted(metrics)]


def list_other_rows(a: RunResult, b: RunResult) -> list[str]:
    """List the columns that both logs say they measured, and on other rows."""
    others = []
    for column in sorted(a.rows.keys() & b.rows.keys()):
        a_digest = a.rows[column].get("digest")
        b_digest = b.rows[column].get("digest")
        if a_digest != b_digest:
            others.append(column)
    return others


def _compare_metric(
    metric: str,
    a: RunResult,
    b: RunResult,
    on_same_rows: bool,
) -> Change:
    a_value = a.value(metric)
    b_value = b.value(metric)
    change = Change(metric, a_value, b_value)
    if a_value is None or b_value is None:
        return change

    # Pairs of rows give the narrower interval: what is hard for both takes no part in it.
    if on_same_rows:
        replicates = resample_difference(
            metric,
            a.results.get(metric),
            b.results.get(metric),
        )
        bounds = bootstrap.compute_interval(replicates)
        if bounds is not None:
            low, high = bounds
            return replace(
                change,
                low=low,
                high=high,
                method="row by row",
            )

    a_interval = a.interval(metric)
    b_interval = b.interval(metric)
    if a_interval is None or b_interval is None:
        return change
    low, high = combine_intervals(a_value, a_interval, b_value, b_interval)
    return replace(
        change,
        low=low,
        high=high,
        method="from both intervals",
    )


def resample_difference(metric: str, a: object, b: object) -> np.ndarray | None:
    """Draw replicates of b - a, the same rows in both logs.

    Args:
        metric: seeds the draws, so that they are the same tomorrow.
        a, b: the metric's entry in each log.

    Returns:
        One difference a replicate; None where the rows of the logs cannot be paired.
    """
    if not isinstance(a, dict) or not isinstance(b, dict):
        return None
    pairs = _pair_rows(a, b)
    if pairs is None:
        return _resample_auc_difference(metric, a, b)
    a_values, b_values = pairs
    return bootstrap.resample_mean(b_values - a_values, metric)


def _pair_rows(a: Log, b: Log) -> tuple[np.ndarray, np.ndarray] | None:
    """Read two logs' per-example values in one order.

    Which of an example's numbers the metric averages is not written in a log. It is the first whose
    mean, after one of the transforms, is the aggregate in both logs, so that nothing is guessed.

    Returns:
        The values of both, each [rows]; None where the logs are of other rows, or where no number
        of theirs explains both aggregates.
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
        a_column = _read_column(a_rows, key)
        b_column = _read_column(b_rows, key)
        if a_column is None or b_column is None:
            continue
        for transform in TRANSFORMS:
            a_values = transform(a_column)
            b_values = transform(b_column)
            if _is_mean(a["agg_value"], a_values) and _is_mean(b["agg_value"], b_values):
                return a_values, b_values
    return None


def _resample_auc_difference(metric: str, a: Log, b: Log) -> np.ndarray | None:
    """Draw replicates of the difference of two attacks' AUCs: both halves' rows anew, the same in
    both logs."""
    for half in HALVES:
        a_half = a.get(half)
        b_half = b.get(half)
        if not isinstance(a_half, dict) or not isinstance(b_half, dict):
            return None
        if _list_indices(a_half) != _list_indices(b_half):
            return None

    a_forget, a_holdout = read_halves(a)
    b_forget, b_holdout = read_halves(b)
    num_forget = len(a_forget)
    num_holdout = len(a_holdout)
    if not num_forget or not num_holdout:
        return None
    if num_forget != len(b_forget) or num_holdout != len(b_holdout):
        return None

    forget_draws = bootstrap.draw_resamples(f"{metric}/0", num_forget)
    holdout_draws = bootstrap.draw_resamples(f"{metric}/1", num_holdout)
    differences = []
    for forget, holdout in zip(forget_draws, holdout_draws, strict=True):
        a_auc = bootstrap.auc(a_forget[forget], a_holdout[holdout])
        b_auc = bootstrap.auc(b_forget[forget], b_holdout[holdout])
        differences.append(b_auc - a_auc)
    return np.array(differences)


def _list_indices(log: Log) -> list[str]:
    """List the rows of a log; none where not each has values."""
    rows = log.get("value_by_index")
    if not isinstance(rows, dict):
        return []
    for row in rows.values():
        if not isinstance(row, dict):
            return []
    return sorted(rows)


def _read_column(rows: list[dict[str, Any]], key: str) -> np.ndarray | None:
    """Read one number of each row; None where a row has none."""
    numbers = []
    for row in rows:
        number = _read_number(row.get(key))
        if number is None:
            return None
        numbers.append(number)
    return np.array(numbers, dtype=float)


def _read_number(value: object) -> float | None:
    """Read a number, or the mean of the numbers of several answers."""
    if not isinstance(value, list) or not value:
        return to_finite(value)
    numbers = []
    for member in value:
        number = to_finite(member)
        if number is None:
            return None
        numbers.append(number)
    return float(np.mean(numbers))


def _is_mean(aggregate: object, values: np.ndarray) -> bool:
    """Whether an aggregate is the mean of these values, but for how it was rounded."""
    if not isinstance(aggregate, int | float):
        return False
    return math.isclose(
        aggregate,
        values.mean(),
        rel_tol=1e-4,
        abs_tol=1e-9,
    )


def combine_intervals(
    a: float,
    a_interval: Interval,
    b: float,
    b_interval: Interval,
) -> Interval:
    """Find the interval of b - a from those of two independent values.

    Source: Zou and Donner 2008, the MOVER.
    """
    a_low, a_high = a_interval
    b_low, b_high = b_interval
    below = math.hypot(b - b_low, a_high - a)
    above = math.hypot(b_high - b, a - a_low)
    return b - a - below, b - a + above


def list_changed_settings(
    a: object,
    b: object,
    path: str = "",
) -> Iterator[ChangedSetting]:
    """List the dotted keys at which two configurations differ, with both values; what only one of
    them has, as a whole."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        if a != b:
            yield path, a, b
        return
    for key in dict.fromkeys([*a, *b]):
        key_path = f"{path}.{key}" if path else str(key)
        a_value = a.get(key, ABSENT)
        b_value = b.get(key, ABSENT)
        yield from list_changed_settings(a_value, b_value, key_path)


def list_changed_answers(a: RunResult, b: RunResult) -> list[ChangedAnswer]:
    """List the answers whose ROUGE changed most, over all questions that both were asked."""
    changed = []
    for question_set in collect_question_sets([a, b]):
        for question in question_set.questions:
            a_answer, b_answer = question.answers
            if a_answer is None or b_answer is None:
                continue
            if a_answer.score is None or b_answer.score is None:
                continue
            difference = b_answer.score - a_answer.score
            if difference == 0:
                continue
            answer = ChangedAnswer(
                title=question_set.title,
                question=question,
                a=a_answer,
                b=b_answer,
                difference=difference,
            )
            changed.append(answer)
    changed.sort(key=lambda answer: -abs(answer.difference))
    return changed[:MOST_ANSWERS]
