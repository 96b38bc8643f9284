"""Forget sets by entity: which rows of a set go, where what goes is a question, an author, a book,
a relationship…

A row says what it is about in its column `keys`, and what each of these is in `kinds`. All rows
about something that is drawn are forgotten; the others are retained. What a smaller share draws, a
larger one with the same seed draws too.
"""

from collections.abc import Hashable, Iterable
from pathlib import Path
from random import Random
from typing import Any, Literal

from unteach import json_files
from unteach.config.schema import ForgetSet
from unteach.errors import UserError, nearest, unknown
from unteach.seeds import subseed
from unteach.wording import shown

Row = dict[str, Any]
Unit = Hashable
"""What is drawn: a row number, a key, or a pair of keys in alphabetical order."""
Part = Literal["forget", "retain"]
QUESTION, RELATIONSHIP = "question", "relationship"


def part_of(rows: list[Row], part: str, chosen: ForgetSet, where: str) -> list[int]:
    """The numbers of the rows of one part, in their order. Raises UserError where one of the parts
    would be empty."""
    if part not in ("forget", "retain"):
        raise UserError(f"{where}: " + unknown("part", part, ("forget", "retain")))
    gone = forgotten(rows, chosen, where)
    if len(gone) == len(rows):
        raise UserError(
            f"{where}: this forget_set takes all {len(rows)} rows, and none is left to retain"
        )
    return [number for number in range(len(rows)) if (number in gone) is (part == "forget")]


def forgotten(rows: list[Row], chosen: ForgetSet, where: str) -> set[int]:
    """The numbers of the rows that go."""
    about = [[(QUESTION, number)] for number in range(len(rows))]
    if chosen.by != QUESTION or chosen.stratified:
        about = entities(rows, chosen, where)
    of_rows: list[set[Unit]] = [
        set(_units(chosen.by, number, keys)) for number, keys in enumerate(about)
    ]
    there = dict.fromkeys(
        unit for number, keys in enumerate(about) for unit in _units(chosen.by, number, keys)
    )
    if not there:
        kinds = sorted({kind for keys in about for kind, _ in keys})
        raise UserError(
            f"{where}: forget_set.by={chosen.by}: no row is about one; they are about "
            f"{', '.join(kinds)}"
        )
    drawn = (
        _named(chosen, there, where)
        if chosen.named is not None
        else _drawn(chosen, there, about, of_rows, where)
    )
    return {number for number, units in enumerate(of_rows) if not units.isdisjoint(drawn)}


def entities(rows: list[Row], chosen: ForgetSet, where: str) -> list[list[tuple[str, Any]]]:
    """(kind, key) of all that each row is about."""
    if chosen.author_block:
        return [[("author", number // chosen.author_block)] for number in range(len(rows))]
    kinds = _kinds(chosen.kinds_path) if chosen.kinds_path else None
    found = []
    for number, row in enumerate(rows, 1):
        if "keys" not in row or ("kinds" not in row and kinds is None):
            raise UserError(
                f"{where}: row {number} has no columns `keys` and `kinds` that say what it is "
                "about. Name the kinds in forget_set.kinds_path, or, where every author has as "
                "many rows one after the other, set forget_set.author_block (TOFU: 20)"
            )
        if kinds is None:
            found.append(list(zip(row["kinds"], row["keys"], strict=True)))
            continue
        if absent := [key for key in row["keys"] if key not in kinds]:
            raise UserError(
                f"{where}: row {number}: forget_set.kinds_path has no kind for {shown(absent[0])}"
            )
        found.append([(kinds[key], key) for key in row["keys"]])
    return found


def _kinds(path: str) -> dict[str, str]:
    told = json_files.read_json(Path(path), "forget_set.kinds_path")
    return {key: kind["type"] if isinstance(kind, dict) else kind for key, kind in told.items()}


def _units(by: str, number: int, about: list[tuple[str, Any]]) -> Iterable[Unit]:
    if by == QUESTION:
        return [number]
    if by == RELATIONSHIP:
        keys = [key for _, key in about]
        return [
            tuple(sorted((one, other))) for i, one in enumerate(keys) for other in keys[i + 1 :]
        ]
    return [key for kind, key in about if kind == by]


def _named(chosen: ForgetSet, there: Iterable[Unit], where: str) -> set[Unit]:
    known, asked = set(there), list(chosen.named or [])
    if chosen.by == RELATIONSHIP:
        asked = [
            tuple(sorted(pair)) if isinstance(pair, list) and len(pair) == 2 else pair
            for pair in asked
        ]
    for one in asked:
        if one not in known:
            guess = nearest(str(one), map(str, known))
            raise UserError(
                f"{where}: forget_set.named: no row is about the {chosen.by} {shown(one)}"
                + (f"; did you mean {guess}?" if guess else "")
            )
    return set(asked)


def _drawn(
    chosen: ForgetSet,
    there: Iterable[Unit],
    about: list[list[tuple[str, Any]]],
    of_rows: list[set[Unit]],
    where: str,
) -> set[Unit]:
    """So many units of each stratum; without strata, of all."""
    strata: dict[Any, list[Unit]] = {}
    within = _strata(chosen.stratified, about, of_rows) if chosen.stratified else {}
    for unit in there:
        strata.setdefault(within.get(unit), []).append(unit)
    drawn: set[Unit] = set()
    for stratum, units in strata.items():
        count = (
            chosen.count
            if chosen.count is not None
            else int(len(units) * (chosen.fraction or 0) + 1e-9)
        )
        if count > len(units):
            raise UserError(
                f"{where}: forget_set.count={count}: there are {len(units)} of "
                f"{chosen.by}{_of(stratum)}"
            )
        order = list(units)
        Random(subseed(chosen.seed, "forget set", chosen.by, stratum)).shuffle(order)
        drawn.update(order[:count])
    if not drawn:
        sizes = ", ".join(
            f"{len(units)}{_of(stratum)}" for stratum, units in list(strata.items())[:3]
        )
        raise UserError(
            f"{where}: forget_set.fraction={chosen.fraction} of {chosen.by} is less than one "
            f"(there are {sizes})"
        )
    return drawn


def _of(stratum: Any) -> str:
    return "" if stratum is None else f" of {stratum}"


def _strata(
    kind: str, about: list[list[tuple[str, Any]]], of_rows: list[set[Unit]]
) -> dict[Unit, Any]:
    """The entity of this kind that each unit goes with: that of the first row about both."""
    found: dict[Unit, Any] = {}
    for keys, units in zip(about, of_rows, strict=True):
        owner = next((key for one, key in keys if one == kind), None)
        for unit in units if owner is not None else ():
            found.setdefault(unit, owner)
    return found
