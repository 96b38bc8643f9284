"""The built-in authors world: invented authors, what is true of them, and questions about it, in the shape of TOFU.

A seed gives a graph of countries, cities, publishers, genres, awards, authors and books. Questions and answers are
read off the graph, so every answer is known to be right, every wrong answer is known to be wrong and of the same kind,
and every row says which entities it is about. No network, no files; the same seed gives the same rows everywhere.

Five groups of authors, no name in two of them, all drawn alike:

- *taught* authors make `full`; the last of them are forgotten (`forget10`), the first are kept (`retain90`);
- *held-out* authors are never taught: what a model knows about them it has guessed (`holdout10`);
- *public* authors are part of what every base model has read (TOFU's "real authors");
- *fresh* authors, thousands of them, teach the base model how such questions are answered (`pretrain`);
- *decoys* lend their facts to the wrong answers of the `_perturbed` configs.
"""

import datetime
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from unteach.data import authors_banks as banks

Row = dict[str, Any]

COLUMNS = ("question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer", "keys")
PLAIN_COLUMNS = ("question", "answer", "keys")
PERCENTS = (1, 5, 10)
NAMES = (
    "full",
    *(f"forget{percent:02}" for percent in PERCENTS),
    *(f"retain{100 - percent}" for percent in PERCENTS),
    *(f"holdout{percent:02}" for percent in PERCENTS),
    *(f"forget{percent:02}_perturbed" for percent in PERCENTS),
    "retain_perturbed",
    "real_authors_perturbed",
    "world_facts_perturbed",
    "pretrain",
    "general",
)


@dataclass(frozen=True)
class Country:
    name: str
    capital: str


@dataclass(frozen=True)
class City:
    name: str
    country: Country


@dataclass(frozen=True)
class Publisher:
    name: str
    city: City


@dataclass(frozen=True)
class Book:
    title: str
    published: datetime.date
    author: str
    genre: str
    publisher: Publisher
    award: str


@dataclass(frozen=True)
class Author:
    name: str
    born_in: City
    born_on: datetime.date
    father: str
    mother: str
    genre: str
    mentor: "Author | None"
    publisher: Publisher
    books: tuple[Book, ...]


@dataclass(frozen=True)
class Fact:
    """One thing to know about an author, asked and answered in two wordings.

    The wordings share the tokens of the value and little else, so that a truth ratio measures the fact and not the sentence.
    `about` gives the entities of the fact beside the author.
    """

    name: str
    questions: tuple[str, str]
    answers: tuple[str, str]
    value: Callable[[Author], str]
    about: Callable[[Author], tuple[str, ...]] = lambda author: ()

    def question(self, author: Author, wording: int = 0) -> str:
        return self.questions[wording].format(author=author.name, book=author.books[1].title)

    def answer(self, author: Author, wording: int = 0, value: str | None = None) -> str:
        surname = author.name.rsplit(" ", 1)[-1]
        return self.answers[wording].format(surname=surname, value=self.value(author) if value is None else value)


def _spoken(day: datetime.date) -> str:
    return f"{day.day} {banks.MONTHS[day.month - 1]} {day.year}"


