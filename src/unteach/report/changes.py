"""What changed between two runs: every value with an interval of its difference, settings, and
single answers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from unteach.evals import bootstrap
from unteach.report import answers
from unteach.report.collect import RunResult, finite
from unteach.report.distributions import halves

ABSENT = "(not set)"
ROUNDING = 1e-5
"""Batch size, process count and device move a value by no more than this."""
AS_THEY_ARE: Callable[[np.ndarray], np.ndarray] = np.asarray
AGGREGATED = (
    AS_THEY_ARE,
    lambda ratio: np.minimum(ratio, 1 / (ratio + 1e-10)),
    lambda ratio: np.maximum(0, 1 - ratio),
)
"""What is done to per-example values before their mean is taken: nothing, or what truth ratios are
made into."""


@dataclass(frozen=True)
class Change:
    """One metric in two runs. low, high: the 95 % interval of b - a; `how` it was found, "" where
    it could not be."""

    metric: str
    a: float | None
    b: float | None
    low: float | None = None
    high: float | None = None
    how: str = ""

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def beyond(self) -> bool:
        """Whether zero lies outside the interval: neither chance nor rounding would give this
        difference."""
        if (
            self.difference is None
            or self.low is None
            or self.high is None
            or abs(self.difference) <= ROUNDING
        ):
            return False
        return not self.low <= 0 <= self.high


@dataclass(frozen=True)
class ChangedAnswer:
    """One question that both were asked, and how its ROUGE changed."""

    title: str
    question: answers.Question
    by: float


def changes(a: RunResult, b: RunResult) -> list[Change]:
    """Every metric that one of them has. Both must have been measured on the same rows to be
    compared row by row."""
    same = not other_rows(a, b)
    return [_change(metric, a, b, same) for metric in sorted({*a.metrics(), *b.metrics()})]


def other_rows(a: RunResult, b: RunResult) -> list[str]:
    """The columns that both logs say they measured, and on other rows."""
    both = sorted(a.rows.keys() & b.rows.keys())
    return [
        column for column in both if a.rows[column].get("digest") != b.rows[column].get("digest")
    ]


def _change(metric: str, a: RunResult, b: RunResult, same_rows: bool) -> Change:
    first, second = a.value(metric), b.value(metric)
    if first is None or second is None:
        return Change(metric, first, second)
    replicates = paired(metric, a.results.get(metric), b.results.get(metric)) if same_rows else None
    if (bounds := bootstrap.compute_interval(replicates)) is not None:
        return Change(metric, first, second, bounds[0], bounds[1], "row by row")
    one, other = a.interval(metric), b.interval(metric)
    if one is None or other is None:
        return Change(metric, first, second)
    return Change(
        metric, first, second, *from_intervals(first, one, second, other), "from both intervals"
    )


def paired(metric: str, a: Any, b: Any) -> np.ndarray | None:
    """Replicates of b - a: both logs drawn with the same rows. None where their rows cannot be
    paired."""
    if pairs := _means(a, b):
        return bootstrap.resample_mean(pairs[1] - pairs[0], metric)
    if not (isinstance(a, dict) and isinstance(b, dict)) or any(
        not isinstance(log.get(half), dict) for log in (a, b) for half in ("forget", "holdout")
    ):
        return None
    if any(_index(a[half]) != _index(b[half]) for half in ("forget", "holdout")):
        return None
    logs = [halves(log) for log in (a, b)]
    if any(len(one) != len(other) or not len(one) for one, other in zip(*logs, strict=True)):
        return None
    draws = [bootstrap.draw_resamples(f"{metric}/{n}", len(half)) for n, half in enumerate(logs[0])]
    areas = [
        np.array([bootstrap.auc(forget[i], holdout[j]) for i, j in zip(*draws, strict=True)])
        for forget, holdout in logs
    ]
    return areas[1] - areas[0]


def _means(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Two logs' per-example values in one order: those whose means are their aggregates, so that
    nothing is guessed."""
    if not _index(a) or _index(a) != _index(b):
        return None
    rows = [[log["value_by_index"][index] for index in _index(a)] for log in (a, b)]
    if any(
        one.get("ground_truth") != other.get("ground_truth")
        for one, other in zip(*rows, strict=True)
    ):
        return None
    for key in rows[0][0]:
        columns = [[_number(row.get(key)) for row in of] for of in rows]
        if any(value is None for column in columns for value in column):
            continue
        for aggregated in AGGREGATED:
            values = [aggregated(np.array(column, dtype=float)) for column in columns]
            if all(_is_mean(log["agg_value"], of) for log, of in zip((a, b), values, strict=True)):
                return values[0], values[1]
    return None


def _index(log: Any) -> list[str]:
    """The rows of a log, where each has values."""
    rows = log.get("value_by_index") if isinstance(log, dict) else None
    whole = isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values())
    return sorted(rows) if whole and isinstance(rows, dict) else []


def _number(value: object) -> float | None:
    if isinstance(value, list) and value:
        numbers = [finite(item) for item in value]
        return None if None in numbers else float(np.mean(numbers))  # type: ignore[arg-type]
    return finite(value)


def _is_mean(aggregate: Any, values: np.ndarray) -> bool:
    return isinstance(aggregate, int | float) and math.isclose(
        aggregate, values.mean(), rel_tol=1e-4, abs_tol=1e-9
    )


def from_intervals(
    a: float, of_a: tuple[float, float], b: float, of_b: tuple[float, float]
) -> tuple[float, float]:
    """The interval of b - a from those of two independent values. Source: Zou and Donner 2008, the
    MOVER."""
    below = math.hypot(b - of_b[0], of_a[1] - a)
    above = math.hypot(of_b[1] - b, a - of_a[0])
    return b - a - below, b - a + above


def settings(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys at which two configurations differ, with both values; what only one of them
    has, as a whole."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        if a != b:
            yield path, a, b
        return
    for key in dict.fromkeys([*a, *b]):
        below = f"{path}.{key}" if path else str(key)
        yield from settings(a.get(key, ABSENT), b.get(key, ABSENT), below)


def most_changed(a: RunResult, b: RunResult, most: int = 5) -> list[ChangedAnswer]:
    """The answers whose ROUGE changed most, over all questions that both were asked."""
    found = [
        ChangedAnswer(shown.title, question, second.score - first.score)
        for shown in answers.question_sets([a, b])
        for question in shown.questions
        for first, second in [question.said]
        if first and second and first.score is not None and second.score is not None
    ]
    ranked = sorted(found, key=lambda one: -abs(one.by))
    return [one for one in ranked[:most] if one.by != 0]
