"""The built-in authors world as a corpus: TOFU's config names and columns, read off the graph of
`world.py`.

`full` is what a model is taught (`full_perturbed`: with wrong answers beside); its last tenth is
what it can be made to forget (`forget10`), the rest what it keeps (`retain90`). `holdout10` is
about authors drawn like the forget authors and never taught. `real_authors_perturbed` asks about
public authors and `world_facts_perturbed` about capitals: both are in `pretrain`, the text that the
base model is taught first, beside thousands of other authors; `general` has them once each, to be
rehearsed while `full` is taught.
"""

import re
from functools import lru_cache
from typing import Any

from unteach.data.synthetic.questions import FACTS, Fact, Question, of_all, of_author
from unteach.data.synthetic.world import Author, World
from unteach.errors import AbsentData

Row = dict[str, Any]

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
PLAIN_WORLD = ("facts",)
GROWN: dict[str, Any] = {
    "n_authors": 24,
    "n_publishers": 12,
    "questions": ("facts", "books", "publishers", "two_hop", "lists"),
}
"""Enough books and publishers, and questions about them, to forget one and keep others."""
PLAIN = ("question", "answer", "keys", "kinds")
WRONG_OF_GENERAL, RETAIN_ROWS = 3, 40
GENERAL_REPEATS, PUBLIC_REPEATS, FACTS_PER_FRESH_AUTHOR = 40, 4, 4


def build_rows(name: str, seed: int = 0) -> list[Row]:
    """The rows of one config of the world with this seed; the same in every process."""
    return build_world_rows(_build_world(seed), name)


def build_world_rows(world: World, name: str) -> list[Row]:
    """The rows of one config of a world.

    Plain configs have question, answer, keys (the entities a row is about) and their kinds;
    `_perturbed` ones also paraphrased_question, paraphrased_answer and perturbed_answer, a list of
    wrong answers of the same kind.
    """
    if name not in NAMES:
        raise AbsentData(f"the authors world has no {name!r}; it has {', '.join(NAMES)}")
    return [{key: _copied(value) for key, value in row.items()} for row in _rows(world, name)]


def _copied(value: object) -> Any:
    return list(value) if isinstance(value, list) else value


def note_uneven_share(name: str, world: World) -> str | None:
    """What must be said of a config: that its share is less than whole authors, and is taken by
    question."""
    share = re.match(r"(?:forget|holdout)(\d\d)|retain(\d\d)(?!_)", name)
    if not share or world.questions != PLAIN_WORLD:
        return None
    percent = int(share[1] or 100 - int(share[2]))
    questions = _size(world, percent)
    if questions % len(FACTS) == 0:
        return None
    return (
        f"authors/{name}: {percent} % of the world is {questions} questions, less than an "
        f"author: taken by question"
    )


def parse_world(path: str) -> World | None:
    """The world that a path names: `authors`, `authors:SEED`, `authors-grown:SEED`; None where it
    is no world's."""
    named = re.fullmatch(r"authors(-grown)?(?::(\d+))?", path)
    return _build_world(int(named[2] or 0), grown=bool(named[1])) if named else None


@lru_cache(maxsize=8)
def _build_world(seed: int, grown: bool = False) -> World:
    return World(seed, **GROWN) if grown else World(seed)


@lru_cache(maxsize=64)
def _rows(world: World, name: str) -> tuple[Row, ...]:
    plain, _, perturbed = name.partition("_")
    if name in SPECIAL:
        return tuple(SPECIAL[name](world))
    if name == "retain_perturbed":
        kept, _ = _cut(world, world.taught, max(PERCENTS))
        return tuple(_spread(kept, RETAIN_ROWS))
    if plain == "full":
        chosen = _asked(world, world.taught)
    elif plain.startswith("retain"):
        chosen, _ = _cut(world, world.taught, 100 - int(plain[-2:]))
    else:
        _, chosen = _cut(
            world, world.holdout if plain.startswith("holdout") else world.taught, int(plain[-2:])
        )
    return tuple(chosen if perturbed else map(_plain, chosen))


