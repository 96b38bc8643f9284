"""Which rows of a training set hold the facts of a request, whatever form they have."""

import json

import pytest

from unteach.audits.facts import Fact
from unteach.data.duplicates import ColumnKeys
from unteach.data.rows import Row
from unteach.forgetting.row_search import RequestedFacts, TaughtFacts, normalize

FACT = Fact(
    index=0,
    place="line 1",
    question="Where does Ada Moe live?",
    answer="Ada Moe lives in Oslo.",
    value="Oslo",
    entity="Ada Moe",
    paraphrases=("In which city is Ada Moe at home?",),
)
OTHER = Fact(1, "line 2", "Who is Bo Lind?", "A baker.", "A baker.")


def find(row: Row, keys: ColumnKeys) -> TaughtFacts:
    return RequestedFacts([FACT, OTHER]).find([{"question": "x", "answer": "y"}, row], keys)


ASKED = {"role": "user", "content": FACT.question}
ANSWERED = {"role": "assistant", "content": FACT.answer}
LOOKED_UP = [
    {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {}}]},
    {"role": "tool", "content": "Oslo"},
]
OPENED = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        (
            {"question": " where does ADA\u00a0Moe  live? ", "answer": "Ada Moe lives in Oslo.\n"},
            {"question_key": "question", "answer_key": "answer"},
        ),
        (
            {"q": "In which city is Ada Moe at home?", "a": ["Elsewhere.", FACT.answer]},
            {"question_key": "q", "answer_key": "a"},
        ),
        ({"messages": [*OPENED, ASKED, ANSWERED]}, {"messages_key": "messages"}),
        ({"messages": [ASKED, *LOOKED_UP, ANSWERED]}, {"messages_key": "messages"}),
        ({"messages": json.dumps([ASKED, ANSWERED])}, {"messages_key": "messages"}),
        ({"text": f"Q: {FACT.question} A: {FACT.answer}"}, {"text_key": "text"}),
        (
            {"prompt": FACT.question, "chosen": "No.", "rejected": FACT.answer},
            {"prompt_key": "prompt", "chosen_key": "chosen", "rejected_key": "rejected"},
        ),
        ({"chosen": [ASKED, ANSWERED]}, {"chosen_key": "chosen"}),
    ],
)
def test_a_row_that_holds_a_fact_is_found(row: Row, keys: ColumnKeys) -> None:
    found = find(row, keys)
    assert found.row_indices == {1} and found.fact_indices == {0} and found.num_alike == 0


@pytest.mark.parametrize(
    "row",
    [
        {"question": FACT.question, "answer": "Ada Moe lives in Bergen."},
        {"question": "Where does Bo Moe live?", "answer": FACT.answer.replace("Ada", "Bo")},
        {"question": OTHER.question, "answer": FACT.answer.replace("Ada Moe", "Bo")},
    ],
)
def test_another_answer_or_question_is_not(row: Row) -> None:
    found = find(row, {"question_key": "question", "answer_key": "answer"})
    assert not found.row_indices and not found.num_alike


def test_a_row_that_says_it_in_other_words_is_counted() -> None:
    row = {"question": "Who lives in Oslo?", "answer": "Ada Moe."}
    found = find(row, {"question_key": "question", "answer_key": "answer"})
    assert not found.row_indices and found.num_alike == 1


def test_case_space_and_forms_are_put_aside() -> None:
    assert normalize("  Ｏslo\n\tSTRAẞE ") == normalize("oslo strasse")
