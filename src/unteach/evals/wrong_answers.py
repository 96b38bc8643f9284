"""Wrong answers to rows that come without any: the answers to other questions about the same
author.

ARC judges TOFU's rows in this way: TOFU itself has wrong answers, and other phrasings, of few rows.
A row is asked as it was taught, which is therefore also its column of another phrasing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from unteach.config.reader import Reader, join_problems
from unteach.data.io import sources
from unteach.data.io.sources import Row
from unteach.errors import UserError
from unteach.seeds import derive_seed

KEY = "wrong_answers"
"""The entry of `hf_args` that asks for them."""
AUTHOR = "_author"
"""A column that a row has while its wrong answers are drawn: the number of its author."""
ROW_INDEX = "_place"
"""A column that a row has while its wrong answers are drawn: its number in the whole set."""


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
    settings = _read_settings(hf_args[KEY])
    plain_args = dict(hf_args)
    del plain_args[KEY]
    # All rows are numbered first: a part keeps the authors that the whole set has.
    whole_args = dict(plain_args)
    whole_args.pop("part", None)
    whole_args.pop("forget_set", None)
    all_rows = []
    for row_index, row in enumerate(sources.load_rows(whole_args)):
        author = row_index // settings.author_block
        all_rows.append({**row, AUTHOR: author, ROW_INDEX: row_index})
    rows = sources.load_rows({**plain_args, "rows": all_rows})

    rows_by_author = _group_by_author(rows)
    all_rows_by_author = _group_by_author(all_rows)
    where = sources.describe_source(plain_args)
    completed = []
    for row in rows:
        author = row[AUTHOR]
        same_author = (rows_by_author[author], all_rows_by_author[author])
        completed.append(_add_wrong_answers(row, same_author, settings, where))
    return completed


def _read_settings(value: object) -> WrongAnswers:
    reader = Reader()
    settings: WrongAnswers = reader.record(WrongAnswers, value, f"hf_args.{KEY}")
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return settings


def _group_by_author(rows: Sequence[Row]) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[AUTHOR], []).append(row)
    return groups


def _add_wrong_answers(
    row: Row,
    same_author: tuple[list[Row], list[Row]],
    settings: WrongAnswers,
    where: str,
) -> Row:
    """Add wrong answers and the other phrasing to a row.

    Args:
        row: the row.
        same_author: the rows of its author, in its part and in the whole set.
        settings: how many are drawn, and by which seed.
        where: the rows, as messages call them.
    """
    others = _choose_others(row, same_author, settings.count)
    if len(others) < settings.count:
        raise UserError(
            f"{where}: row {row[ROW_INDEX] + 1} needs {settings.count} wrong answers, and there "
            f"are {len(others)} other rows about its author "
            f"(hf_args.{KEY}.author_block={settings.author_block})"
        )
    generator = Random(derive_seed(settings.seed, "wrong answers", row[ROW_INDEX]))
    drawn_rows = generator.sample(others, settings.count)
    completed = dict(row)
    del completed[AUTHOR]
    del completed[ROW_INDEX]
    completed["paraphrased_question"] = row["question"]
    completed["paraphrased_answer"] = row["answer"]
    completed["perturbed_answer"] = [other["answer"] for other in drawn_rows]
    return completed


def _choose_others(
    row: Row,
    same_author: tuple[list[Row], list[Row]],
    num_wanted: int,
) -> list[Row]:
    """Choose the rows that wrong answers are drawn from: the nearest that are enough, or all."""
    others: list[Row] = []
    for rows in same_author:
        others = [other for other in rows if other[ROW_INDEX] != row[ROW_INDEX]]
        if len(others) >= num_wanted:
            break
    return others
