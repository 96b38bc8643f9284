"""Reads what evaluation wrote about several runs, so that they can be shown beside each other."""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unteach.errors import UserError
from unteach.evals.merge_results import ABSENT, BASIS, METRICS, NOTES, SUMMARY
from unteach.evals.retain_logs import EVAL, ROWS
from unteach.report import audits, landings, origin
from unteach.report.columns import Column, find_column, read_descriptions
from unteach.report.result_file import (
    ResultFile,
    TokenFile,
    explain_closed_file,
    read_results,
    strip_examples,
)
from unteach.run_dir import EVALS, EVALS_BEFORE

KINDS = ("base", "start", "full", "retain", "forget", "eval", "")
REFERENCES = ("base", "start", "full", "retain")
"""Kinds that unlearned models are compared with; `start` is what a run's weights were before it
began."""
TOKENS = "_TOKENS.json"
COUNT_OF_ROWS = re.compile(r"(rows skipped|answers cut|boundaries moved|continuations cut) in ")
"""How older results name counts of rows among the metrics that are absent."""

Log = dict[str, Any]
"""What a file of results holds, by metric or column."""


@dataclass(frozen=True)
class RunResult:
    """One evaluated model.

    Attributes:
        kind: its part in a study, "" where it has none.
        summary: the finite aggregates.
        results: `<SUITE>_EVAL.json` with its per-example values, which are read when they are
            asked for.
        absent: of each metric that is not there, why it is not.
        tokens: the rows of `<SUITE>_TOKENS.json`, read when they are asked for.
        rows: what each column that was measured is made of.
        forgets: which rows the run is to forget or is judged by, "" where its configuration does
            not say.
        described: the columns that its results describe.
        notes: what was left out or cut.
        before: the same of the weights that the run started from.
    """

    name: str
    kind: str
    folder: Path
    summary: dict[str, float]
    results: Mapping[str, Any]
    absent: dict[str, str] = field(default_factory=dict)
    tokens: Iterable[dict[str, Any]] = field(default_factory=list)
    rows: Log = field(default_factory=dict)
    forgets: str = ""
    described: dict[str, Column] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    before: "RunResult | None" = None

    def metrics(self) -> list[str]:
        """List every metric that has a value, by name."""
        return sorted(self.measured)

    @functools.cached_property
    def measured(self) -> frozenset[str]:
        """Every metric that has a value."""
        names = {*self.summary, *self.results}
        return frozenset(metric for metric in names if self.value(metric) is not None)

    def value(self, metric: str) -> float | None:
        """Get a metric's aggregate, or None: never a number that was not measured."""
        value = self.summary.get(metric)
        if value is not None:
            return value
        entry = self.get_head(metric)
        return to_finite(entry.get("agg_value"))

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Get a metric's confidence interval, where the log has one that says something.

        Older logs have some that do not hold the value: those say nothing.
        """
        value = self.value(metric)
        bounds = self.get_head(metric).get("ci")
        if value is None:
            return None
        if not isinstance(bounds, list | tuple) or len(bounds) != 2:
            return None
        low = to_finite(bounds[0])
        high = to_finite(bounds[1])
        if low is None or high is None:
            return None
        return (low, high) if low <= value <= high else None

    def size(self, metric: str) -> int | None:
        """Count the examples that an aggregate stands on, where the log says so or holds them."""
        count = self.get_head(metric).get("n")
        return count if isinstance(count, int) else None

    def get_head(self, metric: str) -> Mapping[str, Any]:
        """Get what is small of a metric's entry: its aggregate, its interval, its count."""
        if isinstance(self.results, ResultFile):
            return self.results.heads.get(metric, {})
        return strip_examples(self.results.get(metric))


@dataclass(frozen=True)
class _Shared:
    """What runs share, read once.

    Attributes:
        starts: what runs started from, by what their small files say of it.
        described: the columns that results describe, by the content of the file.
        beside_audits: what audits brought out of the models beside the audited ones, by folder.
    """

    starts: dict[tuple[bytes, ...], RunResult] = field(default_factory=dict)
    described: dict[bytes, dict[str, Column]] = field(default_factory=dict)
    beside_audits: dict[Path, dict[str, float]] = field(default_factory=dict)


