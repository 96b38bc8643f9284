"""Forget sets by entity: which rows of a set go, where what goes is a question, an author, a book,
a relationship…

A row says what it is about in its column `keys`, and what each of these is in `kinds`. A forget set
draws units of one kind: rows themselves, entities, or pairs of entities. All rows about a unit that
is drawn are forgotten; the others are retained. What a smaller share draws, a larger one with the
same seed draws too.
"""

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from random import Random

from unteach import json_files
from unteach.config.schema import ForgetSet
from unteach.data.rows import Row
from unteach.errors import UserError, describe_unknown, find_nearest
from unteach.seeds import derive_seed
from unteach.wording import quote_value

QUESTION = "question"
RELATIONSHIP = "relationship"
PARTS = ("forget", "retain")
Entity = tuple[str, Hashable]
"""(kind, key) of something that a row is about."""
Unit = Hashable
"""What is drawn: a row index, a key, or a pair of keys in alphabetical order."""


def select_part(
    rows: Sequence[Row],
    part: str,
    forget_set: ForgetSet,
    where: str,
) -> list[int]:
    """Select the rows that a forget set takes or leaves.

    Args:
        rows: all rows of the set.
        part: `forget` or `retain`.
        forget_set: says what goes.
        where: what messages call the rows.

    Returns:
        Indices of the rows, ascending.

    Raises:
        UserError: one of the parts would be empty.
    """
    if part not in PARTS:
        raise UserError(f"{where}: " + describe_unknown("part", part, PARTS))
    forgotten = find_forgotten(rows, forget_set, where)
    if len(forgotten) == len(rows):
        raise UserError(
            f"{where}: this forget_set takes all {len(rows)} rows, and none is left to retain"
        )
    if part == "forget":
        return sorted(forgotten)
    return [index for index in range(len(rows)) if index not in forgotten]


def find_forgotten(rows: Sequence[Row], forget_set: ForgetSet, where: str) -> set[int]:
    """Find the indices of the rows that a forget set takes.

    Raises:
        UserError: no row is about such a unit, or about one that is named.
    """
    row_entities: list[list[Entity]]
    if forget_set.by == QUESTION and not forget_set.stratified:
        row_entities = [[] for _ in rows]
    else:
        row_entities = read_entities(rows, forget_set, where)

    # The units of all rows, in the order of the rows: the order is part of what the seed draws.
    row_units = []
    units: dict[Unit, None] = {}
    for row_index, entities in enumerate(row_entities):
        units_of_row = _list_units(forget_set.by, row_index, entities)
        row_units.append(units_of_row)
        units.update(dict.fromkeys(units_of_row))
    if not units:
        kinds: set[str] = set()
        for entities in row_entities:
            kinds |= {kind for kind, _ in entities}
        there_are = ", ".join(sorted(kinds))
        raise UserError(
            f"{where}: forget_set.by={forget_set.by}: no row is about one; they are about "
            f"{there_are}"
        )

    if forget_set.named is not None:
        drawn_units = _find_named(forget_set, units, where)
    else:
        owners: dict[Unit, Hashable] = {}
        if forget_set.stratified:
            owners = _find_owners(forget_set.stratified, row_entities, row_units)
        drawn_units = _draw_units(forget_set, units, owners, where)

    forgotten = set()
    for row_index, units_of_row in enumerate(row_units):
        if not drawn_units.isdisjoint(units_of_row):
            forgotten.add(row_index)
    return forgotten


