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
from unteach.report import changes, collect, find, origin
from unteach.report.find import Found
from unteach.report.table import MISSING
from unteach.verbs.report import suite_of
from unteach.wording import format_value

logger = logging.getLogger(__name__)
EXPECTED = ("task_name", "paths", "mode", "resume", "eval")
"""Keys that differ between any two runs, or say only what was measured."""
LONGEST = 300


def run(config: CompareConfig) -> None:
    """Print what changed between two runs: values, answers, settings."""
    a, b = (_one(place) for place in config.runs)
    if a.folder.resolve() == b.folder.resolve():
        raise UserError(f"{' and '.join(config.runs)} are the same run; name two")
    names = find.short_names([a.folder, b.folder])
    a, b = (replace(one, name=names[one.folder]) for one in (a, b))
    asked = suite_of(config.suite, [a, b])
    suites = [asked] if asked else [name for name in a.suites if name in b.suites]
    if not suites:
        raise UserError(
            f"{a.name} has results of {', '.join(a.suites)} and {b.name} of {', '.join(b.suites)}: "
            "they have no suite in common; evaluate both on one"
        )
    print(f"A: {a.folder}\nB: {b.folder}")
    for suite in suites:
        _compare(a, b, suite)
    _print_settings(origin.read_config(a.folder), origin.read_config(b.folder))


def _one(word: str) -> Found:
    found, _ = find.runs_in([word])
    if len(found) > 1:
        raise UserError(
            f"{word} holds {len(found)} runs; name one: "
            f"{', '.join(str(one.folder) for one in found)}"
        )
    return found[0]


def _compare(a: Found, b: Found, suite: str) -> None:
    first, second = collect.collect([(one.name, one.kind, one.folder) for one in (a, b)], suite)
    console.say(f"\n{suite}")
    if others := changes.other_rows(first, second):
        logger.info(
            f"not the same rows in {', '.join(others)}; differences are not taken row by row"
        )
    _print_values(changes.changes(first, second))
    for changed in changes.most_changed(first, second):
        _print_answer(changed)


def _print_values(found: list[Any]) -> None:
    drawn = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", border_style="dim"
    )
    for name, side in (
        ("metric", "left"),
        ("A", "right"),
        ("B", "right"),
        ("B − A", "right"),
        ("95 % interval", "left"),
    ):
        drawn.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for one in found:
        numbers = [
            MISSING if value is None else format_value(value)
            for value in (one.a, one.b, one.difference)
        ]
        interval = (
            f"{format_value(one.low)} to {format_value(one.high)}{' *' if one.beyond else ''}"
            if one.how
            else MISSING
        )
        drawn.add_row(
            *map(Text, [console.neutralize(one.metric), *numbers, interval]),
            style="bold" if one.beyond else None,
        )
    # a number cut short is a wrong number: lines run over instead
    wide = Console(width=1000).measure(drawn).maximum
    Console(width=max(Console().width, wide)).print(
        drawn, crop=False, no_wrap=True, overflow="ignore"
    )
    ways = {one.how for one in found if one.how}
    if ways:
        print(
            f"* zero lies outside the interval, which was taken "
            f"{' or '.join(sorted(ways, reverse=True))}"
        )


def _print_answer(changed: Any) -> None:
    first, second = changed.question.said
    console.say(
        f"\n{changed.title}: {_clipped(changed.question.text)}  ({first.score:.2f} -> "
        f"{second.score:.2f})"
    )
    for name, text in (("true", changed.question.truth), ("A", first.text), ("B", second.text)):
        console.say(f"  {name:<4}  {_clipped(text) or '(nothing)'}")


def _clipped(text: str) -> str:
    flat = " ".join(text.split())
    return (
        flat
        if len(flat) <= LONGEST
        else f"{flat[:LONGEST]}… ({len(flat) - LONGEST} more characters)"
    )


def _without_random_weights(config: dict[str, Any]) -> dict[str, Any]:
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
        print(
            f"\nsettings: {'neither run has' if not (a or b) else 'A has' if b else 'B has'} no "
            f"configuration to read"
        )
        return
    a, b = _without_random_weights(a), _without_random_weights(b)
    told = [one for one in changes.settings(a, b) if one[0].partition(".")[0] not in EXPECTED]
    print("\nsettings that differ:" if told else "\nno setting differs")
    for key, one, other in told:
        console.say(f"  {key}: {_clipped(str(one))} -> {_clipped(str(other))}")