def collect(
    folders: list[tuple[str, str, Path]],
    suite: str = "TOFU",
) -> list[RunResult]:
    """Read the results of (name, kind, folder) runs.

    Training runs keep them under `evals/`, evaluation runs on top. All but `<SUITE>_EVAL.json` may
    be missing, as it is in foreign logs: the summary repeats what that file holds, the others are
    there to explain gaps and to look at tokens.

    Args:
        folders: the name, the kind and the folder of each run.
        suite: whose results, as its files are called.

    Raises:
        UserError: a run has no results, or a file cannot be read.
    """
    runs = []
    shared = _Shared(beside_audits=audits.read_beside(folder for _, _, folder in folders))
    for name, kind, folder in folders:
        runs.append(_read_run(name, kind, Path(folder), suite, shared))
    return runs


def list_suites(folder: Path) -> tuple[str, ...]:
    """List the suites that a run's folder has results of."""
    suites = set()
    for home in (folder / EVALS, folder):
        for file in home.glob(f"*{EVAL}"):
            suites.add(file.name.removesuffix(EVAL))
    return tuple(sorted(suites))


def insert_starts(runs: list[RunResult]) -> list[RunResult]:
    """Put what each run started from before it, as a row of its own.

    All that started from the same share one row.
    """
    starts = [run.before for run in runs if run.before is not None]
    num_sharing = Counter(_identify_results(start) for start in starts)
    rows: list[RunResult] = []
    seen: set[str] = set()
    for run in runs:
        start = run.before
        if start is not None:
            identity = _identify_results(start)
            if identity not in seen:
                seen.add(identity)
                if num_sharing[identity] > 1:
                    start = replace(start, name="before")
                rows.append(start)
        rows.append(run)
    return rows


def _identify_results(run: RunResult) -> str:
    """Give what tells results from all others: the digest of their file, or themselves."""
    if isinstance(run.results, ResultFile):
        return run.results.digest
    return repr(run.results)


def _read_run(
    name: str,
    kind: str,
    folder: Path,
    suite: str,
    shared: _Shared,
) -> RunResult:
    assert kind in KINDS, f"a run's kind is one of {KINDS}, not {kind!r}"
    forgets = origin.describe_forget_set(origin.read_config(folder))
    home = _find_results_folder(name, folder, suite)
    run = _read_results(name, folder, home, suite, shared)
    landing, audit = landings.read_landing(folder), audits.read_audit(folder)
    audit = audit or shared.beside_audits.get(folder.resolve(), {})
    described = run.described  # runs of one file share it
    if landing:
        described = {**described, **landings.COLUMNS}
    if audit:
        described = {**described, **audits.COLUMNS}
    run = replace(
        run,
        kind=kind,
        forgets=forgets,
        summary={**run.summary, **landing, **audit},
        described=described,
    )

    start_dir = folder / EVALS_BEFORE
    if not (start_dir / f"{suite}{EVAL}").exists():
        return run
    start = _read_start(name, start_dir, suite, shared)
    start = replace(
        start,
        kind="start",
        forgets=forgets,
    )
    return replace(run, before=start)


def _read_start(name: str, folder: Path, suite: str, shared: _Shared) -> RunResult:
    """Read what a run started from; where another run started from the same weights and was
    measured alike, that one's results stand for it."""
    label = f"{name}, before"
    if not (folder / f"{suite}{BASIS}").exists():
        return _read_results(label, folder, folder, suite, shared)
    measured = []
    for ending in (BASIS, SUMMARY, ROWS, METRICS, ABSENT, NOTES):
        file = folder / f"{suite}{ending}"
        measured.append(_read_optional_bytes(label, file))
    key = tuple(measured)
    if key not in shared.starts:
        shared.starts[key] = _read_results(label, folder, folder, suite, shared)
    return replace(shared.starts[key], name=label, folder=folder)