def read_entities(
    rows: Sequence[Row],
    forget_set: ForgetSet,
    where: str,
) -> list[list[Entity]]:
    """Read what each row is about.

    From its columns `keys` and `kinds`, a file with the kind of each key, or by counting rows where
    every author has as many.
    """
    block = forget_set.author_block
    if block:
        return [[("author", row_index // block)] for row_index in range(len(rows))]

    kind_of_key = _load_kinds(forget_set.kinds_path) if forget_set.kinds_path else None
    row_entities = []
    for number, row in enumerate(rows, 1):
        if "keys" not in row or ("kinds" not in row and kind_of_key is None):
            raise UserError(
                f"{where}: row {number} has no columns `keys` and `kinds` that say what it is "
                "about. Name the kinds in forget_set.kinds_path, or, where every author has as "
                "many rows one after the other, set forget_set.author_block (TOFU: 20)"
            )
        if kind_of_key is None:
            pairs = zip(row["kinds"], row["keys"], strict=True)
            row_entities.append(list(pairs))
            continue
        entities = []
        for key in row["keys"]:
            if key not in kind_of_key:
                raise UserError(
                    f"{where}: row {number}: forget_set.kinds_path has no kind for "
                    f"{quote_value(key)}"
                )
            entities.append((kind_of_key[key], key))
        row_entities.append(entities)
    return row_entities


def _load_kinds(path: str) -> dict[str, str]:
    """Load a JSON file of {key: kind} or {key: {type: kind}}."""
    kind_of_key = {}
    kinds = json_files.read_json(Path(path), "forget_set.kinds_path")
    for key, kind in kinds.items():
        if isinstance(kind, dict):
            kind = kind["type"]
        kind_of_key[key] = kind
    return kind_of_key


def _list_units(by: str, row_index: int, entities: list[Entity]) -> list[Unit]:
    """List the units that a row is about."""
    if by == QUESTION:
        return [row_index]
    if by == RELATIONSHIP:
        keys = [key for _, key in entities]
        return [_order_pair(pair) for pair in combinations(keys, 2)]
    return [key for kind, key in entities if kind == by]


def _order_pair(pair: Iterable[Hashable]) -> Unit:
    """Order two entities, so that a pair is one unit whichever comes first."""
    return tuple(sorted(pair))  # type: ignore[type-var]


def _find_named(
    forget_set: ForgetSet,
    units: Iterable[Unit],
    where: str,
) -> set[Unit]:
    """Find the units that the forget set names; refuse one that no row is about."""
    known = set(units)
    named_units = set()
    for unit in forget_set.named or []:
        is_pair = isinstance(unit, list) and len(unit) == 2
        if forget_set.by == RELATIONSHIP and is_pair:
            unit = _order_pair(unit)
        if unit not in known:
            guess = find_nearest(str(unit), map(str, known))
            hint = f"; did you mean {guess}?" if guess else ""
            raise UserError(
                f"{where}: forget_set.named: no row is about the {forget_set.by} "
                f"{quote_value(unit)}{hint}"
            )
        named_units.add(unit)
    return named_units


def _draw_units(
    forget_set: ForgetSet,
    units: Iterable[Unit],
    owners: dict[Unit, Hashable],
    where: str,
) -> set[Unit]:
    """Draw so many units of each stratum; without strata, of all.

    Args:
        forget_set: how many, as a count or a fraction, and the seed.
        units: all units, in the order of the rows.
        owners: the entity that each unit goes with, its stratum.
        where: what messages call the rows.
    """
    strata: dict[Hashable, list[Unit]] = {}
    for unit in units:
        strata.setdefault(owners.get(unit), []).append(unit)

    drawn: set[Unit] = set()
    for stratum, members in strata.items():
        count = forget_set.count
        if count is None:
            # What is a whole number but for the rounding of floats counts as one.
            count = int(len(members) * (forget_set.fraction or 0) + 1e-9)
        if count > len(members):
            raise UserError(
                f"{where}: forget_set.count={count}: there are {len(members)} of "
                f"{forget_set.by}{_describe_stratum(stratum)}"
            )
        order = list(members)
        seed = derive_seed(forget_set.seed, "forget set", forget_set.by, stratum)
        Random(seed).shuffle(order)
        drawn.update(order[:count])

    if not drawn:
        sizes = []
        for stratum, members in list(strata.items())[:3]:
            sizes.append(f"{len(members)}{_describe_stratum(stratum)}")
        there_are = ", ".join(sizes)
        raise UserError(
            f"{where}: forget_set.fraction={forget_set.fraction} of {forget_set.by} is less than "
            f"one (there are {there_are})"
        )
    return drawn


def _describe_stratum(stratum: Hashable) -> str:
    """Name the stratum of a count; empty where all is one."""
    return "" if stratum is None else f" of {stratum}"


def _find_owners(
    kind: str,
    row_entities: list[list[Entity]],
    row_units: Sequence[list[Unit]],
) -> dict[Unit, Hashable]:
    """Find the entity of this kind that each unit goes with: that of the first row about both."""
    owners: dict[Unit, Hashable] = {}
    for entities, units in zip(row_entities, row_units, strict=True):
        keys = [key for entity_kind, key in entities if entity_kind == kind]
        if not keys:
            continue
        for unit in units:
            owners.setdefault(unit, keys[0])
    return owners
