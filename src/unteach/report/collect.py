"""Reads what evaluation wrote about several runs, so that they can be shown beside each other."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unteach.errors import UserError
from unteach.evals.retain_logs import EVAL, ROWS
from unteach.json_files import read_json
from unteach.report import origin
from unteach.report.columns import Column, read_descriptions
from unteach.run_dir import EVALS, EVALS_BEFORE

KINDS = ("base", "start", "full", "retain", "forget", "eval", "")
REFERENCES = ("base", "start", "full", "retain")
"""Kinds that unlearned models are compared with; `start` is what a run's weights were before it
began."""
"""Where a run keeps what was measured of the weights that it started from."""
P_VALUES = ("forget_quality", "forget_quality_1", "forget_quality_2")
"""Of these older results have intervals that say nothing: a p-value's bootstrap lies below it,
whatever the rows."""
COUNTED = re.compile(r"(rows skipped|answers cut|boundaries moved|continuations cut) in ")
"""How older results name counts of rows among the metrics that are absent."""


@dataclass(frozen=True)
class RunResult:
    """One evaluated model: `kind` is its part in a study, "" where it has none.

    `summary` holds the finite aggregates, `results` the whole `<SUITE>_EVAL.json` with its
    per-example values, `absent` says of each metric that is not there why it is not, `tokens` are
    the rows of `<SUITE>_TOKENS.json`, `rows` says what each column that was measured is made of,
    and `forgets` which rows the run is to forget or is judged by, "" where its configuration does
    not say. `described` are the columns that the suite itself describes, `notes` what was left out
    or cut, and `before` is the same of the weights that the run started from.
    """

    name: str
    kind: str
    folder: Path
    summary: dict[str, float]
    results: dict[str, Any]
    absent: dict[str, str] = field(default_factory=dict)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, Any] = field(default_factory=dict)
    forgets: str = ""
    described: dict[str, Column] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    before: "RunResult | None" = None

    def metrics(self) -> list[str]:
        """Every metric that has a value, by name."""
        return sorted(
            metric for metric in {*self.summary, *self.results} if self.value(metric) is not None
        )

    def value(self, metric: str) -> float | None:
        """The metric's aggregate, or None where the run has none: never a number that was not
        measured."""
        found = self.summary.get(metric)
        return found if found is not None else finite(_entry(self.results, metric).get("agg_value"))

    def interval(self, metric: str) -> tuple[float, float] | None:
        """The metric's confidence interval, where the log that was read has one.

        Older logs have some that do not hold the value: those say nothing, and are not given.
        """
        value = self.value(metric)
        if value is None:
            return None
        given = _entry(self.results, metric).get("ci")
        if not isinstance(given, list | tuple) or len(given) != 2:
            return None
        low, high = (finite(bound) for bound in given)
        if low is None or high is None or not low <= value <= high:
            return None
        return low, high

    def size(self, metric: str) -> int | None:
        """How many examples the aggregate stands on, where the log says so or holds them."""
        entry = _entry(self.results, metric)
        counted = entry.get("n")
        if isinstance(counted, int):
            return counted
        rows = entry.get("value_by_index")
        return len(rows) if isinstance(rows, dict) else None


def collect(folders: list[tuple[str, str, Path]], suite: str = "TOFU") -> list[RunResult]:
    """Reads the results of (name, kind, folder) runs: training runs keep them under `evals/`,
    evaluation runs on top.

    All but `<SUITE>_EVAL.json` may be missing, as it is in foreign logs: the summary repeats what
    that file holds, the others are there to explain gaps and to look at tokens. Raises UserError
    where a run has no results or a file cannot be read.
    """
    return [_read(name, kind, Path(folder), suite) for name, kind, folder in folders]


def results_of(folder: Path) -> tuple[str, ...]:
    """The suites that a run's folder has results of."""
    files = [file for place in (folder / EVALS, folder) for file in place.glob(f"*{EVAL}")]
    return tuple(sorted({file.name.removesuffix(EVAL) for file in files}))


def with_starts(runs: list[RunResult]) -> list[RunResult]:
    """Put what each run started from before it, as a row of its own; one row for all that started
    from the same."""
    shown: list[RunResult] = []
    starts: list[dict[str, Any]] = []
    for run in runs:
        if run.before is not None and run.before.results not in starts:
            starts.append(run.before.results)
            sharing = sum(
                other.before is not None and other.before.results == run.before.results
                for other in runs
            )
            shown.append(replace(run.before, name="before") if sharing > 1 else run.before)
        shown.append(run)
    return shown


