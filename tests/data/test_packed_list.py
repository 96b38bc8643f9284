"""Items in bytes are what they were as objects."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unteach.data.packed_list import PackedList

SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
ITEMS = st.lists(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.tuples(inner)))


@given(ITEMS, ITEMS)
def test_a_packed_list_is_the_list(items: list[Any], more: list[Any]) -> None:
    packed = PackedList(items)
    for item in more:
        packed.append(item)
    items = items + more
    assert len(packed) == len(items)
    assert list(packed) == items
    assert packed == items and items == packed
    assert packed != [*items, 1]
    assert items[-1:] == list(packed[-1:])


@given(st.data())
def test_what_is_taken_shares_the_bytes(data: st.DataObject) -> None:
    items = data.draw(st.lists(st.text(), min_size=1))
    indices = data.draw(st.lists(st.sampled_from(range(len(items)))))
    packed = PackedList(items)
    taken = packed.take(indices)
    assert list(taken) == [items[index] for index in indices]
    assert list(packed[1::2]) == items[1::2]
    before = list(taken)
    packed.append("more")
    taken.append("other")
    assert list(packed) == [*items, "more"]
    assert list(taken) == [*before, "other"]


def test_an_item_that_was_asked_for_is_ones_own() -> None:
    packed = PackedList([{"a": 1}])
    packed[0]["a"] = 2
    assert packed[0] == {"a": 1}
    with pytest.raises(IndexError):
        packed[1]
