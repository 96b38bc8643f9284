"""`unteach compare`: what changed between two evaluated runs."""

import logging
from dataclasses import replace

from rich.box import SIMPLE_HEAD
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
from unteach.report.origin import ConfigTree, read_config
from unteach.report.table import MISSING
from unteach.verbs.report import find_suite
from unteach.whole_tables import print_whole
from unteach.wording import format_value

logger = logging.getLogger(__name__)
EXPECTED = ("task_name", "paths", "mode", "resume", "eval")
"""Keys that differ between any two runs, or say only what was measured."""
LONGEST = 300
HEADINGS = ("metric", "A", "B", "B − A", "95 % interval")
NUMBERS = HEADINGS[1:4]


def run(config: CompareConfig) -> None:
    """Print what changed between two runs: values, answers, settings."""
    a, b = map(_find_run, config.runs)
    if a.folder.resolve() == b.folder.resolve():
        raise UserError(f"{' and '.join(config.runs)} are the same run; name two")
    names = shorten_names([a.folder, b.folder])
    a = replace(a, name=names[a.folder])
    b = replace(b, name=names[b.folder])

    chosen = find_suite(config.suite, [a, b])
    suites = _list_shared_suites(a, b, chosen)
    print(f"A: {a.folder}")
    print(f"B: {b.folder}")
    for name in suites:
        _compare_suite(a, b, name)
    _print_settings(read_config(a.folder), read_config(b.folder))


def _list_shared_suites(
    a: EvaluatedRun,
    b: EvaluatedRun,
    chosen: str | None,
) -> list[str]:
    """List the suites that are compared: the chosen one, else all that both have results of."""
    if chosen:
        return [chosen]
    shared = [suite for suite in a.suites if suite in b.suites]
    if not shared:
        raise UserError(
            f"{a.name} has results of {', '.join(a.suites)} and {b.name} of {', '.join(b.suites)}: "
            "they have no suite in common; evaluate both on one"
        )
    return shared


def _find_run(word: str) -> EvaluatedRun:
    """Find the one run that a word means."""
    runs, _ = find_runs([word])
    if len(runs) > 1:
        folders = ", ".join(str(run.folder) for run in runs)
        raise UserError(f"{word} holds {len(runs)} runs; name one: {folders}")
    return runs[0]


def _compare_suite(a: EvaluatedRun, b: EvaluatedRun, suite: str) -> None:
    """Print what changed in one suite's values and answers."""
    places = [(run.name, run.kind, run.folder) for run in (a, b)]
    a_result, b_result = collect(places, suite)
    console.say(f"\n{suite}")
    columns = ", ".join(list_other_rows(a_result, b_result))
    if columns:
        logger.info(f"not the same rows in {columns}; differences are not taken row by row")
    _print_changes(list_changes(a_result, b_result))
    for changed in list_changed_answers(a_result, b_result):
        _print_answer(changed)


def _print_changes(changes: list[Change]) -> None:
    """Print a row for each metric, those in bold that neither chance nor rounding explains."""
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        border_style="dim",
    )
    for heading in HEADINGS:
        table.add_column(
            heading,
            justify="right" if heading in NUMBERS else "left",
            no_wrap=True,
        )
    for change in changes:
        cells = [
            console.neutralize(change.metric),
            _format(change.a),
            _format(change.b),
            _format(change.difference),
            _format_interval(change),
        ]
        style = "bold" if change.is_significant else None
        table.add_row(*map(Text, cells), style=style)

    print_whole(table)
    methods = {change.method for change in changes if change.method}
    if methods:
        how = " or ".join(sorted(methods, reverse=True))
        print(f"* zero lies outside the interval, which was taken {how}")


def _format(value: float | None) -> str:
    if value is None:
        return MISSING
    return format_value(value)


def _format_interval(change: Change) -> str:
    """Write the interval of a difference, with a star where it does not hold zero."""
    if change.low is None or change.high is None:
        return MISSING
    low = format_value(change.low)
    high = format_value(change.high)
    mark = " *" if change.is_significant else ""
    return f"{low} to {high}{mark}"


def _print_answer(changed: ChangedAnswer) -> None:
    """Print a question, the true answer and both runs' answers."""
    scores = f"{changed.a.score:.2f} -> {changed.b.score:.2f}"
    question = _shorten(changed.question.text)
    console.say(f"\n{changed.title}: {question}  ({scores})")
    texts = {
        "true": changed.question.truth,
        "A": changed.a.text,
        "B": changed.b.text,
    }
    for whose, text in texts.items():
        short = _shorten(text) or "(nothing)"
        console.say(f"  {whose:<4}  {short}")


def _shorten(text: str) -> str:
    """Write a text in one line; where it is long cut, with a count of what is left out."""
    flat = " ".join(text.split())
    num_more = len(flat) - LONGEST
    if num_more <= 0:
        return flat
    return f"{flat[:LONGEST]}… ({num_more} more characters)"


def _drop_random_weights(config: ConfigTree) -> ConfigTree:
    """Leave out how random weights would be made where the weights of a folder were taken
    instead."""
    model = config.get("model")
    if not isinstance(model, dict):
        return config
    if model.get("model_handler") != "scratch":
        return config
    args = model.get("model_args")
    path = args.get(PATH) if isinstance(args, dict) else None
    if not path:
        return config
    model = {**model, "model_args": {PATH: path}}
    del model["model_handler"]
    return {**config, "model": model}


def _print_settings(a: ConfigTree, b: ConfigTree) -> None:
    """Print the settings that differ, but for those that say only what was measured."""
    if not a or not b:
        lacking = "neither run has"
        if a or b:
            lacking = "B has" if a else "A has"
        print(f"\nsettings: {lacking} no configuration to read")
        return
    odd = []
    for setting in list_changed_settings(_drop_random_weights(a), _drop_random_weights(b)):
        section, _, _ = setting[0].partition(".")
        if section not in EXPECTED:
            odd.append(setting)
    print("\nsettings that differ:" if odd else "\nno setting differs")
    for key, a_value, b_value in odd:
        before = _shorten(str(a_value))
        after = _shorten(str(b_value))
        console.say(f"  {key}: {before} -> {after}")
