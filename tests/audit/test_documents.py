"""How a document is cut into an opening and how it goes on."""

import pytest

from unteach.audits.documents import (
    CONTINUATION_WORDS,
    OPENING_WORDS,
    cut_document,
    is_askable,
)

TEXT = " ".join(f"w{index}" for index in range(400))


def test_passages_share_no_word_and_are_spread_over_the_text() -> None:
    passages = cut_document(TEXT, most=4)
    assert [passage.opening.split()[0] for passage in passages] == ["w0", "w100", "w200", "w300"]
    words = []
    for passage in passages:
        assert len(passage.opening.split()) == OPENING_WORDS
        assert len(passage.continuation.split()) == CONTINUATION_WORDS
        assert f"{passage.opening}{passage.gap}{passage.continuation}" in TEXT
        assert passage.value == passage.continuation
        words += [*passage.opening.split(), *passage.continuation.split()]
    assert len(set(words)) == len(words)
    assert cut_document(TEXT, most=4) == passages


def test_a_short_document_is_one_passage_whose_first_half_is_given() -> None:
    (passage,) = cut_document("one two three four\nfive six seven eight")
    assert (passage.opening, passage.gap) == ("one two three four", "\n")
    assert passage.continuation == "five six seven eight"


@pytest.mark.parametrize(("num_words", "is_long_enough"), [(7, False), (8, True)])
def test_what_is_too_short_is_no_passage(num_words: int, is_long_enough: bool) -> None:
    (passage,) = cut_document(" ".join(TEXT.split()[:num_words]))
    assert is_askable(passage.opening, passage.continuation) == is_long_enough


def test_a_value_is_asked_for_where_it_is_not_given() -> None:
    text = "Oslo it is. " + TEXT + " and she was born in Oslo, by the sea."
    (passage,) = cut_document(text, [("Oslo", "city")])
    assert passage.opening.endswith("and she was born in") and "Oslo" not in passage.opening
    assert passage.continuation == "Oslo, by the sea."
    assert (passage.value, passage.kind) == ("Oslo", "city")


def test_a_value_at_the_end_has_a_word_before_it() -> None:
    (passage,) = cut_document("The house where she was born is in Oslo", [("Oslo", "")])
    assert (passage.opening, passage.continuation) == ("The house where she was born is", "in Oslo")


def test_a_value_that_is_not_there_is_passed_over() -> None:
    assert cut_document(TEXT, [("Oslo", "city"), ("w1", "")]) == cut_document(TEXT)


def test_a_script_without_spaces_is_cut_by_its_characters() -> None:
    text = "東京は日本の首都であり世界最大の都市です" * 10
    for passage in cut_document(text, most=2):
        assert len(passage.opening) == OPENING_WORDS and passage.gap == ""
        assert len(passage.continuation) == CONTINUATION_WORDS
