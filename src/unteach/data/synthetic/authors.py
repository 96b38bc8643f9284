"""The built-in authors world as a corpus: TOFU's config names and columns, read off the graph of
`world.py`.

`full` is what a model is taught (`full_perturbed`: with wrong answers beside); its last tenth is
what it can be made to forget (`forget10`), the rest what it keeps (`retain90`). `holdout10` is
about authors drawn like the forget authors and never taught. `real_authors_perturbed` asks about
public authors and `world_facts_perturbed` about capitals: both are in `pretrain`, the text that the
base model is taught first, beside thousands of other authors; `general` has them once each, to be
rehearsed while `full` is taught.
"""

import random
import re
from functools import lru_cache
from typing import Any

from unteach.data.rows import Row
from unteach.data.synthetic.questions import (
    FACTS,
    Entity,
    Fact,
    Question,
    ask_about_all,
    ask_about_author,
)
from unteach.data.synthetic.world import Author, World
from unteach.errors import AbsentData

PERCENTS = (1, 5, 10)
NAMES = (
    "full",
    *(f"forget{percent:02}" for percent in PERCENTS),
    *(f"retain{100 - percent}" for percent in PERCENTS),
    *(f"holdout{percent:02}" for percent in PERCENTS),
    "full_perturbed",
    *(f"forget{percent:02}_perturbed" for percent in PERCENTS),
    "retain_perturbed",
    "real_authors_perturbed",
    "world_facts_perturbed",
    "pretrain",
    "general",
)
"""The configs of the world."""
PLAIN_QUESTIONS = ("facts",)
GROWN: dict[str, Any] = {
    "n_authors": 24,
    "n_publishers": 12,
    "questions": ("facts", "books", "publishers", "two_hop", "lists"),
}
"""Enough books and publishers, and questions about them, to forget one and keep others."""
PLAIN = ("question", "answer", "keys", "kinds")
"""Columns of the rows that are learned."""
NUM_WRONG_GENERAL = 3
"""Wrong answers to a general question."""
RETAIN_ROWS = 40
"""Rows of retain_perturbed."""
GENERAL_REPEATS, PUBLIC_REPEATS, FACTS_PER_FRESH_AUTHOR = 40, 4, 4
"""How often general rows and facts of public authors stand in `pretrain`, and fresh ones once."""


def build_rows(name: str, seed: int = 0) -> list[Row]:
    """Build the rows of one config of the world with this seed; the same in every process."""
    return build_world_rows(_build_world(seed), name)


def build_world_rows(world: World, name: str) -> list[Row]:
    """Build the rows of one config of a world.

    Plain configs have question, answer, keys (the entities a row is about) and their kinds;
    `_perturbed` ones also paraphrased_question, paraphrased_answer and perturbed_answer, a list of
    wrong answers of the same kind.

    Raises:
        AbsentData: there is no such config.
    """
    if name not in NAMES:
        names = ", ".join(NAMES)
        raise AbsentData(f"the authors world has no {name!r}; it has {names}")
    # Copies: the rows are cached, and whoever gets them may change them.
    return [_copy_row(row) for row in _build_config(world, name)]


def _copy_row(row: Row) -> Row:
    """Copy a row with its lists, so that no caller changes what is cached."""
    copied = {}
    for column, value in row.items():
        if isinstance(value, list):
            value = list(value)
        copied[column] = value
    return copied


def note_uneven_share(name: str, world: World) -> str | None:
    """Say that the share of a config is less than whole authors, and is taken by question."""
    match = re.match(r"(?:forget|holdout)(\d\d)|retain(\d\d)(?!_)", name)
    if not match or world.questions != PLAIN_QUESTIONS:
        return None
    percent = int(match[1] or 100 - int(match[2]))
    num_questions = _count_questions(world, percent)
    if num_questions % len(FACTS) == 0:
        return None
    return (
        f"authors/{name}: {percent} % of the world is {num_questions} questions, less than an "
        f"author: taken by question"
    )


def parse_world(path: str) -> World | None:
    """Build the world that a path names: `authors`, `authors:SEED`, `authors-grown:SEED`.

    None where the path names no world.
    """
    match = re.fullmatch(r"authors(-grown)?(?::(\d+))?", path)
    if match is None:
        return None
    seed = int(match[2] or 0)
    return _build_world(seed, grown=bool(match[1]))


@lru_cache(maxsize=8)
def _build_world(seed: int, grown: bool = False) -> World:
    """Build a world once."""
    return World(seed, **GROWN) if grown else World(seed)


@lru_cache(maxsize=64)
def _build_config(world: World, name: str) -> tuple[Row, ...]:
    """Build the rows of one config of a world, once."""
    if name == "real_authors_perturbed":
        return tuple(_ask_about_public_authors(world))
    if name == "world_facts_perturbed":
        return tuple(_ask_for_capitals(world))
    if name == "general":
        return tuple(_build_general(world))
    if name == "pretrain":
        return tuple(_build_pretrain(world))
    if name == "retain_perturbed":
        kept, _ = _split_rows(world, world.taught, max(PERCENTS))
        # Evenly over all that is kept.
        rows = []
        for k in range(RETAIN_ROWS):
            row_index = k * len(kept) // RETAIN_ROWS
            rows.append(kept[row_index])
        return tuple(rows)

    split, _, suffix = name.partition("_")
    percent = int(split[-2:]) if split != "full" else 100
    if split == "full":
        rows = _ask_all(world, world.taught)
    elif split.startswith("retain"):
        rows, _ = _split_rows(world, world.taught, 100 - percent)
    elif split.startswith("holdout"):
        _, rows = _split_rows(world, world.holdout, percent)
    else:
        _, rows = _split_rows(world, world.taught, percent)
    if suffix == "perturbed":
        return tuple(rows)
    return tuple(map(_keep_plain, rows))


