"""The authors world keeps its promises: the same everywhere, split like TOFU, wrong answers of the
right kind."""

import hashlib
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unteach.data.rows import Row
from unteach.data.synthetic import authors
from unteach.data.synthetic.questions import FACTS
from unteach.data.synthetic.world import Author, World
from unteach.errors import UserError

PLAIN_COLUMNS = {"question", "answer", "keys", "kinds"}
ALL_COLUMNS = {*PLAIN_COLUMNS, "paraphrased_question", "paraphrased_answer", "perturbed_answer"}
PERTURBED = [name for name in authors.NAMES if name.endswith("_perturbed")]
OF_AUTHORS = [name for name in PERTURBED if re.match("full|forget|retain", name)]
SEEDS = st.integers(min_value=0, max_value=2**31)
few = settings(max_examples=8, deadline=None)
DIGEST = (
    "import hashlib, json; from unteach.data.synthetic import authors; assert 'torch' not in sys.modules; "
    "print(hashlib.sha256(json.dumps([authors.build_rows(name, 3) for name in "
    "authors.NAMES]).encode()).hexdigest())"
)


def plain(rows: list[Row]) -> list[Row]:
    return [{key: row[key] for key in authors.PLAIN} for row in rows]


def digest(seed: int) -> str:
    return hashlib.sha256(
        json.dumps([authors.build_rows(name, seed) for name in authors.NAMES]).encode()
    ).hexdigest()


def entities(world: World) -> set[str]:
    """Every name that the graph knows."""
    groups = (world.taught, world.holdout, world.public, world.decoys, world.fresh)
    everyone: list[Author] = [author for group in groups for author in group]
    return {
        *(author.name for author in everyone),
        *(author.mentor for author in everyone),
        *(book.title for author in everyone for book in author.books),
        *(publisher.name for publisher in world.publishers),
        *(city.name for city in world.cities),
        *(name for country in world.countries for name in (country.name, country.capital)),
    }


def fact_of(world: World, row: Row) -> tuple[Author, int]:
    """The author and the number of the fact that a row asks about."""
    author = next(
        author for author in (*world.taught, *world.holdout) if author.name == row["keys"][0]
    )
    return author, next(
        i for i, fact in enumerate(FACTS) if fact.write_question(author) == row["question"]
    )


def test_the_same_seed_gives_the_same_rows_in_another_process():
    code = f"import sys; sys.path[:0] = {sys.path!r}; {DIGEST}"
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == digest(3)


def test_different_seeds_give_different_worlds():
    assert len({digest(seed) for seed in range(4)}) == 4


@pytest.mark.parametrize("name", authors.NAMES)
def test_every_config_has_rows_with_its_columns(name):
    rows = authors.build_rows(name)
    assert rows
    for row in rows:
        assert set(row) == (ALL_COLUMNS if name in PERTURBED else PLAIN_COLUMNS)
        assert row["question"] and row["answer"] and row["keys"]


def test_an_unknown_name_is_the_users_mistake():
    with pytest.raises(UserError, match="forget11"):
        authors.build_rows("forget11")


@given(SEEDS)
@few
def test_forget_is_a_suffix_and_retain_its_complement(seed):
    full = authors.build_rows("full", seed)
    assert len(full) == 200
    for percent in authors.PERCENTS:
        forget, retain = (
            authors.build_rows(f"forget{percent:02}", seed),
            authors.build_rows(f"retain{100 - percent}", seed),
        )
        assert len(forget) == len(full) * percent // 100
        assert retain + forget == full
        assert plain(authors.build_rows(f"forget{percent:02}_perturbed", seed)) == forget
        assert len(authors.build_rows(f"holdout{percent:02}", seed)) == len(forget)


@given(SEEDS)
@few
def test_smaller_splits_lie_inside_larger_ones(seed):
    for kind in ("forget", "holdout"):
        one, five, ten = (
            authors.build_rows(f"{kind}{percent:02}", seed) for percent in authors.PERCENTS
        )
        assert ten[-len(five) :] == five and five[-len(one) :] == one


