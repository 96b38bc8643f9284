"""`unteach report`: evaluated runs beside each other, as a table and one page with everything."""

import re
from collections import Counter
from pathlib import Path

from unteach.errors import UserError, unknown
from unteach.report import find
from unteach.report.find import Found

OUT = Path("saves/report")


def command(words: list[str]) -> None:
    places, options = split(words, ("out", "suite"))
    if not places:
        raise UserError("name the runs to report: unteach report RUN… [out=FOLDER] [suite=SUITE]")
    found, notes = find.runs_in(places)
    title = f"Report on {Path(places[0]).resolve().name}" if len(places) == 1 else f"Report on {len(found)} runs"
    for note in notes:
        print(f"note: {note}")
    write(found, Path(options.get("out", OUT)), title, suite_of(options.get("suite"), found))


def split(words: list[str], allowed: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """The places and the key=value options among a report's words; a folder's name may hold a =."""
    places, options = [], {}
    for word in words:
        key, equals, value = word.partition("=")
        if key in allowed and equals and value:
            options[key] = value
        elif re.fullmatch(r"\w+=.*", word) and not Path(word).exists():
            raise UserError(unknown("option", key, allowed) if key not in allowed else f"{word} needs a value")
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
    from unteach.report import collect, families, files, table

    having = Counter(name for one in found for name in one.suites)
    suites = [suite] if suite else sorted(having, key=lambda name: (-having[name], name))
    shown = {}
    for name in suites:
        judged = [one for one in found if suite or name in one.suites]
        shown[name] = collect.collect([(one.name, one.kind, one.folder) for one in judged], name)
        if len(suites) > 1:
            print(f"\n{name}" + (f" ({len(judged)} of {len(found)} runs have it)" if len(judged) < len(found) else ""))
        table.print_table(shown[name])
        if means := families.over_seeds(shown[name]):
            print(f"\n{name}: means over seeds")
            shown[name + families.OVER_SEEDS] = means
            table.print_table(means)
    page, notes = files.write(shown, folder, title)
    for note in notes:
        print(f"note: {note}")
    print(f"report: {page}")
    return page
