"""Forget sets by entity: what is drawn, and which rows go with it."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unteach.config.schema import ForgetSet
from unteach.data.entities import RELATIONSHIP, find_forgotten, select_part
from unteach.data.io import sources
from unteach.data.synthetic import authors
from unteach.data.synthetic.world import World
from unteach.errors import UserError

WORLD = World(
    seed=1,
    n_authors=10,
    n_decoys=30,
    n_fresh=0,
    n_publishers=6,
    questions=("books", "publishers", "two_hop"),
)
ROWS = authors.build_world_rows(WORLD, "full")
KINDS = ("question", "author", "book", "publisher", RELATIONSHIP)
drawn = st.builds(
    ForgetSet,
    by=st.sampled_from(KINDS),
    fraction=st.floats(0.2, 0.6),
    seed=st.integers(0, 99),
)
few = settings(max_examples=12, deadline=None)


def units(row: dict, by: str) -> set:
    named = list(zip(row["kinds"], row["keys"], strict=True))
    if by == RELATIONSHIP:
        return {frozenset((one, other)) for _, one in named for _, other in named if one != other}
    return {key for kind, key in named if kind == by}


@given(drawn)
@few
def test_forget_and_retain_are_all_rows_in_their_order(chosen):
    forget, retain = (select_part(ROWS, part, chosen, "here") for part in ("forget", "retain"))
    assert set(forget) == find_forgotten(ROWS, chosen, "here")
    assert (
        sorted(forget) == forget
        and sorted(retain) == retain
        and sorted(forget + retain) == list(range(len(ROWS)))
    )


@given(drawn)
@few
def test_all_rows_about_what_is_drawn_go_and_the_share_of_it_is_the_one_asked_for(chosen):
    gone = find_forgotten(ROWS, chosen, "here")
    if chosen.by == "question":
        assert len(gone) == int(len(ROWS) * chosen.fraction)
        return
    every = set().union(*(units(row, chosen.by) for row in ROWS))
    kept = set().union(*(units(row, chosen.by) for i, row in enumerate(ROWS) if i not in gone))
    if chosen.by != RELATIONSHIP:  # a pair may lie in a row that goes for another pair
        assert len(every) - len(kept) >= int(len(every) * chosen.fraction)
    drawn_there = every - kept
    assert all(
        (i in gone) or units(row, chosen.by).isdisjoint(drawn_there) for i, row in enumerate(ROWS)
    )
    assert all(units(ROWS[i], chosen.by) for i in gone)


@given(drawn, st.floats(0.61, 0.9))
@few
def test_a_smaller_share_lies_in_a_larger_one(chosen, more):
    larger = ForgetSet(by=chosen.by, fraction=more, seed=chosen.seed)
    assert find_forgotten(ROWS, chosen, "here") <= find_forgotten(ROWS, larger, "here")


@given(st.sampled_from(("question", "book")), st.integers(0, 9))
@few
def test_a_stratified_draw_takes_the_same_of_each(by, seed):
    gone = find_forgotten(ROWS, ForgetSet(by=by, count=1, stratified="author", seed=seed), "here")
    of_author: dict = {}
    for number in gone:
        owner = next(
            (
                key
                for kind, key in zip(ROWS[number]["kinds"], ROWS[number]["keys"], strict=True)
                if kind == "author"
            ),
            None,
        )
        of_author.setdefault(owner, set()).update(
            {number} if by == "question" else units(ROWS[number], "book")
        )
    assert {author.name for author in WORLD.taught} <= of_author.keys()
    if by == "question":
        assert all(len(taken) == 1 for taken in of_author.values())


def test_what_is_named_goes():
    author = WORLD.taught[3]
    book = author.books[0]
    of = {
        "author": [author.name],
        "book": [book.title],
        RELATIONSHIP: [[book.title, author.name]],
        "question": [5],
    }
    for by, named in of.items():
        taken = [
            ROWS[i] for i in select_part(ROWS, "forget", ForgetSet(by=by, named=named), "here")
        ]
        assert taken
        if by == "question":
            assert taken == [ROWS[5]]
        else:
            wanted = named[0] if by == RELATIONSHIP else named
            assert all(set(wanted) <= set(row["keys"]) for row in taken)


def test_tofu_has_its_authors_in_blocks(shared):
    rows = sources.load_rows({"path": str(shared / "data" / "tofu"), "name": "full"})
    taken = sorted(
        find_forgotten(rows, ForgetSet(by="author", fraction=0.05, author_block=20), "tofu")
    )
    assert len(taken) == 200
    assert all(last - first == 1 for first, last in pairwise(taken) if last % 20)
    some = sorted(
        find_forgotten(
            rows, ForgetSet(by="question", count=4, stratified="author", author_block=20), "tofu"
        )
    )
    assert len(some) == 800 and len({number // 20 for number in some}) == 200


def test_a_file_may_tell_the_kinds(tmp_path):
    rows = [{"question": f"q{i}", "keys": [f"k{i % 3}"]} for i in range(6)]
    (tmp_path / "items.json").write_text(
        json.dumps({"k0": {"type": "book"}, "k1": {"type": "book"}, "k2": "author"})
    )
    chosen = ForgetSet(by="author", count=1, kinds_path=str(tmp_path / "items.json"))
    assert find_forgotten(rows, chosen, "here") == {2, 5}


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (ForgetSet(by="bok", fraction=0.5), "no row is about one; they are about author, book"),
        (ForgetSet(by="author", count=11), "there are 10 of author"),
        (ForgetSet(by="publisher", fraction=0.01), "is less than one"),
        (ForgetSet(by="author", named=["Nobody"]), "no row is about the author 'Nobody'"),
        (ForgetSet(by="question", count=len(ROWS)), "none is left to retain"),
    ],
)
def test_what_cannot_be_drawn_is_said(chosen, said):
    with pytest.raises(UserError, match=said):
        select_part(ROWS, "forget", chosen, "here")


def test_rows_without_keys_and_unset_forget_sets_are_said():
    with pytest.raises(UserError, match="author_block"):
        find_forgotten([{"question": "q"}], ForgetSet(by="author", count=1), "here")
    place = {"path": "authors", "name": "full", "part": "forget"}
    with pytest.raises(UserError, match=r"set forget_set"):
        sources.load_rows({**place, "forget_set": None})
    with pytest.raises(UserError, match="no such key; did you mean fraction"):
        sources.load_rows({**place, "forget_set": {"fractoin": 0.1}})
    with pytest.raises(UserError, match="one of fraction, count, named"):
        sources.load_rows({**place, "forget_set": {"by": "author"}})
