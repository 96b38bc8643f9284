"""Which of several runs is the better one, metric by metric, and which are no longer models worth
judging."""

from unteach.report.collect import REFERENCES, RunResult
from unteach.report.columns import (
    BUILT_IN,
    HIGHER,
    LOWER,
    NEAR_BEFORE,
    NEAR_RETAIN,
    NEAR_ZERO,
    RETAIN,
    Column,
)
from unteach.report.sets import comparable

KEPT_SHARE = 0.5
UTILITY_GONE = "utility gone"
UTILITY_GONE_MEANS = (
    f"{UTILITY_GONE.capitalize()}: of what the model was to keep, less than half of what it had is "
    "left (what its own start had; else the full model; else the retain model; else the best of "
    "the models shown). Whoever forgets everything also forgets what was asked, so none of its "
    "other values is marked as the best, and it is on no front."
)


def known_columns(runs: list[RunResult]) -> list[Column]:
    """List the columns that some run has a value of; every metric of the summaries where none of
    them is known.

    Built-in columns come in their own order, those that a suite adds after them; a suite that
    describes all of its columns also orders them.
    """
    described: dict[str, Column] = {}
    for run in runs:
        for metric, column in run.described.items():
            described.setdefault(metric, column)
    built_in = {column.metric: column for column in BUILT_IN if _any_has(runs, column.metric)}
    asked = {
        metric: column
        for metric, column in described.items()
        if any(metric in run.summary for run in runs)
    }
    ordered = asked if built_in.keys() <= described.keys() else {**built_in, **asked}
    return list(ordered.values()) or [Column(metric, metric) for metric in all_metrics(runs)]


def column_of(runs: list[RunResult], metric: str) -> Column:
    """Give a metric's column: as the runs' suite describes it, as it is built in, or its bare
    name."""
    described = next((run.described[metric] for run in runs if metric in run.described), None)
    built_in = next((column for column in BUILT_IN if column.metric == metric), None)
    return described or built_in or Column(metric, metric)


def all_metrics(runs: list[RunResult]) -> list[str]:
    """List every metric that a summary names or whose absence a run explains, by name."""
    return sorted({metric for run in runs for metric in (*run.summary, *run.absent)})


def _any_has(runs: list[RunResult], metric: str) -> bool:
    return any(run.value(metric) is not None for run in runs)


def values_of(runs: list[RunResult], metric: str, kind: str) -> list[float]:
    """List the values that runs of one kind have of a metric."""
    return [value for run in runs if run.kind == kind and (value := run.value(metric)) is not None]


def shortfall(run: RunResult, column: Column, runs: list[RunResult]) -> float | None:
    """Measure how far a run is from what is good in a column, in the metric's own units: less is
    better.

    None where it has no value, where nobody has said which way is good, or where what it is to be
    near is missing.
    """
    value = run.value(column.metric)
    if value is None:
        return None
    if column.better == HIGHER:
        return -value
    if column.better == LOWER:
        return value
    aims: list[float] = []
    if column.better == NEAR_ZERO:
        aims = [0.0]
    elif column.better == NEAR_RETAIN:
        aims = values_of(runs, column.metric, "retain")
    elif column.better == NEAR_BEFORE and run.before is not None:
        before = run.before.value(column.metric)
        aims = [] if before is None else [before]
    return min((abs(value - aim) for aim in aims), default=None)


def find_best(runs: list[RunResult], column: Column, gone: set[int]) -> set[int]:
    """Find the unlearned models, by their places in the list, that no other one beats in a column.

    None where there are no two to compare. Those in `gone`, which have lost what they were to keep,
    are the best of nothing but that.
    """
    if not comparable(runs):
        return set()
    judged = {}
    for place, run in enumerate(runs):
        distance = shortfall(run, column, runs)
        if run.kind not in REFERENCES and distance is not None:
            judged[place] = distance
    allowed = {
        place: distance
        for place, distance in judged.items()
        if column.role == RETAIN or place not in gone
    }
    if len(judged) < 2 or not allowed:
        return set()
    least = min(allowed.values())
    return {place for place, distance in allowed.items() if distance == least}


def find_gone(runs: list[RunResult]) -> set[int]:
    """Find the runs, by their places in the list, of whose utility less than half is left;
    references never are."""
    kept = [
        column
        for column in known_columns(runs)
        if column.role == RETAIN and column.better in (HIGHER, NEAR_BEFORE, NEAR_RETAIN)
    ]
    gone = set()
    for place, run in enumerate(runs):
        measured = [column.metric for column in kept if run.value(column.metric) is not None]
        if run.kind in REFERENCES or not measured:
            continue
        value, had = run.value(measured[0]), _had_before(run, measured[0], runs)
        if value is not None and had is not None and value < KEPT_SHARE * had:
            gone.add(place)
    return gone


def _had_before(run: RunResult, metric: str, runs: list[RunResult]) -> float | None:
    """Give what there was to keep of a metric, as far as these runs can tell."""
    if run.before is not None and (own := run.before.value(metric)) is not None:
        return own
    for kind in ("full", "retain"):
        if values := values_of(runs, metric, kind):
            return max(values)
    values = [value for other in runs if (value := other.value(metric)) is not None]
    return max(values, default=None)