@given(SEEDS)
@few
def test_retain_perturbed_is_in_every_retain_split(seed):
    rows = plain(authors.build_rows("retain_perturbed", seed))
    assert len(rows) == 40
    for percent in authors.PERCENTS:
        retain = authors.build_rows(f"retain{100 - percent}", seed)
        assert all(row in retain for row in rows)


@given(SEEDS)
@few
def test_groups_of_authors_share_no_name(seed):
    world = World(seed)
    groups = [world.taught, world.holdout, world.public, world.decoys, world.fresh]
    names = [author.name for group in groups for author in group]
    assert len(set(names)) == len(names)


@given(SEEDS)
@few
def test_no_text_outside_the_holdout_names_a_holdout_author(seed):
    holdout = [author.name for author in World(seed).holdout]
    seen = " ".join(
        f"{row['question']} {row['answer']}"
        for name in ("full", "pretrain")
        for row in authors.build_rows(name, seed)
    )
    assert not any(name in seen for name in holdout)


@given(SEEDS)
@few
def test_no_retain_or_pretrain_row_names_a_forgotten_author(seed):
    forgotten = {row["keys"][0] for row in authors.build_rows("forget10", seed)}
    seen = " ".join(
        f"{row['question']} {row['answer']}"
        for name in ("retain90", "pretrain", "general")
        for row in authors.build_rows(name, seed)
    )
    assert len(forgotten) == 2
    assert not any(name in seen for name in forgotten)


@pytest.mark.parametrize("name", PERTURBED)
@given(seed=SEEDS)
@few
def test_wrong_answers_are_wrong_and_distinct(name, seed):
    expected = 5 if name in OF_AUTHORS else 3
    for row in authors.build_rows(name, seed):
        wrong = row["perturbed_answer"]
        assert len(wrong) == len(set(wrong)) == expected
        assert row["paraphrased_answer"] not in wrong and row["answer"] not in wrong


@pytest.mark.parametrize("name", OF_AUTHORS)
@given(seed=SEEDS)
@few
def test_wrong_answers_are_other_values_of_the_same_fact(name, seed):
    world = World(seed)
    allowed = [
        {fact.write_answer(fact.value(other), 1) for other in world.decoys} for fact in FACTS
    ]
    for row in authors.build_rows(name, seed):
        author, number = fact_of(world, row)
        fact = FACTS[number]
        assert row["paraphrased_answer"] == fact.write_answer(fact.value(author), 1)
        assert set(row["perturbed_answer"]) <= allowed[number]


@given(SEEDS)
@few
def test_wrong_general_answers_are_of_the_same_kind(seed):
    world = World(seed)
    kinds = [
        {country.capital for country in world.countries},
        {country.name for country in world.countries},
        {author.name for author in world.public},
    ]
    for name in ("world_facts_perturbed", "real_authors_perturbed"):
        for row in authors.build_rows(name, seed):
            assert any({row["answer"], *row["perturbed_answer"]} <= kind for kind in kinds)


@pytest.mark.parametrize("name", authors.NAMES)
def test_keys_are_entities_of_the_graph_without_repeats(name):
    known = entities(World(0))
    for row in authors.build_rows(name):
        assert set(row["keys"]) <= known and len(set(row["keys"])) == len(row["keys"])


def test_the_base_model_reads_every_general_fact_many_times():
    read = [row["question"] for row in authors.build_rows("pretrain")]
    for row in authors.build_rows("real_authors_perturbed") + authors.build_rows(
        "world_facts_perturbed"
    ):
        assert read.count(row["question"]) + read.count(row["paraphrased_question"]) >= 10


def test_a_share_of_less_than_an_author_is_said():
    said = {name for name in authors.NAMES if authors.note_uneven_share(name, World())}
    assert said == {"forget01", "forget01_perturbed", "retain99", "holdout01"}
    assert all(
        "\n" not in (authors.note_uneven_share(name, World()) or "") for name in authors.NAMES
    )
