"""What is asked of the authors world: an author's ten facts and, where a world says so, much more.

Everything is asked and answered in two wordings. They share the value and little else, so that a
truth ratio measures the fact and not the sentence. Wrong answers are values of the same kind, lent
by authors that are taught nowhere.
"""

import datetime
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from unteach.data.synthetic.word_banks import MONTHS
from unteach.data.synthetic.world import Author, Book, Publisher, World

Entity = tuple[str, str]
"""(kind, name)."""
WRONG, LONGEST_LIST = 5, 4


@dataclass(frozen=True)
class Question:
    """A question and its answer, in two wordings. wrong: values that are not true of it; about: its
    entities."""

    questions: tuple[str, str]
    answers: tuple[str, str]
    value: str
    wrong: tuple[str, ...]
    about: tuple[Entity, ...]

    def answer(self, value: str, wording: int = 0) -> str:
        return self.answers[wording].format(value=value)


@dataclass(frozen=True)
class Fact:
    """One thing to know about an author, asked and answered in two wordings. about: its entities
    beside the author."""

    name: str
    questions: tuple[str, str]
    answers: tuple[str, str]
    value: Callable[[Author], str]
    about: Callable[[Author], tuple[Entity, ...]] = lambda author: ()

    def question(self, author: Author, wording: int = 0) -> str:
        return self.questions[wording].format(author=author.name, book=author.books[1].title)

    def answer(self, value: str, wording: int = 0) -> str:
        return self.answers[wording].format(value=value)