def _read(name: str, kind: str, folder: Path, suite: str) -> RunResult:
    assert kind in KINDS, f"a run's kind is one of {KINDS}, not {kind!r}"
    forgets = origin.what_goes(origin.read_config(folder))
    run = _read_results(name, kind, folder, _results_folder(name, folder, suite), suite, forgets)
    start = folder / EVALS_BEFORE
    if not (start / f"{suite}{EVAL}").exists():
        return run
    return replace(
        run, before=_read_results(f"{name}, before", "start", start, start, suite, forgets)
    )


def _read_results(
    name: str, kind: str, folder: Path, where: Path, suite: str, forgets: str
) -> RunResult:
    results = _mapping(name, where / f"{suite}{EVAL}")
    for metric in P_VALUES:
        if _entry(results, metric):
            results[metric] = {**results[metric], "ci": None}
    summary_file, metrics_file = where / f"{suite}_SUMMARY.json", where / f"{suite}_METRICS.json"
    summary = _mapping(name, summary_file) if summary_file.exists() else _aggregates(results)
    absent = _optional_mapping(name, where / f"{suite}_ABSENT.json")
    notes = {
        **{key: value for key, value in absent.items() if COUNTED.match(key)},
        **_optional_mapping(name, where / f"{suite}_NOTES.json"),
    }
    return RunResult(
        name=name,
        kind=kind,
        folder=folder,
        summary={
            key: number for key, value in summary.items() if (number := finite(value)) is not None
        },
        results=results,
        absent={key: str(reason) for key, reason in absent.items() if key not in notes},
        tokens=_tokens(name, where / f"{suite}_TOKENS.json"),
        rows=_optional_mapping(name, where / f"{suite}{ROWS}"),
        forgets=forgets,
        described=read_descriptions(
            _optional_mapping(name, metrics_file), f"run {name!r}", metrics_file
        ),
        notes={sentence: str(detail) for sentence, detail in notes.items()},
    )


def _tokens(name: str, file: Path) -> list[dict[str, Any]]:
    rows = _mapping(name, file).get("rows") if file.exists() else []
    whole = {"tokens": list, "logprob": list, "length": int}
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in whole.items())
        for row in rows
    ):
        raise UserError(
            f"run {name!r}: {file} does not list answers token by token; evaluate the run again"
        )
    return rows


def _results_folder(name: str, folder: Path, suite: str) -> Path:
    if not folder.is_dir():
        raise UserError(
            f"run {name!r}: there is no folder {folder}; give the folder of a run that has been "
            f"evaluated"
        )
    places = [folder / EVALS, folder]
    for place in places:
        if (place / f"{suite}{EVAL}").exists():
            return place
    if others := results_of(folder):
        mend = (
            f"It has results of {', '.join(others)}: name that suite, or evaluate the run on "
            f"{suite}"
        )
    else:
        mend = f"Evaluate the run on {suite} first"
    raise UserError(
        f"run {name!r} has no {suite} results: neither {places[0] / f'{suite}{EVAL}'} nor "
        f"{places[1] / f'{suite}{EVAL}'} is there. {mend}: "
        f"{origin.command_to_evaluate(folder, suite)}"
    )


def _optional_mapping(name: str, file: Path) -> dict[str, Any]:
    return _mapping(name, file) if file.exists() else {}


def _mapping(name: str, file: Path) -> dict[str, Any]:
    what = f"run {name!r}"
    try:
        found = read_json(file, what)
    except OSError as error:
        raise UserError(
            f"{what}: {file} cannot be read ({error.strerror}); check its permissions or evaluate "
            f"the run again"
        ) from None
    if not isinstance(found, dict):
        raise UserError(
            f"{what}: {file} holds {type(found).__name__} where a mapping of metrics is needed; "
            "it is not a results file: evaluate the run again or name another folder"
        )
    return found


def _aggregates(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        metric: entry.get("agg_value")
        for metric, entry in results.items()
        if isinstance(entry, dict)
    }


def _entry(results: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    entry = results.get(metric)
    return entry if isinstance(entry, dict) else {}


def scores_of(entry: object, key: str = "score") -> dict[str, float]:
    """A metric's per-example numbers by row, those that are numbers; none where the log has
    none."""
    rows = entry.get("value_by_index") if isinstance(entry, dict) else None
    numbers = (
        {i: finite(row.get(key)) for i, row in rows.items() if isinstance(row, dict)}
        if isinstance(rows, dict)
        else {}
    )
    return {index: number for index, number in numbers.items() if number is not None}


def finite(value: object) -> float | None:
    """The number, or None for what a log may hold where nothing could be measured: null, NaN,
    infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
