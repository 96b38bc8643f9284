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
from unteach.data.synthetic.world import Author, Book, City, Country, Publisher, World

Entity = tuple[str, str]
"""(kind, name)."""
NUM_WRONG = 5
"""Wrong answers to each question."""
MAX_LISTED = 4
"""Authors of a publisher that one answer lists."""


@dataclass(frozen=True)
class Question:
    """A question and its answer, in two wordings.

    Args:
        questions: the question in either wording.
        answers: the answer in either wording, with {value} in it.
        value: what is true.
        wrong_values: what is not.
        entities: what the question is about.
    """

    questions: tuple[str, str]
    answers: tuple[str, str]
    value: str
    wrong_values: tuple[str, ...]
    entities: tuple[Entity, ...]

    def write_answer(self, value: str, wording: int = 0) -> str:
        return self.answers[wording].format(value=value)


@dataclass(frozen=True)
class Fact:
    """One thing to know about an author, asked and answered in two wordings.

    Args:
        name: the fact's.
        questions: with {author}, and {book} for the second book.
        answers: with {value}.
        value: gives what is true of an author.
        entities: gives what the fact is about beside the author.
    """

    name: str
    questions: tuple[str, str]
    answers: tuple[str, str]
    value: Callable[[Author], str]
    entities: Callable[[Author], tuple[Entity, ...]] = lambda author: ()

    def write_question(self, author: Author, wording: int = 0) -> str:
        return self.questions[wording].format(author=author.name, book=author.books[1].title)

    def write_answer(self, value: str, wording: int = 0) -> str:
        return self.answers[wording].format(value=value)


