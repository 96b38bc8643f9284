"""How messages say a value: as a configuration spells it."""

from typing import Any

import pytest

from unteach.wording import quote_value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ("1", "'1'"),
        ([1, "a", None], "[1, 'a', null]"),
        (("a", "b"), "['a', 'b']"),
        ({"r": 8, "bias": {"on": False}}, "{r: 8, bias: {on: false}}"),
        (list(range(9)), "[0, 1, 2, 3, 4, 5, …]"),
        ([], "[]"),
    ],
)
def test_a_value_is_spelled_as_in_a_configuration(value: Any, said: str) -> None:
    assert quote_value(value) == said


def test_long_text_is_cut() -> None:
    assert len(quote_value("x" * 1000)) < 40
