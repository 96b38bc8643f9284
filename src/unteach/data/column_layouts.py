"""The ways to write a row: which columns a method's data needs, and how they are found in a
table."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unteach.config.overrides import spell_value
from unteach.data.io import tables
from unteach.errors import UserError, nearest


@dataclass(frozen=True)
class ColumnLayout:
    """One way to write a row.

    roles: what a column is for -> the handler's argument that takes its name. raw: the words are
    asked and answered as they are; False: through the model's template; None: nothing is asked.
    """

    handler: str
    roles: dict[str, str]
    raw: bool | None = True
    fixed: tuple[tuple[str, Any], ...] = ()
    """arguments of the handler that are so in this form"""
    optional: dict[str, str] = field(default_factory=dict)
    """the same as roles, for columns that a row may have"""
    beside: tuple[str, ...] = ()
    """columns that repeat what this form reads, so that they are no other way to read the rows"""

    def arguments(self, mapped: dict[str, str]) -> dict[str, Any]:
        """The handler's arguments; one that takes several columns has a list of them."""
        found: dict[str, Any] = dict(self.fixed)
        for role, argument in self.roles.items():
            column = mapped.get(role, role)
            found[argument] = [found[argument], column] if argument in found else column
        return found

    def with_optional(self, columns: Sequence[str], mapped: dict[str, str]) -> "ColumnLayout":
        """The form with those of its optional columns that are there."""
        there = {
            role: argument
            for role, argument in self.optional.items()
            if mapped.get(role, role) in columns
        }
        (first, argument), *others = self.roles.items()
        return replace(self, roles={first: argument, **there, **dict(others)})

    def holds(self, other: "ColumnLayout") -> bool:
        """Whether it reads all that another form reads, and more."""
        return set(other.roles) != set(self.roles) and set(other.roles) <= {
            *self.roles,
            *self.beside,
        }

    def columns(self, mapped: dict[str, str]) -> list[str]:
        """The columns that it reads."""
        return [mapped.get(role, role) for role in self.roles]

    def __str__(self) -> str:
        return " and ".join(self.roles)


ASKED = (
    ("input", "output", True),
    ("prompt", "completion", True),
    ("prompt", "generation", True),
    ("question", "answer", False),
)
"""What a column that is asked is called, what its answer is, and whether the two are taken as they
are."""
QUESTIONS = tuple({asked: raw for asked, _, raw in ASKED}.items())
BEFORE = {"system": "system_key", "history": "history_key"}
"""What may stand before an instruction of Alpaca's."""
ALPACA = ColumnLayout(
    "QADataset",
    {"instruction": "question_key", "output": "answer_key"},
    raw=False,
    optional={"input": "input_key", **BEFORE},
    beside=("text",),  # Stanford's own file has the whole prompt there
)
ANSWERS = (
    *(
        ColumnLayout("QADataset", {asked: "question_key", answer: "answer_key"}, raw)
        for asked, answer, raw in ASKED
    ),
    ALPACA,
)
CHATS = ("messages", "conversations")
"""What a column of conversations is called: OpenAI's turns, and ShareGPT's."""
AROUND = {"system": "system_key", "tools": "tools_key"}
"""What may stand beside a conversation."""
TEXT = ColumnLayout("PretrainingDataset", {"text": "text_key"}, None)

TOLD = (("text", "label"), ("input", "label"), ("input", "output"))
"""What a text is called, and what is told of it."""


PAIR = {"chosen": "chosen_key", "rejected": "rejected_key"}


def _also(form: ColumnLayout, handler: str, **roles: str) -> ColumnLayout:
    return replace(form, handler=handler, roles={**form.roles, **roles})


FORMS: dict[str, tuple[ColumnLayout, ...]] = {
    "answers": (
        *ANSWERS,
        *(
            ColumnLayout("ChatDataset", {turns: "messages_key"}, False, optional=AROUND)
            for turns in CHATS
        ),
        TEXT,
    ),
    "signed": tuple(_also(form, "QADataset", forget="forget_key") for form in ANSWERS),
    "alternates": tuple(
        _also(form, "QAwithAlternateDataset", alternate="alternate_key") for form in ANSWERS
    ),
    "refusals": tuple(_also(form, "QAwithIdkDataset") for form in ANSWERS),
    "text": (
        TEXT,
        *(
            ColumnLayout("PretrainingDataset", {asked: "text_key", answer: "text_key"}, None)
            for asked, answer, _ in ASKED
        ),
        *(ColumnLayout("PretrainingDataset", {asked: "text_key"}, None) for asked, _ in QUESTIONS),
    ),
    "pairs": (
        *(
            ColumnLayout("PreferenceDataset", {asked: "prompt_key", **PAIR}, raw)
            for asked, raw in QUESTIONS
        ),
        ColumnLayout(
            "PreferenceDataset",
            {"instruction": "prompt_key", **PAIR},
            raw=False,
            optional={"input": "input_key", **BEFORE},
        ),
        *(
            ColumnLayout("PreferenceDataset", {turns: "prompt_key", **PAIR}, False, optional=AROUND)
            for turns in CHATS
        ),
        ColumnLayout("PreferenceDataset", PAIR, False, (("prompt_key", None),)),
    ),
    "feedback": (
        *(
            ColumnLayout(
                "FeedbackDataset",
                {asked: "prompt_key", answer: "answer_key", "label": "label_key"},
                raw,
            )
            for asked, answer, raw in ASKED
        ),
        *(
            ColumnLayout("FeedbackDataset", {asked: "prompt_key", **PAIR}, raw)
            for asked, raw in QUESTIONS
        ),
        ColumnLayout(
            "FeedbackDataset",
            {"instruction": "prompt_key", "output": "answer_key", "label": "label_key"},
            raw=False,
            optional={"input": "input_key", **BEFORE},
        ),
        ColumnLayout(
            "FeedbackDataset",
            {"instruction": "prompt_key", **PAIR},
            raw=False,
            optional={"input": "input_key", **BEFORE},
        ),
    ),
    "classes": tuple(
        ColumnLayout("LabelledDataset", {text: "text_key", label: "label_key"}, None)
        for text, label in TOLD
    ),
    "numbers": tuple(
        ColumnLayout("ScoredDataset", {text: "text_key", label: "target_key"}, None)
        for text, label in TOLD
    ),
}
"""What a method's ROWS names -> the ways to write them."""


