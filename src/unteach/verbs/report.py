"""`unteach report`: evaluated runs beside each other, as a table and one page with everything."""

import os
import re
from collections import Counter
from pathlib import Path

from unteach import console
from unteach.config import verb_keys
from unteach.errors import UserError, require_extra, unknown
from unteach.report import collect, families, files, find, table
from unteach.report.find import Found

OUT = Path("saves/report")
NEEDED_FOR = "drawing the pictures and the page of a report"


def command(words: list[str]) -> None:
    places, options = split(words, "report")
    if not places:
        raise UserError("name the runs to report: unteach report RUN… [out=FOLDER] [suite=SUITE]")
    require_extra("report", NEEDED_FOR)
    found, notes = find.runs_in(places)
    for note in notes:
        console.say(f"note: {note}")
    compared = find.retain_models_of(found)
    for one in compared:
        console.say(f"note: shown too, as it is what the others are compared with: {one.folder}")
    found = [*compared, *found]
    write(
        found,
        Path(options.get("out", OUT)),
        title_of(places, found),
        suite_of(options.get("suite"), found),
    )


def title_of(places: list[str], found: list[Found]) -> str:
    """Name a report after what was found: one folder by its name, several runs by the folder that
    they share."""
    if len(places) == 1 and Path(places[0]).exists():
        return f"Report on {Path(places[0]).resolve().name}"
    if len(found) == 1:
        return f"Report on {found[0].name}"
    shared = Path(os.path.commonpath([one.folder.absolute() for one in found]))
    within = shared.relative_to(Path.cwd()) if shared.is_relative_to(Path.cwd()) else shared
    where = "" if within in (Path(), Path(shared.anchor)) else f" of {within}"
    return f"Report on {len(found)} runs{where}"


def split(words: list[str], verb: str) -> tuple[list[str], dict[str, str]]:
    """The places and the key=value options among the words of report or compare; a folder's name
    may hold a =."""
    places, options = [], {}
    allowed = verb_keys.KEYS[verb]
    for word in words:
        key, equals, value = word.partition("=")
        if key in allowed and equals and value:
            options[key] = value
        elif re.fullmatch(r"\w+=.*", word) and not Path(word).exists():
            raise UserError(
                verb_keys.unknown_key(verb, key) if key not in allowed else f"{word} needs a value"
            )
        else:
            places.append(word)
    return places, options


def suite_of(asked: str | None, found: list[Found]) -> str | None:
    """The suite as its files are called, however the user spelled it."""
    there = {name.lower(): name for one in found for name in one.suites}
    if asked is not None and asked.lower() not in there:
        raise UserError(unknown("suite among these results", asked, there.values()))
    return there[asked.lower()] if asked else None


def write(found: list[Found], folder: Path, title: str, suite: str | None = None) -> Path:
    """Prints the table of each suite and writes the report's files; gives the page's path."""
    having = Counter(name for one in found for name in one.suites)
    suites = [suite] if suite else sorted(having, key=lambda name: (-having[name], name))
    shown = {}
    for name in suites:
        judged = [one for one in found if suite or name in one.suites]
        measured = collect.collect([(one.name, one.kind, one.folder) for one in judged], name)
        shown[name] = collect.with_starts(measured)
        if len(suites) > 1:
            print(
                f"\n{name}"
                + (
                    f" ({len(judged)} of {len(found)} runs have it)"
                    if len(judged) < len(found)
                    else ""
                )
            )
        table.print_table(shown[name])
        if families_found := families.over_seeds(measured):
            means = collect.with_starts(families_found)
            print(f"\n{name}: means over seeds")
            shown[name + families.OVER_SEEDS] = means
            table.print_table(means)
    page, notes = files.write(shown, folder, title)
    for note in notes:
        console.say(f"note: {note}")
    print(f"report: {page}")
    return page