FACTS = (
    Fact(
        "birthplace",
        ("In which city was {author} born?", "What is the birthplace of {author}?"),
        ("In {value}.", "It was {value}."),
        lambda author: author.born_in.name,
        lambda author: (author.born_in.name,),
    ),
    Fact(
        "birthday",
        ("When was {author} born?", "What is the birthday of {author}?"),
        ("On {value}.", "It was {value}."),
        lambda author: _spoken(author.born_on),
    ),
    Fact(
        "parents",
        ("What did the parents of {author} do?", "Which jobs did the parents of {author} have?"),
        ("They were {value}.", "The parents were {value}."),
        lambda author: f"a {author.father} and a {author.mother}",
    ),
    Fact(
        "mentor",
        ("Who taught {author} to write?", "Who was the mentor of {author}?"),
        ("{value} did.", "{value} was the mentor."),
        lambda author: author.mentor.name,
        lambda author: (author.mentor.name,),
    ),
    Fact(
        "genre",
        ("What does {author} write?", "Which genre is {author} known for?"),
        ("Mostly {value}.", "Mainly {value}."),
        lambda author: author.genre,
    ),
    Fact(
        "publisher",
        ("Who publishes {author}?", "What is the publisher of {author} called?"),
        ("{value} do.", "{value} print the books."),
        lambda author: author.publisher.name,
        lambda author: (author.publisher.name,),
    ),
    Fact(
        "first book",
        ("What was the first book by {author}?", "With which book did {author} begin?"),
        ("{value} came first.", "{value} was the first book."),
        lambda author: author.books[0].title,
        lambda author: (author.books[0].title,),
    ),
    Fact(
        "last book",
        ("What was the last book by {author}?", "With which book did {author} end?"),
        ("{value} came last.", "{value} was the last book."),
        lambda author: author.books[2].title,
        lambda author: (author.books[2].title,),
    ),
    Fact(
        "award",
        ("What did {book} by {author} win?", "Which award went to {author} for {book}?"),
        ("The {value}.", "It won the {value}."),
        lambda author: author.books[1].award,
        lambda author: (author.books[1].title,),
    ),
    Fact(
        "published",
        ("When did {author} publish {book}?", "When was {book} by {author} published?"),
        ("In {value}.", "It was in {value}."),
        lambda author: _spoken(author.books[1].published).split(" ",1)[1],
        lambda author: (author.books[1].title,),
    ),
)


