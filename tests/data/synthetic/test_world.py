"""Worlds of other sizes, words and questions, and the folder that one is written to."""

import json
from collections import Counter

import pytest

from unteach.cli import main
from unteach.data.io import sources
from unteach.data.synthetic import authors
from unteach.data.synthetic.word_banks import Banks
from unteach.data.synthetic.world import World
from unteach.errors import UserError
from unteach.verbs.start import start

RICH = World(
    seed=2,
    n_authors=30,
    n_fresh=0,
    n_publishers=10,
    questions=("facts", "books", "publishers", "two_hop", "lists"),
)


def test_every_kind_of_question_is_asked_and_says_what_it_is_about():
    rows = authors.build_world_rows(RICH, "full_perturbed")
    asked = Counter(tuple(row["kinds"]) for row in rows)
    assert asked["author", "book"] >= 9 * 30  # who wrote it, when it appeared, what it won
    assert asked["publisher", "city"] and asked["author", "author", "country"]
    assert any(row["question"].startswith("Which authors does") for row in rows)
    for row in rows:
        assert len(row["keys"]) == len(row["kinds"]) == len(set(row["keys"]))
        assert len({*row["perturbed_answer"], row["paraphrased_answer"]}) == 6
        assert row["question"] != row["paraphrased_question"]


def test_a_forget_split_takes_every_row_that_mentions_its_authors():
    forget, retain = (
        authors.build_world_rows(RICH, "forget10"),
        authors.build_world_rows(RICH, "retain90"),
    )
    gone = {author.name for author in RICH.taught[-3:]}
    assert not any(name in f"{row['question']} {row['answer']}" for row in retain for name in gone)
    assert all(gone & set(row["keys"]) for row in forget)
    assert len(forget) + len(retain) == len(authors.build_world_rows(RICH, "full"))
    assert all(
        row in authors.build_world_rows(RICH, "forget10")
        for row in authors.build_world_rows(RICH, "forget05")
    )


def test_words_of_ones_own():
    first = tuple(f"Anna{i}" for i in range(40))
    world = World(
        n_fresh=0, banks=Banks(first_names=first, last_names=tuple(f"B{i}" for i in range(80)))
    )
    assert all(author.name.startswith("Anna") for author in world.taught)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_authors": 3}, "n_authors must be 10 or more"),
        ({"n_fresh": 90_000}, "add words to the banks"),
        ({"questions": ()}, "questions must name"),
    ],
)
def test_a_world_that_cannot_be_is_said(settings, said):
    with pytest.raises(UserError, match=said):
        World(**settings)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("n_authors=" + "[" * 200 + "]" * 200, "nested more than 60 levels deep"),
        ("n_authors=99999999999999999999999", "more than 64 bits"),
        ("seed=${gone}", "Interpolation key 'gone' not found"),
        ("config=twice.yaml", r"seed is said twice \(lines 1 and 2\)"),
    ],
)
def test_settings_that_cannot_be_read_are_a_users_mistake(word, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UserError, match=said):
        start("world", [word, "to=world"])
    assert not (tmp_path / "world").exists()


def test_the_written_folder_is_the_world(tmp_path, capsys):
    settings = tmp_path / "mine.yaml"
    settings.write_text("n_fresh: 20\nn_authors: 99\nquestions: [facts, lists]\n")
    folder = tmp_path / "world"
    main(["world", f"to={folder}", f"config={settings}", "n_authors=12", "seed=5"])
    assert "full_perturbed" in capsys.readouterr().out
    world = World(seed=5, n_authors=12, n_fresh=20, questions=("facts", "lists"))
    for name in authors.NAMES:
        assert sources.load_rows({"path": str(folder), "name": name}) == authors.build_world_rows(
            world, name
        )
    assert json.loads((folder / "full.jsonl").read_text().splitlines()[0])["kinds"]
    main(["world", f"to={folder}", f"config={settings}", "n_authors=12", "seed=5"])
    assert "written before" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["world", f"to={folder}", f"config={settings}", "n_authors=12", "seed=6"])
    assert "something else is there already" in capsys.readouterr().err

    import datasets

    loaded = datasets.load_dataset(
        str(folder), "forget10", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded) == authors.build_world_rows(world, "forget10")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["n_author=12"], "did you mean n_authors"),
        (["questions=[fact]"], "must be one of facts, books"),
        (["banks.genres=[a]"], "banks.genres: needs 8 or more"),
        (["config=absent.yaml"], "absent.yaml"),
    ],
)
def test_wrong_settings_are_said_and_nothing_is_written(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["world", f"to={tmp_path / 'world'}", *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
