"""Which of several runs is the better one, metric by metric, and which are no longer models worth
judging."""

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.columns import (
    HIGHER,
    LOWER,
    NEAR_BEFORE,
    NEAR_RETAIN,
    NEAR_ZERO,
    RETAIN,
    Column,
    find_column,
    load_known_columns,
)
from unteach.report.sets import are_comparable

KEPT_SHARE = 0.5
UTILITY_GONE = "utility gone"
UTILITY_GONE_MEANS = (
    f"{UTILITY_GONE.capitalize()}: of what the model was to keep, less than half of what it had is "
    "left (what its own start had; else the full model; else the retain model; else the best of "
    "the models shown). Whoever forgets everything also forgets what was asked, so none of its "
    "other values is marked as the best, and it is on no front."
)


def list_headline_columns(runs: list[RunResult]) -> list[Column]:
    """List the columns of the table: described metrics of which some run has a value.

    Results that describe all of these also order them; what they do not describe and is known by
    its name stands before. Where no metric is described, every one of the summaries is a column.
    """
    described: dict[str, Column] = {}
    # Of many runs most share what describes them.
    for shared in {id(run.described): run.described for run in runs}.values():
        for metric, column in shared.items():
            described.setdefault(metric, column)
    measured = frozenset[str]().union(*(run.measured for run in runs))
    known = {}
    for metric, column in load_known_columns().items():
        if column.in_headline and metric in measured:
            known[metric] = column
    if known.keys() <= described.keys():
        known = {}

    columns = []
    for metric, column in {**known, **described}.items():
        if column.in_headline and metric in measured:
            columns.append(column)
    if columns:
        return columns
    return [Column(metric, metric) for metric in list_metrics(runs)]


def get_column(runs: list[RunResult], metric: str) -> Column:
    """Get a metric's column: as some run's results describe it, as it is known, or its bare
    name."""
    for run in runs:
        if metric in run.described:
            return run.described[metric]
    return find_column(metric, {})


def list_metrics(runs: list[RunResult]) -> list[str]:
    """List every metric that a summary names or whose absence a run explains, by name."""
    names: set[str] = set()
    for run in runs:
        names.update(run.summary, run.absent)
    return sorted(names)


def list_values(runs: list[RunResult], metric: str, kind: str) -> list[float]:
    """List the values that runs of one kind have of a metric."""
    values = []
    for run in runs:
        value = run.value(metric)
        if run.kind == kind and value is not None:
            values.append(value)
    return values


def list_aims(runs: list[RunResult], column: Column) -> list[float]:
    """List the retain models' values of a column that are to be come near to; none of another."""
    return list_values(runs, column.metric, "retain") if column.better == NEAR_RETAIN else []


def measure_shortfall(
    run: RunResult,
    column: Column,
    aims: list[float],
) -> float | None:
    """Measure how far a run is from what is good in a column, in the metric's own units.

    Less is better. None where it has no value, where nobody has said which way is good, or where
    what it is to be near is missing.

    Args:
        aims: what it is to be near, of `list_aims`.
    """
    value = run.value(column.metric)
    if value is None:
        return None
    if column.better == HIGHER:
        return -value
    if column.better == LOWER:
        return value
    if column.better == NEAR_ZERO:
        return abs(value)
    if column.better == NEAR_RETAIN:
        return min((abs(value - aim) for aim in aims), default=None)
    if column.better == NEAR_BEFORE and run.before is not None:
        before = run.before.value(column.metric)
        return None if before is None else abs(value - before)
    return None


def find_best(runs: list[RunResult], column: Column, gone: set[int]) -> set[int]:
    """Find the unlearned models, by their places in the list, that no other one beats in a column.

    None where there are no two to compare. Those in `gone`, which have lost what they were to keep,
    are the best of nothing but that.
    """
    if not are_comparable(runs):
        return set()
    num_judged = 0
    shortfalls = {}
    aims = list_aims(runs, column)
    for run_index, run in enumerate(runs):
        shortfall = measure_shortfall(run, column, aims)
        if run.kind in REFERENCES or shortfall is None:
            continue
        num_judged += 1
        if column.role == RETAIN or run_index not in gone:
            shortfalls[run_index] = shortfall
    if num_judged < 2 or not shortfalls:
        return set()
    least = min(shortfalls.values())
    return {run_index for run_index, shortfall in shortfalls.items() if shortfall == least}


def find_gone(runs: list[RunResult]) -> set[int]:
    """Find the runs, by their places in the list, of whose utility less than half is left.

    Utility is the first metric of the retain rows that a run has. References are never gone.
    """
    kept = []
    for column in list_headline_columns(runs):
        falls_when_lost = column.better in (HIGHER, NEAR_BEFORE, NEAR_RETAIN)
        if column.role == RETAIN and falls_when_lost:
            kept.append(column.metric)

    gone = set()
    had: dict[str, float | None] = {}
    for run_index, run in enumerate(runs):
        utilities = [metric for metric in kept if run.value(metric) is not None]
        if run.kind in REFERENCES or not utilities:
            continue
        value = run.value(utilities[0])
        before = run.before.value(utilities[0]) if run.before is not None else None
        if before is None:
            if utilities[0] not in had:
                had[utilities[0]] = _find_value_had(utilities[0], runs)
            before = had[utilities[0]]
        if value is not None and before is not None and value < KEPT_SHARE * before:
            gone.add(run_index)
    return gone


def _find_value_had(metric: str, runs: list[RunResult]) -> float | None:
    """Find what there was to keep of a metric, as far as these runs can tell."""
    for kind in ("full", "retain"):
        values = list_values(runs, metric, kind)
        if values:
            return max(values)
    shown = [other.value(metric) for other in runs]
    return max((value for value in shown if value is not None), default=None)
