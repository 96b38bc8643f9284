"""Logs of other models: a <SUITE>_EVAL.json of ours or OpenUnlearning's, and whether it may be
compared with.

The retain model's is named by retain_logs_path, or made by evaluating retain_model; that of the
model that unlearning started from is named by before_logs_path.

Our own logs lie beside a <SUITE>_ROWS.json, which says what each column of rows was made of, so
that a log of other rows is recognised by their content. Of a log without it, the metrics' names and
the rows' numbers are compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unteach import json_files, run_dir
from unteach.config.suites import SuiteConfig
from unteach.errors import UserError
from unteach.evals.rows import TokenizedColumn
from unteach.wording import format_count

EVAL = "_EVAL.json"
ROWS = "_ROWS.json"

LogKey = Literal["retain_logs_path", "before_logs_path"]
"""The keys of a suite that name a log."""
WHOSE = {"retain_logs_path": "a retain model", "before_logs_path": "the model before"}
"""Which model's log a key names."""
MAX_NAMES = 6
"""Names that a message lists."""


@dataclass(frozen=True)
class ColumnUnderMetric:
    """Name a column of rows that a metric is measured on.

    Attributes:
        half: the half of an attack's value, `forget` or `holdout`, that is of these rows; of other
            metrics, a word that no value has a half of.
        name: `<rows>.<column>`.
        column: the rows.
    """

    half: str
    name: str
    column: TokenizedColumn


@dataclass
class Log:
    """Hold the values of a log, by metric.

    Attributes:
        key: the key of the suite that names it.
        path: the log, or the model that will make it; None where neither is named.
        values: the log's entries, by metric.
        rows: of our own logs, what each column of rows was made of.
        is_awaited: whether its model is yet to be evaluated, on the same rows.
    """

    key: LogKey
    path: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] | None = None
    is_awaited: bool = False

    def explain_absence(self, metric: str) -> str | None:
        """Say why a metric of this log cannot be compared with; None if it can."""
        if self.is_awaited:
            return None
        if not self.path:
            return f"it compares with {WHOSE[self.key]}, and no {self.key} is set"
        log_name = f"the {self.key.partition('_')[0]} log {self.path}"
        entry = self.values.get(metric)
        if not isinstance(entry, dict):
            return f"{log_name} has no {metric}; it holds {_list_names(self.values)}"
        if entry.get("agg_value") is None:
            return f"{log_name} has no value of {metric}"
        return None

    def refuse_other_rows(self, metric: str, columns: Iterable[ColumnUnderMetric]) -> None:
        """Raise UserError if the log's metric was measured on other rows than these."""
        if self.is_awaited:
            return
        for under in columns:
            if self.rows is None:
                self._compare_row_numbers(metric, under)
            else:
                self._compare_fingerprints(metric, under, self.rows.get(under.name, {}))

    def _compare_fingerprints(
        self, metric: str, under: ColumnUnderMetric, logged: dict[str, Any]
    ) -> None:
        if logged.get("digest") == under.column.fingerprint:
            return
        if not logged:
            self._refuse(metric, f"other columns ({_list_names(self.rows or {})})", under)
        source = logged["of"]
        num_rows = logged["count"]
        is_alike = source == under.column.source and num_rows == under.column.num_rows
        difference = ""
        if is_alike:
            num_logged = len(self._list_row_numbers(metric, under))
            num_measured = len(under.column.row_indices)
            difference = " whose words are others"
            if num_logged != num_measured:
                difference = f", of which {num_logged:,} were measured, and here {num_measured:,}"
        logged_rows = f"{source} ({format_count(num_rows, 'row')}{difference})"
        self._refuse(metric, logged_rows, under)

    def _list_row_numbers(self, metric: str, under: ColumnUnderMetric) -> set[int]:
        """List the numbers of the rows that have a value in the log."""
        entry = self.values[metric]
        half = entry.get(under.half) or entry
        return {int(index) for index in half.get("value_by_index") or ()}

    def _compare_row_numbers(self, metric: str, under: ColumnUnderMetric) -> None:
        """Compare by number: a log may have more rows than are measured, of the same set."""
        logged = self._list_row_numbers(metric, under)
        if not logged:
            return
        measured = set(under.column.row_indices)
        existing = set(range(under.column.num_rows))
        if not measured <= logged <= existing:
            self._refuse(metric, format_count(len(logged), "row"), under)

    def _refuse(
        self,
        metric: str,
        logged_rows: str,
        under: ColumnUnderMetric,
    ) -> None:
        num_rows = format_count(under.column.num_rows, "row")
        raise UserError(
            f"{self.key}={self.path}: its {metric} was measured on {logged_rows}, and this run "
            f"measures {under.name} on {under.column.source} ({num_rows}); evaluate that model on "
            "the same split and name that log"
        )


def read_log(config: SuiteConfig, key: LogKey = "retain_logs_path") -> Log:
    """Read the log that a key of the suite names; a run's folder stands for the log in it."""
    if key == "retain_logs_path" and config.retain_model:
        return Log(key, config.retain_model, is_awaited=True)
    path = config.retain_logs_path
    if key == "before_logs_path":
        path = config.before_logs_path
    if not path:
        return Log(key)
    file = _find_log_file(Path(path), config.suite, key)
    values = json_files.read_json(file, key)
    if not isinstance(values, dict):
        raise UserError(f"{key}={path}: not an evaluation log (a mapping of metrics)")
    num_known = sum(name in config.define for name in values)
    if 2 * num_known < len(values):
        raise UserError(
            f"{key}={path}: it holds {_list_names(values)}, and eval.{config.suite} knows "
            f"{num_known} of them: is it the log of another suite? "
            f"Set eval.{config.suite}.{key} to a {config.suite.upper()}{EVAL}"
        )
    rows = None
    rows_file = file.with_name(file.name.replace(EVAL, ROWS))
    if file.name.endswith(EVAL) and rows_file.exists():
        rows = json_files.read_json(rows_file, key)
    return Log(key, path, values, rows)


def _find_log_file(path: Path, suite: str, key: str) -> Path:
    if not path.is_dir():
        return path
    name = f"{suite.upper()}{EVAL}"
    folders = (path, path / run_dir.EVALS)
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    other_logs: set[str] = set()
    for folder in folders:
        other_logs.update(file.name for file in folder.glob(f"*{EVAL}"))
    holds = f"no *{EVAL} in this folder"
    if other_logs:
        in_order = ", ".join(sorted(other_logs))
        holds = f"it holds {in_order}"
    raise UserError(
        f"{key}={path}: {holds}, and eval.{suite} compares with {name}; evaluate it first"
    )


def _list_names(names: Iterable[str]) -> str:
    """List the first names in a message."""
    in_order = sorted(names)
    if not in_order:
        return "nothing"
    names_in_message = ", ".join(in_order[:MAX_NAMES])
    num_more = len(in_order) - MAX_NAMES
    if num_more > 0:
        return f"{names_in_message} and {num_more} more"
    return names_in_message