def of_text(with_output: bool | None) -> tuple[ColumnLayout, ...]:
    """The ways to write text; with_output: whether an answer beside it is text too (null: it
    is)."""
    return tuple(form for form in FORMS["text"] if with_output is not False or len(form.roles) == 1)


def name_column(role: str, column: str, key: str = "data.columns") -> str:
    """Write the word that names a column, as it can be pasted into a shell."""
    word = f"{key}.{role}={spell_value(column)}"
    if re.fullmatch(r"[\w./:%=-]+", word):
        return word
    # A shell changes these within double quotes.
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'


def list_columns(columns: Iterable[str]) -> str:
    """List columns by their names, in quotes where blanks stand round one."""
    return ", ".join(
        column if column and column == column.strip() else repr(column) for column in columns
    )


def no_such_column(
    role: str, column: str, where: str, columns: Sequence[str], key: str = "data.columns"
) -> str:
    """What is said where a column is named that the rows do not have."""
    guess = nearest(column, columns) or nearest(role, columns)
    hint = f"; did you mean {name_column(role, guess, key)}?" if guess else ""
    return (
        f"{key}.{role}: {where}: no column {column!r}; its columns: {list_columns(columns)}{hint}"
    )


def find(
    where: str,
    columns: Sequence[str],
    forms: Iterable[ColumnLayout],
    mapped: dict[str, str],
    key: str = "data.columns",
) -> ColumnLayout:
    """The one form that these columns have; of forms within one another, the widest.

    mapped: role -> the column that plays it, where that has another name; a form whose every column
    is named there is the one. key: what `mapped` is called in the configuration. Raises UserError
    that says which columns there could be, with the nearest right name, or which forms to choose
    from.
    """
    forms = list(forms)
    roles = sorted({role for form in forms for role in (*form.roles, *form.optional)})
    for role, column in mapped.items():
        if role not in roles:
            guess = nearest(role, roles)
            hint = f"did you mean {guess}?" if guess else f"it may be {', '.join(roles)}"
            raise UserError(f"{key}.{role}: this method reads no such column; {hint}")
        if column not in columns:
            raise UserError(no_such_column(role, column, where, columns, key))
    forms = [form for form in forms if set(mapped) <= {*form.roles, *form.optional}] or forms
    fitting = [form for form in forms if all(column in columns for column in form.columns(mapped))]
    fitting = [form for form in fitting if set(form.roles) == set(mapped)] or fitting
    fitting = [form.with_optional(columns, mapped) for form in fitting]
    widest = [form for form in fitting if not any(other.holds(form) for other in fitting)]
    if not widest:
        raise UserError(_nothing_fits(where, columns, forms, mapped, key))
    if len(widest) > 1:
        ways, role = ", or by ".join(map(str, widest)), next(iter(widest[0].roles))
        word = name_column(role, mapped.get(role, role), key)
        raise UserError(f"{where}: could be read by {ways}; say which, as in {word}")
    return widest[0]


def note_unread(table: tables.Table, read: Iterable[str]) -> list[str]:
    """What there is to say about columns of words that nothing reads, if anything."""
    left = [column for column in table.worded if column not in read]
    if not left:
        return []
    return [
        f"{table.where}: nothing reads its text column{'s' if len(left) > 1 else ''} "
        f"{', '.join(left)}"
    ]


def _nothing_fits(
    where: str, columns: Sequence[str], forms: list[ColumnLayout], mapped: dict[str, str], key: str
) -> str:
    def lacking(form: ColumnLayout) -> list[str]:
        return [role for role in form.roles if mapped.get(role, role) not in columns]

    best = min(forms, key=lambda form: len(lacking(form)) / len(form.roles))
    guesses = [
        name_column(role, guess, key) for role in lacking(best) if (guess := nearest(role, columns))
    ]
    hint = (
        f"did you mean {' '.join(guesses)}?"
        if guesses
        else f"say which it is: {key}.{lacking(best)[0]}=NAME"
    )
    ways = ", or ".join(dict.fromkeys(map(str, forms)))
    return f"{where}: needs the columns {ways}; it has {list_columns(columns)}; {hint}"
