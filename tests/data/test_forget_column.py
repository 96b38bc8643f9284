"""The column `forget` of `data.train_file`: no row of it is used for nothing, however the column is written."""

from pathlib import Path

import pytest

from tests.data.test_files import parts, place, settled  # noqa: F401
from tests.data.test_tables import write
from unteach.errors import UserError

MARKED = [{"input": f"{i}?", "output": f" {i}.", "forget": int(i < 2)} for i in range(3)]


@pytest.fixture(autouse=True)
def files(place: Path) -> None:  # noqa: F811
    write(place / "rows.csv", MARKED)
    for name in ("forget", "retain"):
        write(place / f"{name}.csv", [{"input": f"Who is to {name}?", "output": " Ann."}])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trainer=GradDiff", "data.forget_file=forget.csv"), "2 rows with 1 in the column forget (lines 2, 3) would"),
        (("trainer=GradDiff", "data.retain_file=retain.csv"), "1 row with 0 in the column forget (line 4) would"),
        (("trainer=csv_npo", "data.forget_file=forget.csv"), "data.train_file: this method does not train on it"),
        (("trainer=GradDiff", "data.max_rows.train=1"), "data.max_rows.train: this run reads no rows as train"),
    ],
)
def test_rows_that_nothing_would_use_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        settled(*words, name="unlearn")
    assert said in str(caught.value)


def test_rows_of_the_other_mark_may_come_from_a_file(place: Path) -> None:  # noqa: F811
    write(place / "rows.csv", MARKED[2:])
    made = parts("trainer=GradDiff", "data.forget_file=forget.csv", name="unlearn")
    assert made["forget"].args["hf_args"]["path"] == "forget.csv"
    assert made["retain"].args["hf_args"]["path"] == "rows.csv"


def test_rows_that_nothing_trains_on_or_measures_are_named() -> None:
    _, said = settled("trainer=csv_npo", name="unlearn")
    assert "rows.csv: 1 row with 0 in the column forget (line 4): nothing trains on them or measures them" in said