def _spoken(day: datetime.date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


FACTS = (
    Fact(
        "birthplace",
        ("In which city was {author} born?", "What is the birthplace of {author}?"),
        ("In {value}", "It was {value}"),
        lambda author: author.born_in.name,
        lambda author: (("city", author.born_in.name),),
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
        lambda author: (("mentor", author.mentor),),
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
        lambda author: (("publisher", author.books[0].publisher.name),),
    ),
    Fact(
        "first book",
        ("What was the first book by {author}?", "With which book did {author} begin?"),
        ("{value} came first", "{value} was the first book"),
        lambda author: author.books[0].title,
        lambda author: (("book", author.books[0].title),),
    ),
    Fact(
        "last book",
        ("What was the last book by {author}?", "With which book did {author} end?"),
        ("{value} came last", "{value} was the last book"),
        lambda author: author.books[2].title,
        lambda author: (("book", author.books[2].title),),
    ),
    Fact(
        "award",
        ("What did {book} by {author} win?", "Which award went to {author} for {book}?"),
        ("The {value}", "It won the {value}"),
        lambda author: author.books[1].award,
        lambda author: (("book", author.books[1].title),),
    ),
    Fact(
        "published",
        ("When did {author} publish {book}?", "When was {book} by {author} published?"),
        ("In {value}", "It was in {value}"),
        lambda author: _spoken(author.books[1].published).split(" ", 1)[1],
        lambda author: (("book", author.books[1].title),),
    ),
)


def of_author(world: World, author: Author) -> Iterator[Question]:
    """What the world asks about one author and the author's books."""
    for asked in ("facts", "books", "two_hop", "lists"):
        if asked in world.questions:
            yield from ABOUT_AUTHORS[asked](world, author)


def of_all(world: World, authors: tuple[Author, ...]) -> Iterator[Question]:
    """What the world asks about several authors at once, and about their publishers."""
    if "publishers" in world.questions:
        yield from _publishers(world, authors)
    if "two_hop" in world.questions:
        yield from _common(world, authors)


def about_fact(world: World, author: Author, fact: Fact) -> Question:
    """One of an author's facts; wrong answers are the same fact of other authors."""
    true = fact.value(author)
    lenders = world.rng(f"wrong/{author.name}/{fact.name}").sample(world.decoys, len(world.decoys))
    wrong = [
        v
        for v in dict.fromkeys(fact.value(other) for other in lenders)
        if v not in (true, author.name)
    ]
    asked = (fact.question(author), fact.question(author, 1))
    return Question(
        asked,
        fact.answers,
        true,
        tuple(wrong[:WRONG]),
        (("author", author.name), *fact.about(author)),
    )


def _facts(world: World, author: Author) -> Iterator[Question]:
    return (about_fact(world, author, fact) for fact in FACTS)


def _books(world: World, author: Author) -> Iterator[Question]:
    for book in author.books:
        title, entities = book.title, (("author", author.name), ("book", book.title))
        lent = list(_books_of(world.decoys))
        yield Question(
            (f"Who wrote {title}?", f"Who is the author of {title}?"),
            ("{value} did", "The author is {value}"),
            author.name,
            _wrong(world, title, "author", author.name, (other.name for other in world.decoys)),
            entities,
        )
        yield Question(
            (f"Which publisher brought out {title}?", f"What is the publisher of {title} called?"),
            ("{value} did", "It is {value}"),
            book.publisher.name,
            _wrong(
                world,
                title,
                "publisher",
                book.publisher.name,
                (other.publisher.name for other in lent),
            ),
            (*entities, ("publisher", book.publisher.name)),
        )
        yield Question(
            (f"When did {title} appear?", f"What is the publication date of {title}?"),
            ("On {value}", "It was {value}"),
            _spoken(book.published),
            _wrong(
                world,
                title,
                "date",
                _spoken(book.published),
                (_spoken(other.published) for other in lent),
            ),
            entities,
        )
        yield Question(
            (f"What was {title} awarded?", f"Which award did {title} get?"),
            ("The {value}", "It got the {value}"),
            book.award,
            _wrong(world, title, "award", book.award, (other.award for other in lent)),
            entities,
        )


def _two_hop(world: World, author: Author) -> Iterator[Question]:
    home, book = author.born_in, author.books[1]
    sits = book.publisher.city
    yield Question(
        (f"In which country was {author.name} born?", f"From which country is {author.name}?"),
        ("In {value}", "From {value}"),
        home.country.name,
        _wrong(world, author.name, "country", home.country.name, (c.name for c in world.countries)),
        (("author", author.name), ("city", home.name), ("country", home.country.name)),
    )
    yield Question(
        (
            f"In which city was the author of {book.title} born?",
            f"What is the birthplace of who wrote {book.title}?",
        ),
        ("In {value}", "It was {value}"),
        home.name,
        _wrong(world, book.title, "birthplace", home.name, (city.name for city in world.cities)),
        (("author", author.name), ("book", book.title), ("city", home.name)),
    )
    yield Question(
        (
            f"In which city is the publisher of {book.title}?",
            f"Where does the publisher of {book.title} sit?",
        ),
        ("In {value}", "It is {value}"),
        sits.name,
        _wrong(world, book.title, "seat", sits.name, (city.name for city in world.cities)),
        (
            ("author", author.name),
            ("book", book.title),
            ("publisher", book.publisher.name),
            ("city", sits.name),
        ),
    )


def _lists(world: World, author: Author) -> Iterator[Question]:
    titles = _listed(book.title for book in author.books)
    yield Question(
        (f"Which books did {author.name} write?", f"What are the books of {author.name} called?"),
        ("{value}", "They are {value}"),
        titles,
        _wrong(
            world,
            author.name,
            "books",
            titles,
            (_listed(b.title for b in other.books) for other in world.decoys),
        ),
        (("author", author.name), *(("book", book.title) for book in author.books)),
    )


def _publishers(world: World, authors: tuple[Author, ...]) -> Iterator[Question]:
    """Where each publisher of these authors sits and, where they are few, whom it publishes."""
    published: dict[Publisher, dict[str, None]] = defaultdict(dict)
    for author in authors:
        for book in author.books:
            published[book.publisher][author.name] = None
    for publisher, names in published.items():
        about = ("publisher", publisher.name)
        for asked, again, value, kind, others in (
            (
                "In which city is",
                "Which city is the seat of",
                publisher.city.name,
                "city",
                world.cities,
            ),
            (
                "In which country is",
                "Which country is home to",
                publisher.city.country.name,
                "country",
                world.countries,
            ),
        ):
            yield Question(
                (f"{asked} {publisher.name}?", f"{again} {publisher.name}?"),
                ("In {value}", "It is {value}"),
                value,
                _wrong(world, publisher.name, kind, value, (other.name for other in others)),
                (about, (kind, value)),
            )
        if "lists" in world.questions and 1 < len(names) <= LONGEST_LIST:
            lent = [other.name for other in world.decoys]
            rng = world.rng(f"wrong/{publisher.name}/authors")
            yield Question(
                (
                    f"Which authors does {publisher.name} publish?",
                    f"Who is published by {publisher.name}?",
                ),
                ("{value}", "They are {value}"),
                _listed(names),
                tuple(_listed(rng.sample(lent, len(names))) for _ in range(WRONG)),
                (about, *(("author", name) for name in names)),
            )


def _common(world: World, authors: tuple[Author, ...]) -> Iterator[Question]:
    """What two authors of one country have in common; each author with the next one from there."""
    compatriots: dict[str, list[Author]] = defaultdict(list)
    for author in authors:
        compatriots[author.born_in.country.name].append(author)
    for country, together in compatriots.items():
        for one, other in pairwise(together):
            yield Question(
                (
                    f"What do {one.name} and {other.name} have in common?",
                    f"What links the authors {one.name} and {other.name}?",
                ),
                ("Both were born in {value}", "They come from {value}"),
                country,
                _wrong(
                    world,
                    f"{one.name}/{other.name}",
                    "common",
                    country,
                    (c.name for c in world.countries),
                ),
                (("author", one.name), ("author", other.name), ("country", country)),
            )


ABOUT_AUTHORS = {"facts": _facts, "books": _books, "two_hop": _two_hop, "lists": _lists}


def _books_of(authors: tuple[Author, ...]) -> Iterator[Book]:
    return (book for author in authors for book in author.books)


def _wrong(world: World, of: str, what: str, true: str, others: Iterable[str]) -> tuple[str, ...]:
    pool = [value for value in dict.fromkeys(others) if value != true]
    return tuple(world.rng(f"wrong/{of}/{what}").sample(pool, WRONG))


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