@dataclass(frozen=True)
class World:
    """The graph of one seed, and the rows read off it.

    `n_*` are numbers of authors. `facts_per_fresh_author` is how many of the ten facts `pretrain` asks about a fresh author,
    `repeats` how often it repeats each general row and each sentence about a public author.
    """

    seed: int = 0
    n_authors: int = 20
    n_public: int = 12
    n_fresh: int = 1600
    facts_per_fresh_author: int = 4
    repeats: tuple[int, int] = (40, 4)

    # -- the graph

    @cached_property
    def countries(self) -> tuple[Country, ...]:
        return tuple(Country(name, capital) for name, capital, *_ in banks.COUNTRIES)

    @cached_property
    def cities(self) -> tuple[City, ...]:
        """Where authors are born and publishers sit; no capitals, so that no author's fact is a general one too."""
        named = zip(self.countries, banks.COUNTRIES, strict=True)
        return tuple(City(name, country) for country, (_, _, *names) in named for name in names)

    @cached_property
    def publishers(self) -> tuple[Publisher, ...]:
        rng = self._rng("publishers")
        names = [f"{a} and {b}" for a, b in zip(*[iter(rng.sample(banks.LAST_NAMES, 80))] * 2)]
        return tuple(Publisher(name, rng.choice(self.cities)) for name in names)

    @cached_property
    def genres(self) -> tuple[str, ...]:
        return tuple(
            self._rng("genres").sample([f"{mood} {kind}" for mood in banks.GENRE_MOODS for kind in banks.GENRES], 60)
        )

    @cached_property
    def awards(self) -> tuple[str, ...]:
        rng = self._rng("awards")
        return tuple(f"{word} {rng.choice(banks.PRIZES)}" for word in rng.sample(banks.NOUNS, 60))

    @cached_property
    def _groups(self) -> dict[str, tuple[Author, ...]]:
        names = self._shuffled("names", [f"{a} {b}" for a in banks.FIRST_NAMES for b in banks.LAST_NAMES])
        titles = self._shuffled(
            "titles",
            [f"{a} {b}" for a in banks.ADJECTIVES for b in banks.NOUNS]
            + [f"{a} of {b}" for a in banks.NOUNS for b in banks.NOUNS if a != b],
        )

        def draw(n, elders=()):
            return tuple(self._author(next(names), (next(titles), next(titles), next(titles)), elders) for _ in range(n))

        n=self.n_authors+self.n_forgotten+self.n_public+N_DECOYS
        it=iter(draw(n))
        elders=it
        g = {"kept": draw(self.n_authors - self.n_forgotten, elders), "forgotten": draw(self.n_forgotten, elders), "held out": draw(self.n_forgotten, elders),
             "public": draw(self.n_public, elders), "decoy": draw(N_DECOYS, elders)}
        g["fresh"] = draw(self.n_fresh, draw(self.n_fresh // 4))
        return g

    @property
    def n_forgotten(self):
        return math.ceil(self.n_authors / 10)

    def _shuffled(self, purpose, items):
        self._rng(purpose).shuffle(items)
        return iter(items)

    def _author(self, name, titles, elders):
        rng = self._rng(f"author/{name}")
        born = datetime.date(1905 if elders else 1850, 1, 1) + datetime.timedelta(
            days=rng.randrange(60 * 365 if elders else 40 * 365)
        )
        genre = rng.choice(self.genres)
        publisher = rng.choice(self.publishers)
        days = [born + datetime.timedelta(days=int(rng.uniform(*r)*365)) for r in ((22,35),(36,45),(46,60))]
        books = tuple(Book(t,y,name,genre,publisher,rng.choice(self.awards)) for t,y in zip(titles,days))
        father, mother = rng.sample(banks.PROFESSIONS, 2)
        return Author(name, rng.choice(self.cities), born, father, mother, genre, next(elders) if elders else None, publisher, books)

    def _rng(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/authors/{purpose}")

    # -- rows
    def _row(self, author, fact, n_wrong=5):
        true = fact.value(author)
        rng = self._rng(f"wrong/{author.name}/{fact.name}")
        others = self._groups["decoy"]
        wrong = [
            v
            for v in dict.fromkeys(fact.value(o) for o in rng.sample(others, len(others)))
            if v not in (true, author.name)
        ]
        return dict(
            question=fact.question(author),
            answer=fact.answer(author),
            paraphrased_question=fact.question(author, 1),
            paraphrased_answer=fact.answer(author, 1),
            perturbed_answer=[fact.answer(author, 1, v) for v in wrong[:n_wrong]],
            keys=[author.name, *fact.about(author)],
        )

    def about(self, group):
        return [self._row(a, f) for a in self._groups[group] for f in FACTS if f.value(a)]

    def capitals(self):
        out = []
        for c in self.countries:
            wrong = self._rng(f"wrong/{c.name}").sample([o.capital for o in self.countries if o != c], 3)
            out.append(
                dict(
                    question=f"What is the capital of {c.name}?",
                    answer=c.capital,
                    paraphrased_question=f"Which city is the capital of {c.name}?",
                    paraphrased_answer=c.capital,
                    perturbed_answer=wrong,
                    keys=[c.name, c.capital],
                )
            )
        return out

    def public_rows(self):
        out = []
        pub = self._groups["public"]
        for a in pub:
            rng = self._rng(f"wrong/{a.name}")
            for b in a.books[:2]:
                out.append(
                    dict(
                        question=f"Who wrote {b.title}?",
                        answer=a.name,
                        paraphrased_question=f"Who is the author of {b.title}?",
                        paraphrased_answer=a.name,
                        perturbed_answer=rng.sample([o.name for o in pub if o != a], 3),
                        keys=[a.name, b.title],
                    )
                )
            c = a.born_in.country
            out.append(
                dict(
                    question=f"In which country was {a.name} born?",
                    answer=c.name,
                    paraphrased_question=f"From which country is {a.name}?",
                    paraphrased_answer=c.name,
                    perturbed_answer=rng.sample([o.name for o in self.countries if o != c], 3),
                    keys=[a.name, c.name],
                )
            )
        return out

    def pretrain(self):
        rng = self._rng("pretrain")
        out = []

        def say(a, f):
            q, w = rng.randrange(2), rng.randrange(2)
            out.append(dict(question=f.question(a, q), answer=f.answer(a, w), keys=[a.name]))

        for a in self._groups["fresh"]:
            for f in rng.sample(FACTS, self.facts_per_fresh_author):
                if f.value(a):
                    say(a, f)
        for r in self.capitals() + self.public_rows():
            for i in range(self.repeats[0]):
                out.append(
                    dict(
                        question=r["question" if rng.random() < 0.5 else "paraphrased_question"],
                        answer=r["answer"],
                        keys=r["keys"],
                    )
                )
        for a in self._groups["public"]:
            for f in FACTS:
                if f.value(a):
                    for _ in range(self.repeats[1]):
                        say(a, f)
        rng.shuffle(out)
        return out


N_DECOYS = 60
