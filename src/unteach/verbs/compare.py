"""`unteach compare`: what changed between two evaluated runs."""

import logging
from dataclasses import replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unteach import console
from unteach.config.schema import PATH
from unteach.config.verb_configs import CompareConfig
from unteach.errors import UserError
from unteach.report.changes import (
    Change,
    ChangedAnswer,
    list_changed_answers,
    list_changed_settings,
    list_changes,
    list_other_rows,
)
from unteach.report.collect import collect
from unteach.report.find import EvaluatedRun, find_runs, shorten_names
from unteach.report.origin import read_config
from unteach.report.table import MISSING
from unteach.verbs.report import find_suite
from unteach.wording import format_value

logger = logging.getLogger(__name__)
EXPECTED = ("task_name", "paths", "mode", "resume", "eval")
"""Keys that differ between any two runs, or say only what was measured."""
LONGEST = 300
HEADINGS = ("metric", "A", "B", "B − A", "95 % interval")
NUMBERS = HEADINGS[1:4]


def run(config: CompareConfig) -> None:
    """Print what changed between two runs: values, answers, settings."""
    a, b = (_find_run(place) for place in config.runs)
    if a.folder.resolve() == b.folder.resolve():
        raise UserError(f"{' and '.join(config.runs)} are the same run; name two")
    names = shorten_names([a.folder, b.folder])
    a, b = replace(a, name=names[a.folder]), replace(b, name=names[b.folder])
    suite = find_suite(config.suite, [a, b])
    suites = [suite] if suite else [name for name in a.suites if name in b.suites]
    if not suites:
        raise UserError(
            f"{a.name} has results of {', '.join(a.suites)} and {b.name} of {', '.join(b.suites)}: "
            "they have no suite in common; evaluate both on one"
        )
    print(f"A: {a.folder}\nB: {b.folder}")
    for name in suites:
        _compare_suite(a, b, name)
    _print_settings(read_config(a.folder), read_config(b.folder))


def _find_run(word: str) -> EvaluatedRun:
    runs, _ = find_runs([word])
    if len(runs) > 1:
        folders = ", ".join(str(run.folder) for run in runs)
        raise UserError(f"{word} holds {len(runs)} runs; name one: {folders}")
    return runs[0]


def _compare_suite(a: EvaluatedRun, b: EvaluatedRun, suite: str) -> None:
    first, second = collect([(run.name, run.kind, run.folder) for run in (a, b)], suite)
    console.say(f"\n{suite}")
    if columns := list_other_rows(first, second):
        logger.info(
            f"not the same rows in {', '.join(columns)}; differences are not taken row by row"
        )
    _print_changes(list_changes(first, second))
    for changed in list_changed_answers(first, second):
        _print_answer(changed)


def _print_changes(changes: list[Change]) -> None:
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        border_style="dim",
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in NUMBERS else "left", no_wrap=True)
    for change in changes:
        numbers = [_format(value) for value in (change.a, change.b, change.difference)]
        cells = [console.neutralize(change.metric), *numbers, _format_interval(change)]
        table.add_row(*map(Text, cells), style="bold" if change.is_significant else None)
    # A number cut short is a wrong number: lines run over instead.
    width = max(Console().width, Console(width=1000).measure(table).maximum)
    Console(width=width).print(
        table,
        crop=False,
        no_wrap=True,
        overflow="ignore",
    )
    methods = sorted({change.method for change in changes if change.method}, reverse=True)
    if methods:
        print(f"* zero lies outside the interval, which was taken {' or '.join(methods)}")


def _format(value: float | None) -> str:
    return MISSING if value is None else format_value(value)


def _format_interval(change: Change) -> str:
    if change.low is None or change.high is None:
        return MISSING
    interval = f"{format_value(change.low)} to {format_value(change.high)}"
    return f"{interval} *" if change.is_significant else interval


def _print_answer(changed: ChangedAnswer) -> None:
    scores = f"{changed.a.score:.2f} -> {changed.b.score:.2f}"
    console.say(f"\n{changed.title}: {_shorten(changed.question.text)}  ({scores})")
    texts = {
        "true": changed.question.truth,
        "A": changed.a.text,
        "B": changed.b.text,
    }
    for name, text in texts.items():
        console.say(f"  {name:<4}  {_shorten(text) or '(nothing)'}")


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    if len(flat) <= LONGEST:
        return flat
    return f"{flat[:LONGEST]}… ({len(flat) - LONGEST} more characters)"


def _drop_random_weights(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out how random weights would be made where the weights of a folder were taken
    instead."""
    model = config.get("model")
    if not isinstance(model, dict) or model.get("model_handler") != "scratch":
        return config
    args = model.get("model_args")
    if not isinstance(args, dict) or not args.get(PATH):
        return config
    kept = {key: value for key, value in model.items() if key != "model_handler"}
    return {**config, "model": {**kept, "model_args": {PATH: args[PATH]}}}


def _print_settings(a: dict[str, Any], b: dict[str, Any]) -> None:
    if not a or not b:
        lacking = "neither run has"
        if a or b:
            lacking = "B has" if a else "A has"
        print(f"\nsettings: {lacking} no configuration to read")
        return
    settings = list_changed_settings(_drop_random_weights(a), _drop_random_weights(b))
    odd = [setting for setting in settings if setting[0].partition(".")[0] not in EXPECTED]
    print("\nsettings that differ:" if odd else "\nno setting differs")
    for key, first, second in odd:
        console.say(f"  {key}: {_shorten(str(first))} -> {_shorten(str(second))}")
