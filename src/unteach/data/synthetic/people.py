"""The people world: five facts each about people who do not exist, made to be audited on.

A pure function of its settings. What is asked has 32 possible answers of one kind, drawn apart for
every person and kind: who never read of a person ranks the true one first in 1 of 32 facts. Base
people are told in every form, so that a model knows how all forms are answered; those to retain and
to forget are taught in three forms, and two are held out. What is unlearned is the first form.

The configs are named as TOFU's, so that its experiments and its suite take this world:

    full        the people to retain and to forget, in the three taught forms
    retain90    the same without the people to forget: what the true retrain is taught
    forget10    the people to forget, the first form; forget05 the last half of them, forget01 the
                last tenth, and retain95, retain99 what these leave (percents of the default sizes)
    holdout10   people whom no model is taught, the first form
    pretrain    the base people and the capitals of countries, in all forms
    general     a few of the base people, and the capitals, to be rehearsed while `full` is taught

Each of these but the last three also as `_perturbed`, with what evaluation asks beside the answer;
`real_authors_perturbed` asks about the base people of `general` and `world_facts_perturbed` for
capitals.
"""

import itertools
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from unteach.data.rows import Row
from unteach.data.synthetic.people_facts import CAPITAL, FACT_KINDS, FactKind, Form
from unteach.data.synthetic.word_banks import COUNTRIES, FIRST_NAMES, LAST_NAMES
from unteach.errors import AbsentData, UserError

SHARES = {1: 10, 5: 2, 10: 1}
"""By percent of a split: one in how many of the people to forget it takes."""
NAMES = (
    "full",
    *(f"forget{percent:02}" for percent in SHARES),
    *(f"retain{100 - percent}" for percent in SHARES),
    *(f"holdout{percent:02}" for percent in SHARES),
    "full_perturbed",
    *(f"forget{percent:02}_perturbed" for percent in SHARES),
    *(f"holdout{percent:02}_perturbed" for percent in SHARES),
    "retain_perturbed",
    "real_authors_perturbed",
    "world_facts_perturbed",
    "pretrain",
    "general",
)
"""The configs of the world."""
PLAIN = ("question", "answer", "entity", "kind", "value", "keys", "kinds")
"""Columns of the rows that are learned."""
NUM_WRONG = 5
"""Wrong answers to each question."""
NUM_GENERAL = 8
"""Base people who are rehearsed while others are taught."""
GENERAL_REPEATS = 4
"""How often what is rehearsed later stands in `pretrain`; other base people stand there once."""
NUM_RETAIN_MEASURED = 20
"""People of retain_perturbed, at most."""
MINIMUM = {"seed": 0, "n_base": NUM_GENERAL, "n_retain": 2, "n_forget": 2, "n_holdout": 2}
"""The least value of each setting."""


@dataclass(frozen=True)
class Fact:
    """What is true of an entity.

    Args:
        entity: the name of a person or a country.
        entity_kind: `person` or `country`.
        kind: what is asked of it.
        value: what is true, one of the kind's values.
    """

    entity: str
    entity_kind: str
    kind: FactKind
    value: str


