"""The graph of the authors world: countries, cities, publishers, genres, awards, authors, books,
and what links them.

A pure function of its settings. Groups of authors, no name in two of them: those that are taught
(the last of them are the ones to forget), holdout ones drawn in the same way, public ones that
every base model has read about, fresh ones by the thousand from whom a base model learns how such
questions are answered, and decoys that lend their facts to wrong answers. Mentors are elders of
whom nothing else is told.
"""

import datetime
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from unteach.data.synthetic.word_banks import PRIZES, PROFESSIONS, Banks
from unteach.errors import UserError


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


LEAST = {"seed": 0, "n_authors": 10, "n_public": 4, "n_fresh": 0, "n_decoys": 30, "n_publishers": 6}
Ask = Literal["facts", "books", "publishers", "two_hop", "lists"]


@dataclass(frozen=True)
class World:
    """The entities of one seed. n_authors, n_public, n_fresh, n_decoys: how many authors each group
    has.

    n_publishers: among how many publishers the books are spread. questions: what is asked about the
    taught authors (see world_questions.py). banks: the words that names are made of.
    """

    seed: int = 0
    n_authors: int = 20
    n_public: int = 12
    n_fresh: int = 1600
    n_decoys: int = 60
    n_publishers: int = 40
    questions: tuple[Ask, ...] = ("facts",)
    banks: Banks = field(default_factory=Banks)

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not self.questions:
            raise UserError(
                "questions must name what is asked: some of facts, books, publishers, two_hop, "
                "lists"
            )
        needed = {
            "banks.first_names x banks.last_names": (
                len(self._names),
                self._size + self._size // 4,
            ),
            "banks.adjectives x banks.nouns": (len(self._titles), 3 * self._size),
            "pairs of banks.last_names": (len(self.banks.last_names) // 2, self.n_publishers),
        }
        for name, (there, wanted) in needed.items():
            if there < wanted:
                raise UserError(
                    f"{self._size} authors and {self.n_publishers} publishers need {wanted} "
                    f"{name}, and there are {there}; ask for fewer, or add words to the banks"
                )

    @property
    def _size(self) -> int:
        """Authors of all groups."""
        return self.n_authors + self.n_holdout + self.n_public + self.n_decoys + self.n_fresh

    @cached_property
    def countries(self) -> tuple[Country, ...]:
        return tuple(Country(name, capital) for name, capital, *_ in self.banks.countries)

    @cached_property
    def cities(self) -> tuple[City, ...]:
        """Where authors are born and publishers sit; no capitals, so that no author's fact is a
        general one too."""
        named = zip(self.countries, self.banks.countries, strict=True)
        return tuple(City(name, country) for country, (_, _, *names) in named for name in names)

    @cached_property
    def publishers(self) -> tuple[Publisher, ...]:
        rng = self.rng("publishers")
        partners = rng.sample(self.banks.last_names, 2 * self.n_publishers)
        pairs = zip(partners[::2], partners[1::2], strict=True)
        return tuple(
            Publisher(f"{one} and {other}", rng.choice(self.cities)) for one, other in pairs
        )

    @cached_property
    def genres(self) -> tuple[str, ...]:
        every = [f"{mood} {kind}" for mood in self.banks.genre_moods for kind in self.banks.genres]
        return tuple(self.rng("genres").sample(every, min(60, len(every))))

    @cached_property
    def awards(self) -> tuple[str, ...]:
        rng = self.rng("awards")
        nouns = self.banks.nouns
        return tuple(
            f"{word} {rng.choice(PRIZES)}" for word in rng.sample(nouns, min(60, len(nouns)))
        )

    @cached_property
    def _names(self) -> list[str]:
        names = [
            f"{first} {last}" for first in self.banks.first_names for last in self.banks.last_names
        ]
        self.rng("names").shuffle(names)
        return names

    @cached_property
    def _titles(self) -> list[str]:
        nouns = self.banks.nouns
        titles = [f"{adjective} {noun}" for adjective in self.banks.adjectives for noun in nouns]
        titles += [f"{one} of {other}" for one in nouns for other in nouns if one != other]
        self.rng("titles").shuffle(titles)
        return titles

    @cached_property
    def _authors(self) -> Iterator[Author]:
        """All authors of the world in the order in which the groups take them."""
        elders = self._names[self._size : self._size + self._size // 4]
        return iter(tuple(self._author(i, elders) for i in range(self._size)))

    def _author(self, number: int, elders: list[str]) -> Author:
        name = self._names[number]
        rng = self.rng(f"author/{name}")
        born = datetime.date(1850, 1, 1) + datetime.timedelta(days=rng.randrange(100 * 365))
        publisher = rng.choice(self.publishers)

        def book(place: int, youngest: int, oldest: int) -> Book:
            day = born + datetime.timedelta(days=rng.randrange(youngest * 365, oldest * 365))
            return Book(self._titles[3 * number + place], day, publisher, rng.choice(self.awards))

        father, mother = rng.sample(PROFESSIONS, 2)
        books = (book(0, 22, 35), book(1, 36, 45), book(2, 46, 60))
        mentor = elders[number % len(elders)]
        return Author(
            name,
            rng.choice(self.cities),
            born,
            father,
            mother,
            rng.choice(self.genres),
            mentor,
            books,
        )

    @cached_property
    def _groups(self) -> dict[str, tuple[Author, ...]]:
        sizes = {
            "taught": self.n_authors,
            "holdout": self.n_holdout,
            "public": self.n_public,
            "decoys": self.n_decoys,
            "fresh": self.n_fresh,
        }
        return {
            group: tuple(next(self._authors) for _ in range(size)) for group, size in sizes.items()
        }

    @property
    def n_holdout(self) -> int:
        """As many as the largest forget split has."""
        return -(-self.n_authors // 10)

    @property
    def taught(self) -> tuple[Author, ...]:
        return self._groups["taught"]

    @property
    def holdout(self) -> tuple[Author, ...]:
        return self._groups["holdout"]

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