def _read_results(
    name: str,
    folder: Path,
    home: Path,
    suite: str,
    shared: _Shared,
) -> RunResult:
    """Read the files that one evaluation wrote into `home`."""
    results = _read_result_file(name, home / f"{suite}{EVAL}")
    metrics_file = home / f"{suite}{METRICS}"
    content = _read_optional_bytes(name, metrics_file)
    if content not in shared.described:
        descriptions = _read_optional_mapping(name, metrics_file)
        columns = read_descriptions(descriptions, f"run {name!r}", metrics_file)
        shared.described[content] = columns
    described = shared.described[content]

    for metric, head in results.heads.items():
        # Older results have intervals of p-values: they lie below the value, whatever the rows.
        if not find_column(metric, described).has_interval:
            head["ci"] = None

    # Older results hold counts of rows among the reasons; newer ones have a file of notes.
    absent = {}
    notes = {}
    reasons = _read_optional_mapping(name, home / f"{suite}{ABSENT}")
    for key, reason in reasons.items():
        if COUNT_OF_ROWS.match(key):
            notes[key] = str(reason)
        else:
            absent[key] = str(reason)
    details = _read_optional_mapping(name, home / f"{suite}{NOTES}")
    for sentence, detail in details.items():
        absent.pop(sentence, None)
        notes[sentence] = str(detail)

    return RunResult(
        name=name,
        kind="",
        folder=folder,
        summary=_read_summary(name, home / f"{suite}{SUMMARY}", results),
        results=results,
        absent=absent,
        tokens=TokenFile(name, home / f"{suite}{TOKENS}"),
        rows=_read_optional_mapping(name, home / f"{suite}{ROWS}"),
        described=described,
        notes=notes,
    )


def _read_summary(name: str, file: Path, results: ResultFile) -> dict[str, float]:
    """Read the finite aggregates; where there is no summary, from the results."""
    if file.exists():
        summary = _read_mapping(name, file)
    else:
        summary = {metric: head.get("agg_value") for metric, head in results.heads.items()}
    return _keep_finite(summary)


def _find_results_folder(name: str, folder: Path, suite: str) -> Path:
    if not folder.is_dir():
        raise UserError(
            f"run {name!r}: there is no folder {folder}; give the folder of a run that has been "
            f"evaluated"
        )
    file = f"{suite}{EVAL}"
    homes = [folder / EVALS, folder]
    for home in homes:
        if (home / file).exists():
            return home
    advice = f"Evaluate the run on {suite} first"
    others = ", ".join(list_suites(folder))
    if others:
        advice = f"It has results of {others}: name that suite, or evaluate the run on {suite}"
    command = origin.build_eval_command(folder, suite)
    raise UserError(
        f"run {name!r} has no {suite} results: neither {homes[0] / file} nor {homes[1] / file} is "
        f"there. {advice}: {command}"
    )


def _read_optional_bytes(name: str, file: Path) -> bytes:
    """Read a file of the run of this name, or nothing where it is not there."""
    if not file.exists():
        return b""
    with explain_closed_file(f"run {name!r}", file):
        return file.read_bytes()


def _read_optional_mapping(name: str, file: Path) -> Log:
    """Read a file of results, or nothing where it is not there."""
    if not file.exists():
        return {}
    return _read_mapping(name, file)


def _read_mapping(name: str, file: Path) -> Log:
    """Read a file of results of the run of this name.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    what = f"run {name!r}"
    with explain_closed_file(what, file):
        return read_results(file, what)


def _read_result_file(name: str, file: Path) -> ResultFile:
    """Read a file of values and examples of the run of this name, but the examples.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    what = f"run {name!r}"
    with explain_closed_file(what, file):
        return ResultFile(file, what)


def read_scores(entry: object, key: str = "score") -> dict[str, float]:
    """Read a metric's per-example numbers by row, those that are numbers.

    Args:
        entry: the metric's entry in a log; any other thing holds no numbers.
    """
    rows = entry.get("value_by_index") if isinstance(entry, dict) else None
    if not isinstance(rows, dict):
        return {}
    values = {}
    for index, row in rows.items():
        if isinstance(row, dict):
            values[index] = row.get(key)
    return _keep_finite(values)


def _keep_finite(values: Mapping[str, object]) -> dict[str, float]:
    """Leave out what is no finite number."""
    numbers = {}
    for key, value in values.items():
        number = to_finite(value)
        if number is not None:
            numbers[key] = number
    return numbers


def to_finite(value: object) -> float | None:
    """Give a number, or None for what a log may hold where nothing could be measured: null, NaN,
    infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
