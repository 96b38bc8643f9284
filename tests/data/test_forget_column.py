"""The column `forget` of `data.train_file`: no row of it is used for nothing, however the column is
written."""

import re
import shlex
from pathlib import Path

import pytest

from tests.data.io.test_tables import write
from tests.data.test_user_files import parts, place, settled  # noqa: F401
from unteach.errors import UserError

MARKED = [{"input": f"{i}?", "output": f" {i}.", "forget": int(i < 2)} for i in range(3)]


@pytest.fixture(autouse=True)
def files(place: Path) -> None:
    write(place / "rows.csv", MARKED)
    for name in ("forget", "retain"):
        write(place / f"{name}.csv", [{"input": f"Who is to {name}?", "output": " Ann."}])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("trainer=GradDiff", "data.forget_file=forget.csv"),
            "2 rows with 1 in the column forget (lines 2, 3) would",
        ),
        (
            ("trainer=GradDiff", "data.retain_file=retain.csv"),
            "1 row with 0 in the column forget (line 4) would",
        ),
        (
            ("trainer=csv_npo", "data.forget_file=forget.csv"),
            "data.train_file: this method does not train on it",
        ),
        (
            ("trainer=GradDiff", "data.marked=retain"),
            "data.marked=retain: chooses among rows that are learned",
        ),
        (
            ("trainer=csv_ga", "data.marked=retain"),
            "data.marked=retain: chooses among rows that are learned",
        ),
        (
            ("trainer=GradDiff", "data.max_rows.train=1"),
            "data.max_rows.train: this run reads no rows as train",
        ),
    ],
)
def test_rows_that_nothing_would_use_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        settled(*words, name="unlearn")
    assert said in str(caught.value)


def test_rows_of_the_other_mark_may_come_from_a_file(place: Path) -> None:
    write(place / "rows.csv", MARKED[2:])
    made = parts("trainer=GradDiff", "data.forget_file=forget.csv", name="unlearn")
    assert made["forget"].args["hf_args"]["path"] == "forget.csv"
    assert made["retain"].args["hf_args"]["path"] == "rows.csv"


def test_rows_that_nothing_trains_on_or_measures_are_named() -> None:
    _, said = settled("trainer=csv_npo", name="unlearn")
    assert (
        "rows.csv: 1 row with 0 in the column forget (line 4): nothing trains on them or measures "
        "them" in said
    )


@pytest.mark.parametrize("trainer", ["GradDiff", "csv_npo"])
@pytest.mark.parametrize("header", ["Forget", " forget ", "FORGET"])
def test_a_column_that_is_called_nearly_so_is_refused(
    place: Path, trainer: str, header: str
) -> None:
    write(
        place / "rows.csv",
        [{"input": row["input"], "output": row["output"], header: row["forget"]} for row in MARKED],
    )
    with pytest.raises(
        UserError, match=r"rows.csv: has no column forget, and one called"
    ) as caught:
        settled(f"trainer={trainer}", name="unlearn")
    made = parts(f"trainer={trainer}", *offered_words(caught.value), name="unlearn")
    assert made["forget"].args["hf_args"]["choice"].flag == header


def offered_words(error: UserError) -> list[str]:
    """The words of an error's hint, as a shell reads them when they are pasted."""
    hint = re.search(r"""(?:"|'|\b)data\.columns\.\w+=.*?(?= reads it|\?$)""", str(error))
    assert hint is not None
    return shlex.split(hint[0])


@pytest.mark.parametrize(
    "header", ["Output", " Output", "output (text)", "Outpüt", "out'put", 'out"put', "out$put!"]
)
def test_the_word_that_is_offered_for_a_column_works(place: Path, header: str) -> None:
    write(place / "rows.csv", [{"input": "a", header: "b"}])
    with pytest.raises(UserError, match=r"did you mean") as caught:
        settled()
    assert parts(*offered_words(caught.value))["train"].args["answer_key"] == header
    with pytest.raises(
        UserError, match=r"no column 'outputs'; its columns: input, .* did you mean"
    ) as caught:
        settled("data.columns.output=outputs")
    assert parts(*offered_words(caught.value))["train"].args["answer_key"] == header


def test_the_word_for_a_mark_that_is_not_there_works(place: Path) -> None:
    with pytest.raises(
        UserError, match=r"data.columns.forget: rows.csv: no column 'forgot'"
    ) as caught:
        settled("trainer=csv_npo", "data.columns.forget=forgot", name="unlearn")
    assert offered_words(caught.value) == ["data.columns.forget=forget"]
    write(place / "rows.csv", [{"input": "a", "output": "b", "forgett": 1}])
    with pytest.raises(
        UserError,
        match=r"or give rows.csv a column forget .*did you mean data.columns.forget=forgett",
    ):
        settled("trainer=GradDiff", name="unlearn")