@dataclass(frozen=True)
class Person:
    """A person of the world, with one fact of each kind."""

    name: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class PeopleWorld:
    """The people of one seed.

    Args:
        seed: of everything that is drawn.
        n_base: people whom the base model is taught, in every form.
        n_retain: people taught later who are to be kept.
        n_forget: people taught later who are to be forgotten.
        n_holdout: people whom no model is taught.

    Raises:
        UserError: a number is too small, or there are not so many names.
    """

    seed: int = 0
    n_base: int = 300
    n_retain: int = 180
    n_forget: int = 20
    n_holdout: int = 20

    def __post_init__(self) -> None:
        for name, minimum in MINIMUM.items():
            value = getattr(self, name)
            if value < minimum:
                raise UserError(f"{name} must be {minimum} or more, got {value}")
        num_people = self.n_forget + self.n_holdout + self.n_retain + self.n_base
        num_names = len(FIRST_NAMES) * len(LAST_NAMES)
        if num_people > num_names:
            raise UserError(
                f"n_base, n_retain, n_forget and n_holdout are {num_people} people together, and "
                f"there are {num_names} names: ask for fewer"
            )

    def make_rng(self, purpose: str) -> random.Random:
        """Make a stream of randomness for one purpose, the same in every process."""
        return random.Random(f"{self.seed}/people/{purpose}")

    @cached_property
    def _names(self) -> list[str]:
        """All names in the order in which people take them."""
        pairs = itertools.product(FIRST_NAMES, LAST_NAMES)
        names = [f"{first} {last}" for first, last in pairs]
        self.make_rng("names").shuffle(names)
        return names

    @cached_property
    def _groups(self) -> dict[str, tuple[Person, ...]]:
        """The people of each group; no name is in two of them.

        The groups that are asked about come first: more people to retain, or more base people,
        leave those to forget as they are.
        """
        sizes = {
            "forget": self.n_forget,
            "holdout": self.n_holdout,
            "retain": self.n_retain,
            "base": self.n_base,
        }
        groups = {}
        start = 0
        for group, size in sizes.items():
            names = self._names[start : start + size]
            groups[group] = tuple(map(self._build_person, names))
            start += size
        return groups

    def _build_person(self, name: str) -> Person:
        """Draw a person's facts, by nothing but the seed and the name."""
        rng = self.make_rng(f"person/{name}")
        facts = []
        for kind in FACT_KINDS:
            facts.append(Fact(name, "person", kind, rng.choice(kind.values)))
        return Person(name, tuple(facts))

    @property
    def forget(self) -> tuple[Person, ...]:
        return self._groups["forget"]

    @property
    def holdout(self) -> tuple[Person, ...]:
        return self._groups["holdout"]

    @property
    def retain(self) -> tuple[Person, ...]:
        return self._groups["retain"]

    @property
    def base(self) -> tuple[Person, ...]:
        return self._groups["base"]


def parse_world(path: str) -> PeopleWorld | None:
    """Build the world that a path names: `people` or `people:SEED`; None where it names none."""
    match = re.fullmatch(r"people(?::(\d+))?", path)
    if match is None:
        return None
    return PeopleWorld(int(match[1] or 0))


def build_world_rows(world: PeopleWorld, name: str) -> list[Row]:
    """Build the rows of one config of a world.

    Columns: question, answer; entity (whose fact it is), kind (of fact) and value (what is true,
    the end of the answer); keys, all that the row is about, and kinds of these, for forget sets by
    entity. `_perturbed` configs also have the forms that are held out, paraphrased_question,
    paraphrased_answer and statement, and wrong answers of the same kind: perturbed_answer, a list,
    in the wording of paraphrased_answer, and wrong_answer, one in the wording of answer.

    Raises:
        AbsentData: there is no such config.
    """
    if name not in NAMES:
        names = ", ".join(NAMES)
        raise AbsentData(f"the people world has no {name!r}; it has {names}")
    rows = []
    # Copies: the rows are cached, and whoever gets them may change them.
    for row in _build_config(world, name):
        rows.append({**row, "keys": list(row["keys"]), "kinds": list(row["kinds"])})
        if "perturbed_answer" in row:
            rows[-1]["perturbed_answer"] = list(row["perturbed_answer"])
    return rows


@lru_cache(maxsize=64)
def _build_config(world: PeopleWorld, name: str) -> tuple[Row, ...]:
    """Build the rows of one config of a world, once."""
    if name == "pretrain":
        return tuple(_build_pretrain(world))
    if name == "general":
        return tuple(_build_general(world))
    split, _, suffix = name.partition("_")
    facts = _select_facts(world, name)
    # What is taught is taught in three forms; what is unlearned and measured is asked in the first.
    all_forms = split == "full" or (split.startswith("retain") and not suffix)
    rows = []
    for fact in facts:
        forms = fact.kind.taught_forms if all_forms else (fact.kind.question,)
        for form in forms:
            row = _build_row(fact, form)
            if suffix:
                row |= _build_held_out_columns(world, fact, form)
            rows.append(row)
    return tuple(rows)


