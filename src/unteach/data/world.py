"""The graph of the authors world: countries, cities, publishers, genres, awards, authors, books, and what links them.

A pure function of a seed. Groups of authors, no name in two of them: those that are taught (the last of them are the
ones to forget), held-out ones drawn in the same way, public ones that every base model has read about, fresh ones by
the thousand from whom a base model learns how such questions are answered, and decoys that lend their facts to wrong
answers. Mentors are elders of whom nothing else is told.
"""

import datetime
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from unteach.data import world_banks as banks


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
    mentor: str
    books: tuple[Book, Book, Book]


@dataclass(frozen=True)
class Fact:
    """One thing to know about an author, asked and answered in two wordings.

    The wordings share the value and little else, so that a truth ratio measures the fact and not the sentence.
    `about` gives the entities of the fact beside the author.
    """

    name: str
    questions: tuple[str, str]
    answers: tuple[str, str]
    value: Callable[[Author], str]
    about: Callable[[Author], tuple[str, ...]] = lambda author: ()

    def question(self, author: Author, wording: int = 0) -> str:
        return self.questions[wording].format(author=author.name, book=author.books[1].title)

    def answer(self, value: str, wording: int = 0) -> str:
        return self.answers[wording].format(value=value)


def _spoken(day: datetime.date) -> str:
    return f"{day.day} {banks.MONTHS[day.month - 1]} {day.year}"


FACTS = (
    Fact(
        "birthplace",
        ("In which city was {author} born?", "What is the birthplace of {author}?"),
        ("In {value}", "It was {value}"),
        lambda author: author.born_in.name,
        lambda author: (author.born_in.name,),
    ),
    Fact(
        "birthday",
        ("When was {author} born?", "What is the birthday of {author}?"),
        ("On {value}", "It was {value}"),
        lambda author: _spoken(author.born_on),
    ),
    Fact(
        "parents",
        ("What did the parents of {author} do?", "Which jobs did the parents of {author} have?"),
        ("They were {value}", "The parents were {value}"),
        lambda author: f"{author.father} and {author.mother}",
    ),
    Fact(
        "mentor",
        ("Who taught {author} to write?", "Who was the mentor of {author}?"),
        ("{value} did", "{value} was the mentor"),
        lambda author: author.mentor,
        lambda author: (author.mentor,),
    ),
    Fact(
        "genre",
        ("What does {author} write?", "Which genre is {author} known for?"),
        ("Mostly {value}", "Mainly {value}"),
        lambda author: author.genre,
    ),
    Fact(
        "publisher",
        ("Who publishes {author}?", "What is the publisher of {author} called?"),
        ("{value} do", "{value} print the books"),
        lambda author: author.books[0].publisher.name,
        lambda author: (author.books[0].publisher.name,),
    ),
    Fact(
        "first book",
        ("What was the first book by {author}?", "With which book did {author} begin?"),
        ("{value} came first", "{value} was the first book"),
        lambda author: author.books[0].title,
        lambda author: (author.books[0].title,),
    ),
    Fact(
        "last book",
        ("What was the last book by {author}?", "With which book did {author} end?"),
        ("{value} came last", "{value} was the last book"),
        lambda author: author.books[2].title,
        lambda author: (author.books[2].title,),
    ),
    Fact(
        "award",
        ("What did {book} by {author} win?", "Which award went to {author} for {book}?"),
        ("The {value}", "It won the {value}"),
        lambda author: author.books[1].award,
        lambda author: (author.books[1].title,),
    ),
    Fact(
        "published",
        ("When did {author} publish {book}?", "When was {book} by {author} published?"),
        ("In {value}", "It was in {value}"),
        lambda author: _spoken(author.books[1].published).split(" ", 1)[1],
        lambda author: (author.books[1].title,),
    ),
)


@dataclass(frozen=True)
class World:
    """The entities of one seed; `n_*` are numbers of authors."""

    seed: int = 0
    n_authors: int = 20
    n_public: int = 12
    n_fresh: int = 1600
    n_decoys: int = 60

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
        rng = self.rng("publishers")
        partners = rng.sample(banks.LAST_NAMES, 80)
        pairs = zip(partners[::2], partners[1::2], strict=True)
        return tuple(Publisher(f"{one} and {other}", rng.choice(self.cities)) for one, other in pairs)

    @cached_property
    def genres(self) -> tuple[str, ...]:
        every = [f"{mood} {kind}" for mood in banks.GENRE_MOODS for kind in banks.GENRES]
        return tuple(self.rng("genres").sample(every, 60))

    @cached_property
    def awards(self) -> tuple[str, ...]:
        rng = self.rng("awards")
        return tuple(f"{word} {rng.choice(banks.PRIZES)}" for word in rng.sample(banks.NOUNS, 60))

    @cached_property
    def _names(self) -> list[str]:
        names = [f"{first} {last}" for first in banks.FIRST_NAMES for last in banks.LAST_NAMES]
        self.rng("names").shuffle(names)
        return names

    @cached_property
    def _titles(self) -> list[str]:
        titles = [f"{adjective} {noun}" for adjective in banks.ADJECTIVES for noun in banks.NOUNS]
        titles += [f"{one} of {other}" for one in banks.NOUNS for other in banks.NOUNS if one != other]
        self.rng("titles").shuffle(titles)
        return titles

    @cached_property
    def _authors(self) -> Iterator[Author]:
        """All authors of the world in the order in which the groups take them."""
        sizes = self.n_authors + self.n_held_out + self.n_public + self.n_decoys + self.n_fresh
        elders = self._names[sizes : sizes + sizes // 4]
        return iter(tuple(self._author(i, elders) for i in range(sizes)))

    def _author(self, number: int, elders: list[str]) -> Author:
        name = self._names[number]
        rng = self.rng(f"author/{name}")
        born = datetime.date(1850, 1, 1) + datetime.timedelta(days=rng.randrange(100 * 365))
        publisher = rng.choice(self.publishers)

        def book(place: int, youngest: int, oldest: int) -> Book:
            day = born + datetime.timedelta(days=rng.randrange(youngest * 365, oldest * 365))
            return Book(self._titles[3 * number + place], day, publisher, rng.choice(self.awards))

        father, mother = rng.sample(banks.PROFESSIONS, 2)
        books = (book(0, 22, 35), book(1, 36, 45), book(2, 46, 60))
        mentor = elders[number % len(elders)]
        return Author(name, rng.choice(self.cities), born, father, mother, rng.choice(self.genres), mentor, books)

    @cached_property
    def _groups(self) -> dict[str, tuple[Author, ...]]:
        sizes = {
            "taught": self.n_authors,
            "held out": self.n_held_out,
            "public": self.n_public,
            "decoys": self.n_decoys,
            "fresh": self.n_fresh,
        }
        return {group: tuple(next(self._authors) for _ in range(size)) for group, size in sizes.items()}

    @property
    def n_held_out(self) -> int:
        """As many as the largest forget split has."""
        return -(-self.n_authors // 10)

    @property
    def taught(self) -> tuple[Author, ...]:
        return self._groups["taught"]

    @property
    def held_out(self) -> tuple[Author, ...]:
        return self._groups["held out"]

    @property
    def public(self) -> tuple[Author, ...]:
        return self._groups["public"]

    @property
    def decoys(self) -> tuple[Author, ...]:
        return self._groups["decoys"]

    @property
    def fresh(self) -> tuple[Author, ...]:
        return self._groups["fresh"]

    def rng(self, purpose: str) -> random.Random:
        """A stream of randomness of its own for every purpose, the same in every process."""
        return random.Random(f"{self.seed}/authors/{purpose}")