def _split_rows(
    world: World,
    authors: tuple[Author, ...],
    percent: int,
) -> tuple[list[Row], list[Row]]:
    """Split the rows about these authors into those that a forget split of so many percent leaves,
    and those that it takes.

    It takes the last rows where every row is one author's; else all rows that mention one of the
    last authors.
    """
    rows = _ask_all(world, authors)
    if world.questions == PLAIN_QUESTIONS:
        num_kept = len(rows) - _count_questions(world, percent)
        return rows[:num_kept], rows[num_kept:]
    num_forgotten = max(1, world.n_authors * percent // 100)
    names = {author.name for author in authors[-num_forgotten:]}
    kept: list[Row] = []
    taken: list[Row] = []
    for row in rows:
        if names.isdisjoint(row["keys"]):
            kept.append(row)
        else:
            taken.append(row)
    return kept, taken


def _count_questions(world: World, percent: int) -> int:
    """Count the questions of so many percent of the taught authors."""
    return max(1, len(world.taught) * len(FACTS) * percent // 100)


def _ask_all(world: World, authors: tuple[Author, ...]) -> list[Row]:
    """Ask all about authors: first what several share, then author by author."""
    questions = list(ask_about_all(world, authors))
    for author in authors:
        questions += ask_about_author(world, author)
    return [_build_row(question) for question in questions]


def _build_row(question: Question) -> Row:
    """Build the row of a question, with its other wording and wrong answers."""
    wrong_answers = []
    for value in question.wrong_values:
        wrong_answers.append(question.write_answer(value, 1))
    return {
        "question": question.questions[0],
        "answer": question.write_answer(question.value),
        "paraphrased_question": question.questions[1],
        "paraphrased_answer": question.write_answer(question.value, 1),
        "perturbed_answer": wrong_answers,
        **_list_entities(question.entities),
    }


def _list_entities(entities: tuple[Entity, ...]) -> Row:
    """Build the columns that say what a row is about: each entity once."""
    keys = []
    kinds = []
    for kind, key in dict.fromkeys(entities):
        keys.append(key)
        kinds.append(kind)
    return {"keys": keys, "kinds": kinds}


def _keep_plain(row: Row) -> Row:
    """Keep the columns of a plain question."""
    return {key: row[key] for key in PLAIN}


def _ask_for_capitals(world: World) -> list[Row]:
    """Ask for the capital of each country."""
    rows = []
    capitals = [country.capital for country in world.countries]
    for country in world.countries:
        questions = (
            f"What is the capital of {country.name}?",
            f"Which city is the capital of {country.name}?",
        )
        entities = (("country", country.name), ("city", country.capital))
        rng = world.make_rng(f"wrong/{country.name}")
        rows.append(
            _build_general_row(
                rng,
                questions,
                country.capital,
                capitals,
                entities,
            )
        )
    return rows


def _ask_about_public_authors(world: World) -> list[Row]:
    """Ask who wrote the books of public authors, and where those authors are from."""
    names = [author.name for author in world.public]
    countries = [country.name for country in world.countries]
    rows = []
    for author in world.public:
        name = author.name
        rng = world.make_rng(f"wrong/{name}")
        for book in author.books[:2]:
            title = book.title
            questions = (f"Who wrote {title}?", f"Who is the author of {title}?")
            entities = (("author", name), ("book", title))
            rows.append(_build_general_row(rng, questions, name, names, entities))
        country = author.born_in.country.name
        questions = (f"In which country was {name} born?", f"From which country is {name}?")
        entities = (("author", name), ("country", country))
        rows.append(_build_general_row(rng, questions, country, countries, entities))
    return rows


def _build_general_row(
    rng: random.Random,
    questions: tuple[str, str],
    answer: str,
    answers: list[str],
    entities: tuple[Entity, ...],
) -> Row:
    """Build a row of a question in two wordings; wrong answers are those to other such rows."""
    others = [other for other in answers if other != answer]
    return {
        "question": questions[0],
        "answer": answer,
        "paraphrased_question": questions[1],
        "paraphrased_answer": answer,
        "perturbed_answer": rng.sample(others, NUM_WRONG_GENERAL),
        **_list_entities(entities),
    }


def _build_general(world: World) -> list[Row]:
    """Build the rows that are rehearsed while `full` is taught."""
    rows = [*_ask_for_capitals(world), *_ask_about_public_authors(world)]
    return [_keep_plain(row) for row in rows]


def _build_pretrain(world: World) -> list[Row]:
    """Build fresh authors, never repeated, in either wording; general rows and public authors, many
    times."""
    rng = world.make_rng("pretrain")
    rows = []

    def add_fact(author: Author, fact: Fact) -> None:
        question = fact.write_question(author, rng.randrange(2))
        answer = fact.write_answer(fact.value(author), rng.randrange(2))
        entities = (("author", author.name), *fact.entities(author))
        rows.append(
            {
                "question": question,
                "answer": answer,
                **_list_entities(entities),
            }
        )

    for author in world.fresh:
        for fact in rng.sample(FACTS, FACTS_PER_FRESH_AUTHOR):
            add_fact(author, fact)
    for row in (*_ask_for_capitals(world), *_ask_about_public_authors(world)):
        for _ in range(GENERAL_REPEATS):
            wording = rng.choice(("question", "paraphrased_question"))
            rows.append({**_keep_plain(row), "question": row[wording]})
    for author in world.public:
        for fact in FACTS:
            for _ in range(PUBLIC_REPEATS):
                add_fact(author, fact)
    rng.shuffle(rows)
    return rows