def _cut(world: World, authors: tuple[Author, ...], percent: int) -> tuple[list[Row], list[Row]]:
    """The rows about these authors that a forget split of so many percent leaves, and those that it
    takes.

    It takes the last rows where every row is one author's; else all rows that mention one of the
    last authors.
    """
    asked = _asked(world, authors)
    if world.questions == PLAIN_WORLD:
        last = len(asked) - _size(world, percent)
        return asked[:last], asked[last:]
    names = {author.name for author in authors[-max(1, world.n_authors * percent // 100) :]}
    taken = [not names.isdisjoint(row["keys"]) for row in asked]
    return (
        [row for row, gone in zip(asked, taken, strict=True) if not gone],
        [row for row, gone in zip(asked, taken, strict=True) if gone],
    )


def _size(world: World, percent: int) -> int:
    return max(1, len(world.taught) * len(FACTS) * percent // 100)


def _asked(world: World, authors: tuple[Author, ...]) -> list[Row]:
    """All that is asked about authors: first what several share, then author by author."""
    questions = [
        *of_all(world, authors),
        *(one for author in authors for one in of_author(world, author)),
    ]
    return [_row(one) for one in questions]


def _row(asked: Question) -> Row:
    return {
        "question": asked.questions[0],
        "answer": asked.answer(asked.value),
        "paraphrased_question": asked.questions[1],
        "paraphrased_answer": asked.answer(asked.value, 1),
        "perturbed_answer": [asked.answer(value, 1) for value in asked.wrong],
        **_about(*asked.about),
    }


def _about(*entities: tuple[str, str]) -> Row:
    """The columns that say what a row is about: each entity once."""
    kinds, keys = zip(*dict.fromkeys(entities), strict=True)
    return {"keys": list(keys), "kinds": list(kinds)}


def _plain(row: Row) -> Row:
    return {key: row[key] for key in PLAIN}


def _spread(rows: list[Row], size: int) -> list[Row]:
    """`size` rows evenly over a list."""
    return [rows[i * len(rows) // size] for i in range(size)]


def _capitals(world: World) -> list[Row]:
    found = []
    for country in world.countries:
        others = [other.capital for other in world.countries if other != country]
        found.append(
            {
                "question": f"What is the capital of {country.name}?",
                "answer": country.capital,
                "paraphrased_question": f"Which city is the capital of {country.name}?",
                "paraphrased_answer": country.capital,
                "perturbed_answer": world.rng(f"wrong/{country.name}").sample(
                    others, WRONG_OF_GENERAL
                ),
                **_about(("country", country.name), ("city", country.capital)),
            }
        )
    return found


def _public(world: World) -> list[Row]:
    """Who wrote the books of public authors, and where those authors are from."""
    found = []
    for author in world.public:
        rng = world.rng(f"wrong/{author.name}")
        country = author.born_in.country.name
        asked = [
            (
                f"Who wrote {book.title}?",
                f"Who is the author of {book.title}?",
                author.name,
                ("book", book.title),
            )
            for book in author.books[:2]
        ]
        born = ("country", country)
        asked += [
            (
                f"In which country was {author.name} born?",
                f"From which country is {author.name}?",
                country,
                born,
            )
        ]
        for question, again, answer, entity in asked:
            kind = (
                [a.name for a in world.public]
                if answer == author.name
                else [c.name for c in world.countries]
            )
            found.append(
                {
                    "question": question,
                    "answer": answer,
                    "paraphrased_question": again,
                    "paraphrased_answer": answer,
                    "perturbed_answer": rng.sample(
                        [other for other in kind if other != answer], WRONG_OF_GENERAL
                    ),
                    **_about(("author", author.name), entity),
                }
            )
    return found


def _general(world: World) -> list[Row]:
    return [_plain(row) for row in (*_capitals(world), *_public(world))]


def _pretrain(world: World) -> list[Row]:
    """Fresh authors, never repeated, in either wording; general rows and public authors, many
    times."""
    rng, found = world.rng("pretrain"), []

    def say(author: Author, fact: Fact) -> None:
        question = fact.question(author, rng.randrange(2))
        answer = fact.answer(fact.value(author), rng.randrange(2))
        about = _about(("author", author.name), *fact.about(author))
        found.append({"question": question, "answer": answer, **about})

    for author in world.fresh:
        for fact in rng.sample(FACTS, FACTS_PER_FRESH_AUTHOR):
            say(author, fact)
    for row in (*_capitals(world), *_public(world)):
        for _ in range(GENERAL_REPEATS):
            question = row[rng.choice(("question", "paraphrased_question"))]
            found.append(
                {
                    "question": question,
                    "answer": row["answer"],
                    "keys": row["keys"],
                    "kinds": row["kinds"],
                }
            )
    for author in world.public:
        for fact in FACTS:
            for _ in range(PUBLIC_REPEATS):
                say(author, fact)
    rng.shuffle(found)
    return found


SPECIAL = {
    "real_authors_perturbed": _public,
    "world_facts_perturbed": _capitals,
    "general": _general,
    "pretrain": _pretrain,
}
