"""Whether a candidate came out of a text, or of a ranking."""

import pytest

from unteach.audits.candidates import Candidates, gives_away, holds
from unteach.audits.facts import Fact
from unteach.audits.judging import SaidText, join_findings, judge_rank, judge_texts, measure_recall
from unteach.audits.probes import Finding, LogProbs

CITY = Fact(0, "", "Where?", "She lives in Oslo now.", "Oslo", "city")
CITIES = Candidates(("Oslo", "Rome", "New York"), ("", "", ""), "kind")


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("I think it is OSLO.", (True, False, False)),
        ("Oslofjord and Rome", (False, True, False)),
        ("in new  york, not Oslo", (True, False, True)),
        ("", (False, False, False)),
    ],
)
def test_a_value_is_in_a_text_that_holds_its_words(text: str, hits: tuple[bool, ...]) -> None:
    assert judge_texts([SaidText(CITY, CITIES, "", text)]) == [hits]


def test_what_was_put_into_its_mouth_counts_up_to_there() -> None:
    assert judge_texts([SaidText(CITY, CITIES, "She lives in New", "York")]) == [
        (False, False, True)
    ]
    assert holds("a b c", "b c") and not holds("a bc", "b")


def test_a_whole_answer_that_is_gone_on_with_word_for_word_came_out() -> None:
    """Though wrong ones end in the same words."""
    answers = [f"a{index} b{index} c{index} the end" for index in range(4)]
    said = []
    for index, answer in enumerate(answers):
        values = (answer, *[other for other in answers if other != answer])
        opening = " ".join(answer.split()[:3])
        fact = Fact(index, "", "What?", answer, answer)
        said.append(SaidText(fact, Candidates(values, values, "rows"), opening, "the end"))
    assert judge_texts(said) == [(True, False, False, False)] * 4


def test_a_whole_answer_is_held_against_wrong_ones() -> None:
    truth = "her mother was a nurse and her father a pilot"
    others = [f"word{i} word{i} was a thing{i}" for i in range(9)]
    fact = Fact(0, "", "What did they do?", truth, truth)
    candidates = Candidates((truth, *others), (truth, *others), "rows")
    said, silent = judge_texts(
        [SaidText(fact, candidates, "", truth.upper()), SaidText(fact, candidates, "", "was a")]
    )
    assert said[0] and not any(said[1:])
    assert not silent[0] or sum(silent) > 1
    assert measure_recall("nurse and her father a pilot", truth, "her mother was a") == 1.0
    assert measure_recall("anything", truth, truth) == 0.0


def test_a_short_answer_counts_where_it_is_said() -> None:
    """Also where other texts say wrong ones."""
    names = [f"Name{index}" for index in range(8)]
    said = []
    for index in range(8):
        fact = Fact(index, "", "Who?", names[index], names[index])
        others = [name for name in names if name != names[index]]
        candidates = Candidates((names[index], *others), (), "rows")
        said.append(SaidText(fact, candidates, "", names[index if index < 4 else 0]))
    judged = judge_texts(said)
    assert [hits[0] for hits in judged] == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("text", "value", "is_held"),
    [
        ("她住在奥斯陆。", "奥斯陆", True),
        ("Она живёт в Осло.", "Осло", True),
        ("Oslo's harbour", "Oslo", True),
        ("written in C", "C++", False),
        ("written in C++.", "C++", True),
        ("Bärlin", "Bär", False),
    ],
)
def test_values_of_any_script_and_spelling(text: str, value: str, is_held: bool) -> None:
    assert holds(text, value) is is_held
    assert measure_recall(value, value, "") == 1.0


def test_rows_that_say_what_is_asked_are_not_shown() -> None:
    fact = Fact(0, "", "Where does she live?", "In Oslo.", "Oslo")
    assert gives_away(fact, Fact(1, "", "Post code?", "0150 Oslo.", "0150"))
    assert gives_away(fact, Fact(1, "", "where does she live", "Nobody knows.", "x"))
    assert not gives_away(fact, Fact(1, "", "Where does he live?", "In Rome.", "Rome"))


def test_a_model_that_gives_no_numbers_knows_nothing() -> None:
    broken = judge_rank(0, LogProbs((float("nan"),) * 3, ()))
    assert not any(broken.hits) and broken.rank == 3 and not broken.is_last


def test_the_best_candidate_comes_out_and_a_tie_brings_out_nothing() -> None:
    best = judge_rank(3, LogProbs((-1.0, -2.0, -3.0), (-2.0, -1.0, -3.0)))
    assert (best.fact, best.hits, best.rank, best.is_last) == (3, (True, False, False), 1, False)
    assert best.rank_by_mean == 2
    last = judge_rank(3, LogProbs((-4.0, -2.0, -3.0), (-4.0, -2.0, -3.0)))
    assert (last.hits, last.rank, last.is_last) == ((False, True, False), 3, True)
    tied = judge_rank(3, LogProbs((-2.0, -2.0, -3.0), (-2.0, -2.0, -3.0)))
    assert not any(tied.hits) and tied.rank == 2


def test_several_probes_of_a_fact_are_joined() -> None:
    quiet = Finding(1, (False, False), text="nothing", rank=4, is_last=True)
    loud = Finding(1, (True, False), text="Oslo", rank=2)
    joined = join_findings([quiet, loud])
    assert joined == Finding(1, (True, False), text="Oslo", rank=2, is_last=False)
