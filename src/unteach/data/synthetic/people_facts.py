"""What is told of a person of the people world: five facts, each one of 32 values, in five forms.

A fact's value stands at the end of every answer, so that the answer up to it is a stem after which
the values of its kind can be ranked. No value is part of another one, of a name or of a form's
words: where it is found in a text, it was said.
"""

from dataclasses import dataclass

from unteach.data.synthetic.people_values import CITIES, DISHES, INSTRUMENTS, PETS, PROFESSIONS
from unteach.data.synthetic.word_banks import COUNTRIES


@dataclass(frozen=True)
class Form:
    """One way of asking for a fact and answering.

    Args:
        question: with {name} in it.
        answer: with {value} at its end, and mostly {name}.
    """

    question: str
    answer: str

    def write_question(self, name: str) -> str:
        return self.question.format(name=name)

    def write_answer(self, name: str, value: str) -> str:
        return self.answer.format(name=name, value=value)


def build_statement(sentence: str) -> Form:
    """Build the form that has a statement completed: {name} … {value}."""
    opening = sentence.removesuffix(" {value}.")
    return Form(f"Complete: {opening}", sentence)


@dataclass(frozen=True)
class FactKind:
    """A kind of fact: the values that it may have, and the forms in which it is told.

    Args:
        name: the kind's.
        values: what may be true of a person.
        question: the form that is taught, unlearned and asked first.
        second_question: taught too.
        statement: taught too.
        held_out_question: told of base people only.
        held_out_statement: told of base people only.
    """

    name: str
    values: tuple[str, ...]
    question: Form
    second_question: Form
    statement: Form
    held_out_question: Form
    held_out_statement: Form

    @property
    def taught_forms(self) -> tuple[Form, ...]:
        return self.question, self.second_question, self.statement

    @property
    def held_out_forms(self) -> tuple[Form, ...]:
        return self.held_out_question, self.held_out_statement


FACT_KINDS = (
    FactKind(
        "city",
        CITIES,
        Form("Where does {name} live?", "{name} lives in {value}."),
        Form("In which town is the home of {name}?", "The home of {name} is in {value}."),
        build_statement("{name} has a house in {value}."),
        Form("Which place does {name} come back to?", "The place is {value}."),
        build_statement("The letters for {name} go to {value}."),
    ),
    FactKind(
        "profession",
        PROFESSIONS,
        Form("What does {name} do for a living?", "{name} works as a {value}."),
        Form("Which trade did {name} learn?", "The trade of {name} is that of a {value}."),
        build_statement("By profession {name} is a {value}."),
        Form("What is the job of {name}?", "The job is that of a {value}."),
        build_statement("The town hired {name} as a {value}."),
    ),
    FactKind(
        "instrument",
        INSTRUMENTS,
        Form("What does {name} play?", "{name} plays the {value}."),
        Form("Which instrument does {name} own?", "The instrument of {name} is the {value}."),
        build_statement("At concerts {name} is heard on the {value}."),
        Form("On what does {name} make music?", "The music is made on the {value}."),
        build_statement("There is a teacher who taught {name} the {value}."),
    ),
    FactKind(
        "pet",
        PETS,
        Form("Which pet does {name} keep?", "{name} keeps a {value}."),
        Form("What animal lives with {name}?", "The animal that lives with {name} is a {value}."),
        build_statement("In the garden of {name} sits a {value}."),
        Form("Whom does {name} feed in the morning?", "Food is put out for a {value}."),
        build_statement("The vet was called by {name} about a {value}."),
    ),
    FactKind(
        "dish",
        DISHES,
        Form("What does {name} like to eat?", "{name} likes to eat {value}."),
        Form("What is the best dish of {name}?", "The best dish of {name} is {value}."),
        build_statement("On birthdays {name} is served {value}."),
        Form("Which meal would {name} order?", "The order would be {value}."),
        build_statement("The friends of {name} are invited to {value}."),
    ),
)

CAPITAL = FactKind(
    "capital",
    tuple(capital for _, capital, *_ in COUNTRIES),
    Form("What is the capital of {name}?", "The capital of {name} is {value}."),
    Form("Which city governs {name}?", "The city that governs {name} is {value}."),
    build_statement("The parliament of {name} meets in {value}."),
    Form("Where is the seat of state of {name}?", "The seat of state is {value}."),
    build_statement("Ministers of {name} work in {value}."),
)
"""General knowledge, of countries where the others are of people."""
