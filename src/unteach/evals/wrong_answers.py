"""Wrong answers to rows that come without any: the answers to other questions about the same
author.

ARC judges TOFU's rows in this way: TOFU itself has wrong answers, and other phrasings, of few rows.
A row is asked as it was taught, which is therefore also its column of another phrasing.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from unteach.config.reader import Reader, join_problems
from unteach.data.io import sources
from unteach.data.io.sources import Row
from unteach.errors import UserError
from unteach.seeds import subseed

KEY = "wrong_answers"
"""The entry of `hf_args` that asks for them."""
BLOCK, PLACE = "_author", "_place"
"""Columns that a row has while its wrong answers are drawn: its author, and its number in the whole
set."""


@dataclass
class WrongAnswers:
    """How wrong answers are drawn. author_block: rows in a row that are about one author. count:
    answers to a row."""

    author_block: int
    count: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.author_block < 2 or not 0 < self.count < self.author_block:
            raise UserError(
                "count must be 1 or more and less than author_block, which is 2 or more"
            )


def load_rows(hf_args: dict[str, Any]) -> list[Row]:
    """Load the rows of `hf_args`, each with `count` wrong answers and as its own other phrasing.

    They are drawn from the rows of the same author in the same part, as ARC does; where that has
    too few, from all rows of the author. A row has the same ones in every run.
    """
    settings = _read(hf_args[KEY])
    plain = {name: value for name, value in hf_args.items() if name != KEY}
    whole = sources.load_rows(
        {name: value for name, value in plain.items() if name not in ("part", "forget_set")}
    )
    numbered = [
        {**row, BLOCK: place // settings.author_block, PLACE: place}
        for place, row in enumerate(whole)
    ]
    rows = sources.load_rows({**plain, "rows": numbered})
    in_part, in_all = _by_author(rows), _by_author(numbered)
    where = sources.named(plain)
    return [
        _with_wrong_answers(row, in_part[row[BLOCK]], in_all[row[BLOCK]], settings, where)
        for row in rows
    ]


def _read(given: object) -> WrongAnswers:
    reader = Reader()
    settings: WrongAnswers = reader.record(WrongAnswers, given, f"hf_args.{KEY}")
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return settings


def _by_author(rows: list[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row[BLOCK], []).append(row)
    return found


def _with_wrong_answers(
    row: Row, in_part: list[Row], in_all: list[Row], settings: WrongAnswers, where: str
) -> dict[str, Any]:
    for known in (in_part, in_all):
        others = [other for other in known if other[PLACE] != row[PLACE]]
        if len(others) >= settings.count:
            break
    else:
        raise UserError(
            f"{where}: row {row[PLACE] + 1} needs {settings.count} wrong answers, and there are "
            f"{len(others)} other rows about its author "
            f"(hf_args.{KEY}.author_block={settings.author_block})"
        )
    draw = Random(subseed(settings.seed, "wrong answers", row[PLACE]))
    kept = {name: value for name, value in row.items() if name not in (BLOCK, PLACE)}
    wrong = [other["answer"] for other in draw.sample(others, settings.count)]
    same = {"paraphrased_question": row["question"], "paraphrased_answer": row["answer"]}
    return {**kept, **same, "perturbed_answer": wrong}
