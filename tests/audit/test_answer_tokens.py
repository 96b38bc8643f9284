"""The tokens of a value: those that share a character with it, after all that is before it."""

from typing import Any

import pytest

from unteach.audits.answer_tokens import build_value_pair, refuse_empty_answers
from unteach.errors import UserError

PROMPT = (5, 6)
ANSWER = "The author writes novels in Taipei, it is said."


@pytest.mark.parametrize("value", ["Taipei", " Taipei ", "The author", "said."])
def test_a_pair_asks_for_the_tokens_of_the_value(tiny: Any, value: str) -> None:
    tokenizer = tiny.tokenizer
    ids = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    pair = build_value_pair(tokenizer, PROMPT, ANSWER, value)
    assert pair is not None
    before, inside = pair
    assert before[:2] == PROMPT
    assert list(before[2:] + inside) == ids[: len(before) - 2 + len(inside)]
    assert value.strip() in tokenizer.decode(inside)
    # No token fewer would do.
    assert value.strip() not in tokenizer.decode(inside[1:])
    assert value.strip() not in tokenizer.decode(inside[:-1])


def test_a_value_is_found_where_it_is_a_word_of_its_own(tiny: Any) -> None:
    pair = build_value_pair(tiny.tokenizer, (), ANSWER, "it")
    assert pair is not None
    assert tiny.tokenizer.decode(pair[0]).rstrip() == "The author writes novels in Taipei,"


@pytest.mark.parametrize("value", ["Paris", "ove", "", "  "])
def test_without_the_value_there_is_no_pair(tiny: Any, value: str) -> None:
    assert build_value_pair(tiny.tokenizer, PROMPT, ANSWER, value) is None


def test_answers_of_no_predicted_token_are_refused() -> None:
    refuse_empty_answers([((5,), (6,)), ((), (6, 7))])
    for pair in (((5,), ()), ((), (6,))):
        with pytest.raises(UserError, match="answer 1: has no token"):
            refuse_empty_answers([((5,), (6,)), pair])
