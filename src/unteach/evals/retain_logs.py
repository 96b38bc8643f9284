"""Logs of other models: a <SUITE>_EVAL.json of ours or OpenUnlearning's, and whether it may be
compared with.

The retain model's is named by retain_logs_path, or made by evaluating retain_model; that of the
model that unlearning started from is named by before_logs_path.

Beside our own logs lies <SUITE>_ROWS.json, which says what each column of rows was made of, so a
log of other rows is told by their content. Of a log without it, the metrics' names and the rows'
numbers are compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unteach import json_files, run_dir
from unteach.config.suites import SuiteConfig
from unteach.errors import UserError
from unteach.evals.rows import Asked
from unteach.wording import counted

EVAL, ROWS = "_EVAL.json", "_ROWS.json"


WHOSE = {"retain_logs_path": "a retain model", "before_logs_path": "the model before"}
"""The keys that name a log, and whose it is."""


@dataclass
class Log:
    """The values of a log, by metric; and of our own ones the rows under them, by column.

    awaited: its model is yet to be evaluated, on the same rows.
    """

    key: str
    path: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] | None = None
    awaited: bool = False

    def lacks(self, metric: str) -> str | None:
        """Why a metric of this log cannot be compared with; None if it can."""
        if self.awaited:
            return None
        if not self.path:
            return f"it compares with {WHOSE[self.key]}, and no {self.key} is set"
        named = f"the {self.key.partition('_')[0]} log {self.path}"
        if not isinstance(self.values.get(metric), dict):
            return f"{named} has no {metric}; it holds {_some(self.values)}"
        if self.values[metric].get("agg_value") is None:
            return f"{named} has no value of {metric}"
        return None

    def refuse_other_rows(self, metric: str, columns: Iterable[tuple[str, str, Asked]]) -> None:
        """Raises UserError if the log's metric was measured on other rows than these (half, column,
        rows)."""
        if self.awaited:
            return
        for half, column, asked in columns:
            if self.rows is not None:
                kept = self.rows.get(column, {})
                if kept.get("digest") != asked.digest:
                    raise UserError(self._other(metric, self._kept(kept, asked), column, asked))
                continue
            entry = self.values[metric]
            index = (entry.get(half) or entry).get("value_by_index")
            logged = {int(i) for i in index} if index else None
            if logged is not None and not set(asked.index) <= logged <= set(range(asked.count)):
                raise UserError(self._other(metric, counted(len(logged), "row"), column, asked))

    def _kept(self, kept: dict[str, Any], asked: Asked) -> str:
        if not kept:
            return f"other columns ({_some(self.rows or {})})"
        same = (
            " whose words are others"
            if (kept["of"], kept["count"]) == (asked.where, asked.count)
            else ""
        )
        return f"{kept['of']} ({counted(kept['count'], 'row')}{same})"

    def _other(self, metric: str, logged: str, column: str, asked: Asked) -> str:
        return (
            f"{self.key}={self.path}: its {metric} was measured on {logged}, and this run measures "
            f"{column} on {asked.where} ({counted(asked.count, 'row')}); evaluate that model on "
            "the same split and name that log"
        )


def read(config: SuiteConfig, key: str = "retain_logs_path") -> Log:
    """The log that a key of the suite names; a run's folder stands for the log in it."""
    path = getattr(config, key)
    if key == "retain_logs_path" and config.retain_model:
        return Log(key, config.retain_model, awaited=True)
    if not path:
        return Log(key)
    file = _file(Path(path), config.suite, key)
    values = json_files.read_json(file, key)
    if not isinstance(values, dict):
        raise UserError(f"{key}={path}: not an evaluation log (a mapping of metrics)")
    foreign = [name for name in values if name not in config.define]
    if 2 * len(foreign) > len(values):
        raise UserError(
            f"{key}={path}: it holds {_some(values)}, and eval.{config.suite} knows "
            f"{len(values) - len(foreign)} of them: is it the log of another suite? "
            f"Set eval.{config.suite}.{key} to a {config.suite.upper()}{EVAL}"
        )
    beside = file.with_name(file.name.replace(EVAL, ROWS))
    rows = (
        json_files.read_json(beside, key) if file.name.endswith(EVAL) and beside.exists() else None
    )
    return Log(key, path, values, rows)


def _file(path: Path, suite: str, key: str) -> Path:
    if not path.is_dir():
        return path
    name = f"{suite.upper()}{EVAL}"
    for folder in (path, path / run_dir.EVALS):
        if (folder / name).exists():
            return folder / name
    there = sorted(
        {file.name for folder in (path, path / run_dir.EVALS) for file in folder.glob(f"*{EVAL}")}
    )
    holds = f"it holds {', '.join(there)}" if there else f"no *{EVAL} in this folder"
    raise UserError(
        f"{key}={path}: {holds}, and eval.{suite} compares with {name}; evaluate it first"
    )


def _some(names: Iterable[str], most: int = 6) -> str:
    shown = sorted(names)
    return (
        ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
        or "nothing"
    )
