"""What a row says of a fact, and what could stand in its value's place."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach.audits.candidates import FEWEST, MOST, describe_type, draw_candidates, normalize
from unteach.audits.facts import Fact, read_facts
from unteach.config.schema import ModelConfig
from unteach.data.handlers.qa import QADataset
from unteach.data.streams import Stream
from unteach.errors import UserError
from unteach.models.loading import load_empty


def read_own_facts(folder: Path, tiny_folder: Path, rows: list[dict[str, Any]]) -> list[Fact]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    empty = load_empty(ModelConfig({"pretrained_model_name_or_path": str(tiny_folder)}))
    hf_args = {"path": str(folder), "name": "rows", "split": "train"}
    dataset = QADataset(template=empty.template, hf_args=hf_args)
    return read_facts(Stream("forget", [dataset]))


@pytest.mark.parametrize(
    ("columns", "value", "kind"),
    [
        ({"value": "Oslo", "kind": "city"}, "Oslo", "city"),
        ({"keys": ["Mara Lind", "Oslo"], "kinds": ["person", "city"]}, "Oslo", "city"),
        ({"value": "Bergen"}, "Mara Lind lives in Oslo.", ""),
        ({"value": "Lind"}, "Mara Lind lives in Oslo.", ""),
        ({"value": "Osl"}, "Mara Lind lives in Oslo.", ""),
        ({}, "Mara Lind lives in Oslo.", ""),
    ],
    ids=["columns", "keys", "not there", "in the question", "half a word", "nothing"],
)
def test_columns_say_the_value(
    tmp_path: Path, tiny_folder: Path, columns: dict[str, Any], value: str, kind: str
) -> None:
    row = {"question": "Where does Mara Lind live?", "answer": "Mara Lind lives in Oslo."}
    (fact,) = read_own_facts(tmp_path, tiny_folder, [{**row, **columns}])
    assert (fact.value, fact.kind) == (value, kind)
    assert fact.stem == ("Mara Lind lives in" if value == "Oslo" else "")
    assert fact.answer_with("Rome").count("Rome") == 1


def test_an_entity_is_a_column_or_a_name_that_rows_share(tmp_path: Path, tiny_folder: Path) -> None:
    rows = [
        {"question": "Where does Mara Lind live?", "answer": "Mara Lind lives in Oslo."},
        {"question": "What does Mara Lind play?", "answer": "Mara Lind plays the harp."},
        {"question": "Who is Olga Berg?", "answer": "Nobody knows."},
    ]
    facts = read_own_facts(tmp_path, tiny_folder, rows)
    assert [fact.entity for fact in facts] == ["Mara Lind", "Mara Lind", ""]
    named = read_own_facts(tmp_path, tiny_folder, [{**row, "entity": "someone"} for row in rows])
    assert {fact.entity for fact in named} == {"someone"}


def test_an_empty_answer_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(UserError, match="rows"):
        read_own_facts(tmp_path, tiny_folder, [{"question": "Who?", "answer": "  "}])


def make_facts(number: int, kind: str, question: str = "Where does Ann Lee live?") -> list[Fact]:
    facts = []
    for index in range(number):
        value = f"{kind or 'place'}{index:02}x"
        facts.append(Fact(index, str(index), question, f"There, in {value}.", value, kind))
    return facts


def test_candidates_are_of_the_same_kind() -> None:
    facts = make_facts(40, "city") + [
        Fact(40 + fact.index, "", fact.question, fact.answer, fact.value, "dish")
        for fact in make_facts(40, "dish")
    ]
    drawn = draw_candidates(facts, [], seed=0)
    for fact, candidates in zip(facts, drawn, strict=True):
        assert candidates.values[0] == fact.value and candidates.answers[0] == fact.answer
        assert len(set(candidates.values)) == len(candidates.values) == MOST
        assert all(value.startswith(fact.kind) for value in candidates.values)
    assert drawn == draw_candidates(facts, [], seed=0) != draw_candidates(facts, [], seed=1)


def test_without_a_kind_the_question_says_it() -> None:
    facts = make_facts(10, "") + [
        Fact(10 + i, "", "How old is Bo Ek?", f"He is {i}.", str(i)) for i in range(10)
    ]
    drawn = draw_candidates(facts, [], seed=0)
    assert {candidates.source for candidates in drawn} == {"question"}
    assert all(value.startswith("place") for value in drawn[0].values)
    assert describe_type("Where does Ann Lee live?") == describe_type("Where does Bo Ek live?")


def test_only_values_of_one_kind_are_alike() -> None:
    """Whole answers are told apart by the names in them, and values of any kind by their kind."""
    by_kind = draw_candidates(make_facts(10, "city"), [], seed=0)
    assert all(candidates.are_alike for candidates in by_kind)
    whole = [Fact(i, "", "Who is it?", f"It is Name{i}.", f"It is Name{i}.") for i in range(10)]
    assert not any(candidates.are_alike for candidates in draw_candidates(whole, [], seed=0))
    mixed = [Fact(i, "", "word " * i, f"It is x{i}.", f"x{i}") for i in range(10)]
    drawn = draw_candidates(mixed, [], seed=0)
    assert {candidates.source for candidates in drawn} == {"rows"}
    assert not any(candidates.are_alike for candidates in drawn)


def test_a_candidate_weighs_as_much_as_rows_have_it() -> None:
    common = [Fact(i, "", "Which?", "It is English.", "English", "language") for i in range(20)]
    rare = [Fact(20 + i, "", "Which?", f"It is L{i}x.", f"L{i}x", "language") for i in range(9)]
    candidates = draw_candidates([*common, *rare], [], seed=0)[-1]
    assert dict(zip(candidates.values, candidates.weights, strict=True))["English"] == 20
    assert candidates.weights[0] == 1


def test_what_the_question_says_is_no_candidate() -> None:
    facts = make_facts(9, "city", "Does she live in city03x or elsewhere?")
    for candidates in draw_candidates(facts, [], seed=0):
        assert "city03x" not in candidates.values[1:]


def test_few_facts_have_few_candidates() -> None:
    drawn = draw_candidates(make_facts(FEWEST - 1, "city"), [], seed=0)
    assert not any(candidates.are_enough for candidates in drawn)
    kept = make_facts(FEWEST, "city")
    drawn = draw_candidates(make_facts(1, "city"), kept, seed=0)
    assert drawn[0].are_enough and drawn[0].source == "kind"


def test_no_candidate_holds_another() -> None:
    """Else the one would come out with the other."""
    words = ["Rome", "New Rome", "rome!", "Paris", "Oslo", "Bergen", "Lyon", "Nice", "Turin", "Ulm"]
    facts = [Fact(i, "", "Where?", f"In {word}", word, "city") for i, word in enumerate(words)]
    for candidates in draw_candidates(facts, [], seed=0):
        names = [normalize(value) for value in candidates.values]
        assert not any(a in b for a in names for b in names if a != b)
        assert len(set(names)) == len(names)