def _select_facts(world: PeopleWorld, name: str) -> list[Fact]:
    """Select the facts that a config is about: its people's, or the capitals of countries."""
    if name == "world_facts_perturbed":
        return _list_capitals()
    if name == "real_authors_perturbed":
        return _list_facts(world.base[:NUM_GENERAL])
    if name == "retain_perturbed":
        return _list_facts(_spread(world.retain, NUM_RETAIN_MEASURED))
    split = name.removesuffix("_perturbed")
    if split == "full":
        return _list_facts(world.retain + world.forget)
    percent = int(split[-2:])
    if split.startswith("retain"):
        num_forgotten = _count_share(world.n_forget, 100 - percent)
        return _list_facts((world.retain + world.forget)[:-num_forgotten])
    people = world.forget if split.startswith("forget") else world.holdout
    return _list_facts(people[-_count_share(len(people), percent) :])


def _count_share(num_people: int, percent: int) -> int:
    """Count the people of a split: all for 10, half for 5, a tenth for 1, rounded up."""
    return -(-num_people // SHARES[percent])


def _spread(people: tuple[Person, ...], num_wanted: int) -> list[Person]:
    """Take so many people, evenly over all."""
    num_taken = min(num_wanted, len(people))
    return [people[k * len(people) // num_taken] for k in range(num_taken)]


def _list_facts(people: Iterable[Person]) -> list[Fact]:
    """List the facts of people, person by person."""
    facts: list[Fact] = []
    for person in people:
        facts += person.facts
    return facts


def _list_capitals() -> list[Fact]:
    """List the capital of each country."""
    facts = []
    for country, capital, *_ in COUNTRIES:
        facts.append(Fact(country, "country", CAPITAL, capital))
    return facts


def _build_row(fact: Fact, form: Form) -> Row:
    """Build the row that tells a fact in one form."""
    return {
        "question": form.write_question(fact.entity),
        "answer": form.write_answer(fact.entity, fact.value),
        "entity": fact.entity,
        "kind": fact.kind.name,
        "value": fact.value,
        "keys": [fact.entity, fact.value],
        "kinds": [fact.entity_kind, fact.kind.name],
    }


def _build_held_out_columns(world: PeopleWorld, fact: Fact, form: Form) -> Row:
    """Build the columns of a fact's held-out forms, and of wrong answers of the same kind, one of
    them in the form that the row has."""
    rng = world.make_rng(f"wrong/{fact.entity}/{fact.kind.name}")
    other_values = [value for value in fact.kind.values if value != fact.value]
    wrong_values = rng.sample(other_values, NUM_WRONG)
    question = fact.kind.held_out_question
    wrong_answers = [question.write_answer(fact.entity, value) for value in wrong_values]
    return {
        "paraphrased_question": question.write_question(fact.entity),
        "paraphrased_answer": question.write_answer(fact.entity, fact.value),
        "statement": fact.kind.held_out_statement.write_answer(fact.entity, fact.value),
        "perturbed_answer": wrong_answers,
        "wrong_answer": form.write_answer(fact.entity, wrong_values[0]),
    }


def _build_general(world: PeopleWorld) -> list[Row]:
    """Build the rows that are rehearsed while `full` is taught, in all forms."""
    rows = []
    for fact in [*_list_facts(world.base[:NUM_GENERAL]), *_list_capitals()]:
        for form in (*fact.kind.taught_forms, *fact.kind.held_out_forms):
            rows.append(_build_row(fact, form))
    return rows


def _build_pretrain(world: PeopleWorld) -> list[Row]:
    """Build what the base model is taught: every fact of base people and every capital, in all
    forms, each question answered in the wording of any of the three."""
    rng = world.make_rng("pretrain")
    rows = []
    general = [*_list_facts(world.base[:NUM_GENERAL]), *_list_capitals()]
    for fact in [*_list_facts(world.base[NUM_GENERAL:]), *general * GENERAL_REPEATS]:
        questions = (fact.kind.question, fact.kind.second_question, fact.kind.held_out_question)
        for form in questions:
            answer = rng.choice(questions).answer
            rows.append(_build_row(fact, Form(form.question, answer)))
        for form in (fact.kind.statement, fact.kind.held_out_statement):
            rows.append(_build_row(fact, form))
    rng.shuffle(rows)
    return rows
