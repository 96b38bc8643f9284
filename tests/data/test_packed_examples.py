"""Examples and rows in arrays are what they were as objects."""

import datetime
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from unteach.data.packed_examples import PackedExamples
from unteach.data.rows import Place, Rows

NUMBERS = st.floats(-2, 2, allow_nan=False, width=64)


@st.composite
def flat_examples(draw: Any) -> dict[str, Any]:
    """An example with tokens, of which any may be learned, as themselves or as another label."""
    row_index = draw(st.integers(0, 10**6))
    if draw(st.booleans()):
        return {"index": row_index, "deferred": True}
    ids = draw(st.lists(st.integers(0, 2**31 - 1), max_size=6))
    labels = [draw(st.sampled_from([-100, token, 7])) for token in ids]
    example = {"input_ids": ids, "labels": labels, "index": row_index}
    for name in ("weight", "target"):
        if draw(st.booleans()):
            example[name] = draw(NUMBERS)
    return example


NAMES = st.sampled_from([("original", "alternate"), ("chosen", "rejected"), (0, 1, 2)])
NESTED = st.builds(
    lambda names, parts: dict(zip(names, parts, strict=False)),
    NAMES,
    st.lists(flat_examples(), min_size=3, max_size=3),
)
EXAMPLES = st.lists(flat_examples() | NESTED, max_size=8)


@given(EXAMPLES, EXAMPLES)
def test_examples_come_back_as_they_were(before: list[Any], after: list[Any]) -> None:
    packed = PackedExamples(before)
    packed.extend(PackedExamples(after))
    assert list(packed) == [*before, *after]
    assert packed == [*before, *after]
    if after:
        assert packed[-1] == after[-1]


@settings(max_examples=20)
@given(EXAMPLES)
def test_saved_examples_are_loaded_as_they_were(tmp_path_factory: Any, examples: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("examples")
    PackedExamples(examples).save(folder)
    assert list(PackedExamples.load(folder)) == examples


ROWS: list[dict[str, Any]] = [
    {"question": "Who?", "answer": "Ann.", "n": 1, "turns": [{"role": "user"}]},
    {"question": "Où?", "answer": None, "n": 2.5},
    {"when": datetime.date(2026, 11, 30), "bytes": b"\x00"},
]


def place_rows(file: str, rows: list[dict[str, Any]], first: int = 1) -> list[Any]:
    return [(Place(file, "line", number), row) for number, row in enumerate(rows, first)]


def test_rows_come_back_as_they_were_with_their_places() -> None:
    rows = Rows([*place_rows("a.jsonl", ROWS), *place_rows("b.jsonl", ROWS, first=7)])
    assert rows == [*ROWS, *ROWS] and len(rows) == 6
    assert str(rows.locate(4)) == "b.jsonl, line 8"
    assert rows.count_files() == 2

    taken = rows.take([4, 0])
    assert taken == [ROWS[1], ROWS[0]]
    assert [str(taken.locate(index)) for index in range(2)] == [
        "b.jsonl, line 8",
        "a.jsonl, line 1",
    ]
    assert rows[1:3] == ROWS[1:]


def test_the_digest_is_of_the_rows_and_their_order(tmp_path: Path) -> None:
    rows = Rows(place_rows("a.jsonl", ROWS))
    assert rows.hash_rows() == Rows(place_rows("b.jsonl", ROWS, first=3)).hash_rows()
    assert rows.hash_rows() == rows.take(range(3)).hash_rows()
    assert rows.hash_rows() != rows.take([1, 0, 2]).hash_rows()
    assert rows.hash_rows() != rows.take([0, 1]).hash_rows()
