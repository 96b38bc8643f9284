"""The graph of the authors world: countries, cities, publishers, genres, awards, authors, books,
and what links them.

A pure function of its settings. Groups of authors, no name in two of them: those that are taught
(the last of them are the ones to forget), holdout ones drawn in the same way, public ones that
every base model has read about, fresh ones by the thousand from whom a base model learns how such
questions are answered, and decoys that lend their facts to wrong answers. Mentors are elders of
whom nothing else is told.
"""

import datetime
import itertools
import random
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


MINIMUM = {
    "seed": 0,
    "n_authors": 10,
    "n_public": 4,
    "n_fresh": 0,
    "n_decoys": 30,
    "n_publishers": 6,
}
"""The least value of each setting."""
MAX_GENRES, MAX_AWARDS = 60, 60
FIRST_BIRTHDAY = datetime.date(1850, 1, 1)
Ask = Literal["facts", "books", "publishers", "two_hop", "lists"]


@dataclass(frozen=True)
class World:
    """The entities of one seed. n_authors, n_public, n_fresh, n_decoys: how many authors each group
    has.

    n_publishers: among how many publishers the books are spread. questions: what is asked about the
    taught authors (see questions.py). banks: the words that names are made of.
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
        """Refuse settings that are too small, and more names than the banks give."""
        for name, minimum in MINIMUM.items():
            value = getattr(self, name)
            if value < minimum:
                raise UserError(f"{name} must be {minimum} or more, got {value}")
        if not self.questions:
            raise UserError(
                "questions must name what is asked: some of facts, books, publishers, two_hop, "
                "lists"
            )
        num_last_names = len(self.banks.last_names)
        num_people = self._num_authors + self._num_elders
        self._require("banks.first_names x banks.last_names", len(self._names), num_people)
        self._require("banks.adjectives x banks.nouns", len(self._titles), 3 * self._num_authors)
        self._require("pairs of banks.last_names", num_last_names // 2, self.n_publishers)

    def _require(self, name: str, num_words: int, num_needed: int) -> None:
        """Refuse a world that needs more names than its banks give."""
        if num_words < num_needed:
            raise UserError(
                f"{self._num_authors} authors and {self.n_publishers} publishers need {num_needed} "
                f"{name}, and there are {num_words}; ask for fewer, or add words to the banks"
            )

    def make_rng(self, purpose: str) -> random.Random:
        """Make a stream of randomness for one purpose, the same in every process."""
        return random.Random(f"{self.seed}/authors/{purpose}")

    @property
    def n_holdout(self) -> int:
        """As many as the largest forget split has."""
        return -(-self.n_authors // 10)

    @property
    def _num_authors(self) -> int:
        """Authors of all groups."""
        return self.n_authors + self.n_holdout + self.n_public + self.n_decoys + self.n_fresh

    @property
    def _num_elders(self) -> int:
        """People of whom only their names are told: mentors."""
        return self._num_authors // 4

    @cached_property
    def countries(self) -> tuple[Country, ...]:
        """The countries with their capitals."""
        countries = []
        for name, capital, *_ in self.banks.countries:
            countries.append(Country(name, capital))
        return tuple(countries)

    @cached_property
    def cities(self) -> tuple[City, ...]:
        """Where authors are born and publishers sit; no capitals, so that no author's fact is a
        general one too."""
        cities = []
        for country, (_, _, *names) in zip(self.countries, self.banks.countries, strict=True):
            cities += [City(name, country) for name in names]
        return tuple(cities)

    @cached_property
    def publishers(self) -> tuple[Publisher, ...]:
        """Publishers, each named by two partners, with the city of its seat."""
        rng = self.make_rng("publishers")
        partners = rng.sample(self.banks.last_names, 2 * self.n_publishers)
        publishers = []
        for first, second in zip(partners[::2], partners[1::2], strict=True):
            city = rng.choice(self.cities)
            publishers.append(Publisher(f"{first} and {second}", city))
        return tuple(publishers)

    @cached_property
    def genres(self) -> tuple[str, ...]:
        """Genres, each of a mood and a kind."""
        pairs = itertools.product(self.banks.genre_moods, self.banks.genres)
        genres = [f"{mood} {kind}" for mood, kind in pairs]
        num_genres = min(MAX_GENRES, len(genres))
        rng = self.make_rng("genres")
        return tuple(rng.sample(genres, num_genres))

    @cached_property
    def awards(self) -> tuple[str, ...]:
        """Prizes, each named by a noun."""
        rng = self.make_rng("awards")
        nouns = self.banks.nouns
        awards = []
        num_awards = min(MAX_AWARDS, len(nouns))
        for word in rng.sample(nouns, num_awards):
            prize = rng.choice(PRIZES)
            awards.append(f"{word} {prize}")
        return tuple(awards)

    @cached_property
    def _names(self) -> list[str]:
        """All names in the order in which authors take them."""
        pairs = itertools.product(self.banks.first_names, self.banks.last_names)
        names = [f"{first} {last}" for first, last in pairs]
        self.make_rng("names").shuffle(names)
        return names

    @cached_property
    def _elders(self) -> list[str]:
        """Names of mentors, which no author has."""
        start = self._num_authors
        stop = start + self._num_elders
        return self._names[start:stop]

    @cached_property
    def _titles(self) -> list[str]:
        """All titles in the order in which books take them."""
        nouns = self.banks.nouns
        pairs = itertools.product(self.banks.adjectives, nouns)
        titles = [f"{adjective} {noun}" for adjective, noun in pairs]
        for first, second in itertools.permutations(nouns, 2):
            titles.append(f"{first} of {second}")
        self.make_rng("titles").shuffle(titles)
        return titles

    @cached_property
    def _groups(self) -> dict[str, tuple[Author, ...]]:
        """The authors of each group; no author, name or title is in two of them."""
        sizes = {
            "taught": self.n_authors,
            "holdout": self.n_holdout,
            "public": self.n_public,
            "decoys": self.n_decoys,
            "fresh": self.n_fresh,
        }
        groups = {}
        start = 0
        for group, size in sizes.items():
            stop = start + size
            groups[group] = tuple(map(self._build_author, range(start, stop)))
            start = stop
        return groups

    def _build_author(self, author_index: int) -> Author:
        """Draw an author; names and titles are taken by the index, all else by the name."""
        name = self._names[author_index]
        rng = self.make_rng(f"author/{name}")
        num_days = rng.randrange(100 * 365)
        birthday = FIRST_BIRTHDAY + datetime.timedelta(days=num_days)
        publisher = rng.choice(self.publishers)

        def build_book(number: int, min_age: int, max_age: int) -> Book:
            num_days = rng.randrange(min_age * 365, max_age * 365)
            age = datetime.timedelta(days=num_days)
            title = self._titles[3 * author_index + number]
            return Book(title, birthday + age, publisher, rng.choice(self.awards))

        # The order of the draws is part of what a seed means.
        father, mother = rng.sample(PROFESSIONS, 2)
        books = (
            build_book(0, 22, 35),
            build_book(1, 36, 45),
            build_book(2, 46, 60),
        )
        birthplace = rng.choice(self.cities)
        genre = rng.choice(self.genres)
        return Author(
            name=name,
            born_in=birthplace,
            born_on=birthday,
            father=father,
            mother=mother,
            genre=genre,
            mentor=self._elders[author_index % len(self._elders)],
            books=books,
        )

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