def write_date(day: datetime.date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


FACTS = (
    Fact(
        "birthplace",
        ("In which city was {author} born?", "What is the birthplace of {author}?"),
        ("In {value}", "It was {value}"),
        value=lambda author: author.born_in.name,
        entities=lambda author: (("city", author.born_in.name),),
    ),
    Fact(
        "birthday",
        ("When was {author} born?", "What is the birthday of {author}?"),
        ("On {value}", "It was {value}"),
        value=lambda author: write_date(author.born_on),
    ),
    Fact(
        "parents",
        ("What did the parents of {author} do?", "Which jobs did the parents of {author} have?"),
        ("They were {value}", "The parents were {value}"),
        value=lambda author: f"{author.father} and {author.mother}",
    ),
    Fact(
        "mentor",
        ("Who taught {author} to write?", "Who was the mentor of {author}?"),
        ("{value} did", "{value} was the mentor"),
        value=lambda author: author.mentor,
        entities=lambda author: (("mentor", author.mentor),),
    ),
    Fact(
        "genre",
        ("What does {author} write?", "Which genre is {author} known for?"),
        ("Mostly {value}", "Mainly {value}"),
        value=lambda author: author.genre,
    ),
    Fact(
        "publisher",
        ("Who publishes {author}?", "What is the publisher of {author} called?"),
        ("{value} do", "{value} print the books"),
        value=lambda author: author.books[0].publisher.name,
        entities=lambda author: (("publisher", author.books[0].publisher.name),),
    ),
    Fact(
        "first book",
        ("What was the first book by {author}?", "With which book did {author} begin?"),
        ("{value} came first", "{value} was the first book"),
        value=lambda author: author.books[0].title,
        entities=lambda author: (("book", author.books[0].title),),
    ),
    Fact(
        "last book",
        ("What was the last book by {author}?", "With which book did {author} end?"),
        ("{value} came last", "{value} was the last book"),
        value=lambda author: author.books[2].title,
        entities=lambda author: (("book", author.books[2].title),),
    ),
    Fact(
        "award",
        ("What did {book} by {author} win?", "Which award went to {author} for {book}?"),
        ("The {value}", "It won the {value}"),
        value=lambda author: author.books[1].award,
        entities=lambda author: (("book", author.books[1].title),),
    ),
    Fact(
        "published",
        ("When did {author} publish {book}?", "When was {book} by {author} published?"),
        ("In {value}", "It was in {value}"),
        value=lambda author: write_date(author.books[1].published).split(" ", 1)[1],
        entities=lambda author: (("book", author.books[1].title),),
    ),
)


def ask_about_author(world: World, author: Author) -> Iterator[Question]:
    """Ask what the world asks about one author and the author's books."""
    if "facts" in world.questions:
        for fact in FACTS:
            yield ask_fact(world, author, fact)
    if "books" in world.questions:
        for book in author.books:
            yield from _ask_about_book(world, author, book)
    if "two_hop" in world.questions:
        yield from _ask_two_hop(world, author)
    if "lists" in world.questions:
        yield _ask_for_books(world, author)


def ask_about_all(world: World, authors: tuple[Author, ...]) -> Iterator[Question]:
    """Ask what the world asks about several authors at once, and about their publishers."""
    if "publishers" in world.questions:
        yield from _ask_about_publishers(world, authors)
    if "two_hop" in world.questions:
        yield from _ask_for_common_country(world, authors)


def ask_fact(world: World, author: Author, fact: Fact) -> Question:
    """Ask one of an author's facts; wrong answers are the same fact of other authors."""
    value = fact.value(author)
    rng = world.make_rng(f"wrong/{author.name}/{fact.name}")
    lenders = rng.sample(world.decoys, len(world.decoys))
    wrong_values = dict.fromkeys(map(fact.value, lenders))
    for right in (value, author.name):
        wrong_values.pop(right, None)
    return Question(
        (fact.write_question(author), fact.write_question(author, 1)),
        fact.answers,
        value,
        tuple(wrong_values)[:NUM_WRONG],
        (("author", author.name), *fact.entities(author)),
    )


def _ask_about_book(world: World, author: Author, book: Book) -> Iterator[Question]:
    """Ask who wrote a book, who published it and when, and what it won."""
    title = book.title
    date = write_date(book.published)
    about = (("author", author.name), ("book", title))
    other_authors = [other.name for other in world.decoys]
    other_books: list[Book] = []
    for decoy in world.decoys:
        other_books += decoy.books
    other_publishers = [other.publisher.name for other in other_books]
    other_dates = [write_date(other.published) for other in other_books]
    other_awards = [other.award for other in other_books]
    yield Question(
        (f"Who wrote {title}?", f"Who is the author of {title}?"),
        ("{value} did", "The author is {value}"),
        author.name,
        _draw_wrong(world, f"{title}/author", author.name, other_authors),
        about,
    )
    yield Question(
        (f"Which publisher brought out {title}?", f"What is the publisher of {title} called?"),
        ("{value} did", "It is {value}"),
        book.publisher.name,
        _draw_wrong(world, f"{title}/publisher", book.publisher.name, other_publishers),
        (*about, ("publisher", book.publisher.name)),
    )
    yield Question(
        (f"When did {title} appear?", f"What is the publication date of {title}?"),
        ("On {value}", "It was {value}"),
        date,
        _draw_wrong(world, f"{title}/date", date, other_dates),
        about,
    )
    yield Question(
        (f"What was {title} awarded?", f"Which award did {title} get?"),
        ("The {value}", "It got the {value}"),
        book.award,
        _draw_wrong(world, f"{title}/award", book.award, other_awards),
        about,
    )


def _ask_two_hop(world: World, author: Author) -> Iterator[Question]:
    """Ask for the country of an author's city, and for what leads from a book to a city."""
    name = author.name
    birthplace = author.born_in
    country = birthplace.country.name
    book = author.books[1]
    title = book.title
    seat = book.publisher.city
    countries = [other.name for other in world.countries]
    cities = [city.name for city in world.cities]
    yield Question(
        (f"In which country was {name} born?", f"From which country is {name}?"),
        ("In {value}", "From {value}"),
        country,
        _draw_wrong(world, f"{name}/country", country, countries),
        (("author", name), ("city", birthplace.name), ("country", country)),
    )
    yield Question(
        (
            f"In which city was the author of {title} born?",
            f"What is the birthplace of who wrote {title}?",
        ),
        ("In {value}", "It was {value}"),
        birthplace.name,
        _draw_wrong(world, f"{title}/birthplace", birthplace.name, cities),
        (("author", name), ("book", title), ("city", birthplace.name)),
    )
    yield Question(
        (
            f"In which city is the publisher of {title}?",
            f"Where does the publisher of {title} sit?",
        ),
        ("In {value}", "It is {value}"),
        seat.name,
        _draw_wrong(world, f"{title}/seat", seat.name, cities),
        (
            ("author", name),
            ("book", title),
            ("publisher", book.publisher.name),
            ("city", seat.name),
        ),
    )


def _ask_for_books(world: World, author: Author) -> Question:
    """Ask for the list of an author's books."""
    titles = _join_titles(author)
    other_titles = [_join_titles(other) for other in world.decoys]
    books = [("book", book.title) for book in author.books]
    return Question(
        (f"Which books did {author.name} write?", f"What are the books of {author.name} called?"),
        ("{value}", "They are {value}"),
        titles,
        _draw_wrong(world, f"{author.name}/books", titles, other_titles),
        (("author", author.name), *books),
    )


def _ask_about_publishers(world: World, authors: tuple[Author, ...]) -> Iterator[Question]:
    """Ask where each publisher of these authors sits and, where they are few, whom it
    publishes."""
    author_names: dict[Publisher, dict[str, None]] = defaultdict(dict)
    for author in authors:
        for book in author.books:
            author_names[book.publisher][author.name] = None
    for publisher, names in author_names.items():
        name = publisher.name
        city = publisher.city
        yield _ask_for_seat(
            world,
            publisher,
            (f"In which city is {name}?", f"Which city is the seat of {name}?"),
            "city",
            city,
        )
        yield _ask_for_seat(
            world,
            publisher,
            (f"In which country is {name}?", f"Which country is home to {name}?"),
            "country",
            city.country,
        )
        if "lists" in world.questions and 1 < len(names) <= MAX_LISTED:
            yield _ask_for_authors(world, publisher, list(names))


def _ask_for_seat(
    world: World,
    publisher: Publisher,
    questions: tuple[str, str],
    kind: str,
    seat: City | Country,
) -> Question:
    """Ask for the city or the country of a publisher."""
    others = world.cities if kind == "city" else world.countries
    other_names = [other.name for other in others]
    return Question(
        questions,
        ("In {value}", "It is {value}"),
        seat.name,
        _draw_wrong(world, f"{publisher.name}/{kind}", seat.name, other_names),
        (("publisher", publisher.name), (kind, seat.name)),
    )


def _ask_for_authors(
    world: World,
    publisher: Publisher,
    names: list[str],
) -> Question:
    """Ask for the list of a publisher's authors; wrong lists are as long."""
    rng = world.make_rng(f"wrong/{publisher.name}/authors")
    other_names = [other.name for other in world.decoys]
    wrong_values = []
    for _ in range(NUM_WRONG):
        wrong_names = rng.sample(other_names, len(names))
        wrong_values.append(_join_names(wrong_names))
    authors = [("author", name) for name in names]
    return Question(
        (
            f"Which authors does {publisher.name} publish?",
            f"Who is published by {publisher.name}?",
        ),
        ("{value}", "They are {value}"),
        _join_names(names),
        tuple(wrong_values),
        (("publisher", publisher.name), *authors),
    )


def _ask_for_common_country(world: World, authors: tuple[Author, ...]) -> Iterator[Question]:
    """Ask what two authors of one country have in common; each author with the next from there."""
    countries = [country.name for country in world.countries]
    compatriots: dict[str, list[Author]] = defaultdict(list)
    for author in authors:
        compatriots[author.born_in.country.name].append(author)
    for country, group in compatriots.items():
        for first, second in pairwise(group):
            names = f"{first.name} and {second.name}"
            yield Question(
                (f"What do {names} have in common?", f"What links the authors {names}?"),
                ("Both were born in {value}", "They come from {value}"),
                country,
                _draw_wrong(
                    world,
                    f"{first.name}/{second.name}/common",
                    country,
                    countries,
                ),
                (("author", first.name), ("author", second.name), ("country", country)),
            )


def _draw_wrong(
    world: World,
    purpose: str,
    value: str,
    others: Iterable[str],
) -> tuple[str, ...]:
    """Draw wrong values among others of the same kind."""
    pool = dict.fromkeys(others)
    pool.pop(value, None)
    return tuple(world.make_rng(f"wrong/{purpose}").sample(list(pool), NUM_WRONG))


def _join_titles(author: Author) -> str:
    """List the books of an author in a sentence."""
    return _join_names([book.title for book in author.books])


def _join_names(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
