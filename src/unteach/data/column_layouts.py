"""The ways to write a row: which columns a method's data needs, and how they are found in a
table."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unteach.config.overrides import spell_value
from unteach.data.io.tables import Table
from unteach.errors import UserError, find_nearest


@dataclass(frozen=True)
class ColumnLayout:
    """One way to write a row.

    Args:
        handler: the dataset that reads it.
        roles: what a column is for -> the handler's argument that takes its name.
        raw: the words are asked and answered as they are; False: through the model's template;
            None: nothing is asked.
        fixed: arguments of the handler that have one value in this layout.
        optional: the same as roles, for columns that a row may have.
        repeated: columns that repeat what this layout reads, so that they are no other way to read
            the rows.
    """

    handler: str
    roles: dict[str, str]
    raw: bool | None = True
    fixed: tuple[tuple[str, Any], ...] = ()
    optional: dict[str, str] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()

    def build_arguments(self, mapped: dict[str, str]) -> dict[str, Any]:
        """Build the handler's arguments; one that takes several columns has a list of them.

        Args:
            mapped: role -> the column that plays it, where that has another name.
        """
        arguments: dict[str, Any] = dict(self.fixed)
        for role, argument in self.roles.items():
            column = mapped.get(role, role)
            if argument in arguments:
                arguments[argument] = [arguments[argument], column]
            else:
                arguments[argument] = column
        return arguments

    def add_optional(self, columns: Sequence[str], mapped: dict[str, str]) -> "ColumnLayout":
        """Give the layout with those of its optional columns that the table has."""
        present = {}
        for role, argument in self.optional.items():
            if mapped.get(role, role) in columns:
                present[role] = argument
        # They are read with the question, which comes first.
        question, *others = self.roles
        roles = {question: self.roles[question], **present}
        for role in others:
            roles[role] = self.roles[role]
        return replace(self, roles=roles)

    def holds(self, other: "ColumnLayout") -> bool:
        """Whether it reads all that another layout reads, and more."""
        if set(other.roles) == set(self.roles):
            return False
        return set(other.roles) <= {*self.roles, *self.repeated}

    def takes(self, roles: Iterable[str]) -> bool:
        """Whether each of these roles is one of its own, or of its optional ones."""
        return set(roles) <= {*self.roles, *self.optional}

    def list_columns(self, mapped: dict[str, str]) -> list[str]:
        """List the columns that it reads."""
        return [mapped.get(role, role) for role in self.roles]

    def __str__(self) -> str:
        return " and ".join(self.roles)


QUESTIONS = (
    ("input", "output", True),
    ("prompt", "completion", True),
    ("prompt", "generation", True),
    ("question", "answer", False),
)
"""What the columns of a question and its answer are called, and whether both are raw."""
PROMPTS = {question: raw for question, _, raw in QUESTIONS}
"""What the column of a question is called -> whether it is raw."""
ASKED = (*PROMPTS, "instruction", "text")
"""What the column of a prompt that is not answered is called."""
CHATS = ("messages", "conversations")
"""What a column of conversations is called: OpenAI's turns, and ShareGPT's."""
TEXT_LABELS = (("text", "label"), ("input", "label"), ("input", "output"))
"""What the columns of a text and its label are called."""
TEXT = ColumnLayout("PretrainingDataset", {"text": "text_key"}, raw=None)
PAIR = {"chosen": "chosen_key", "rejected": "rejected_key"}
ALPACA_OPTIONAL = {"input": "input_key", "system": "system_key", "history": "history_key"}
"""What may stand beside an instruction of Alpaca's."""
CHAT_OPTIONAL = {"system": "system_key", "tools": "tools_key"}
"""What may stand beside a conversation."""


def _build_qa_layouts(handler: str, **roles: str) -> tuple[ColumnLayout, ...]:
    """Build the layouts of a question and its answer, with further columns."""
    layouts = []
    for question, answer, raw in QUESTIONS:
        qa_roles = {
            question: "question_key",
            answer: "answer_key",
            **roles,
        }
        layouts.append(ColumnLayout(handler, qa_roles, raw))
    alpaca_roles = {
        "instruction": "question_key",
        "output": "answer_key",
        **roles,
    }
    alpaca = ColumnLayout(
        handler,
        alpaca_roles,
        raw=False,
        optional=ALPACA_OPTIONAL,
        repeated=("text",),  # Stanford's own file has the whole prompt there
    )
    return (*layouts, alpaca)


def _build_answer_layouts() -> tuple[ColumnLayout, ...]:
    """Build the layouts of whatever SFT learns: answers, conversations, text."""
    chats = []
    for turns in CHATS:
        roles = {turns: "messages_key"}
        chats.append(
            ColumnLayout(
                "ChatDataset",
                roles,
                raw=False,
                optional=CHAT_OPTIONAL,
            )
        )
    return (*_build_qa_layouts("QADataset"), *chats, TEXT)


def _build_text_layouts() -> tuple[ColumnLayout, ...]:
    """Build the layouts of text: a column of it, or a question, alone or with its answer."""
    layouts = [TEXT]
    for question, answer, _ in QUESTIONS:
        roles = {question: "text_key", answer: "text_key"}
        layouts.append(ColumnLayout("PretrainingDataset", roles, raw=None))
    for question in PROMPTS:
        layouts.append(ColumnLayout("PretrainingDataset", {question: "text_key"}, raw=None))
    return tuple(layouts)


def _build_pair_layouts() -> tuple[ColumnLayout, ...]:
    """Build the layouts of a prompt with a chosen and a rejected answer."""
    handler = "PreferenceDataset"
    layouts = []
    for prompt, raw in PROMPTS.items():
        layouts.append(ColumnLayout(handler, {prompt: "prompt_key", **PAIR}, raw))
    alpaca_roles = {"instruction": "prompt_key", **PAIR}
    layouts.append(
        ColumnLayout(
            handler,
            alpaca_roles,
            raw=False,
            optional=ALPACA_OPTIONAL,
        )
    )
    for turns in CHATS:
        roles = {turns: "prompt_key", **PAIR}
        layouts.append(ColumnLayout(handler, roles, raw=False, optional=CHAT_OPTIONAL))
    layouts.append(
        ColumnLayout(
            handler,
            PAIR,
            raw=False,
            fixed=(("prompt_key", None),),
        )
    )
    return tuple(layouts)


def _build_feedback_layouts() -> tuple[ColumnLayout, ...]:
    """Build the layouts of a prompt with an answer and whether it was liked, or with a pair."""
    handler = "FeedbackDataset"
    layouts = []
    for prompt, answer, raw in QUESTIONS:
        roles = {prompt: "prompt_key", answer: "answer_key", "label": "label_key"}
        layouts.append(ColumnLayout(handler, roles, raw))
    for prompt, raw in PROMPTS.items():
        layouts.append(ColumnLayout(handler, {prompt: "prompt_key", **PAIR}, raw))
    labelled = {"instruction": "prompt_key", "output": "answer_key", "label": "label_key"}
    pairs = {"instruction": "prompt_key", **PAIR}
    for alpaca_roles in (labelled, pairs):
        layouts.append(
            ColumnLayout(
                handler,
                alpaca_roles,
                raw=False,
                optional=ALPACA_OPTIONAL,
            )
        )
    return tuple(layouts)


def _build_label_layouts(handler: str, argument: str) -> tuple[ColumnLayout, ...]:
    """Build the layouts of a text and its class or number."""
    layouts = []
    for text, label in TEXT_LABELS:
        layouts.append(ColumnLayout(handler, {text: "text_key", label: argument}, raw=None))
    return tuple(layouts)


LAYOUTS: dict[str, tuple[ColumnLayout, ...]] = {
    "answers": _build_answer_layouts(),
    "signed": _build_qa_layouts("QADataset", forget="forget_key"),
    "alternates": _build_qa_layouts("QAwithAlternateDataset", alternate="alternate_key"),
    "refusals": _build_qa_layouts("QAwithIdkDataset"),
    "text": _build_text_layouts(),
    "pairs": _build_pair_layouts(),
    "feedback": _build_feedback_layouts(),
    "prompts": tuple(ColumnLayout("PromptDataset", {name: "prompt_key"}, None) for name in ASKED),
    "classes": _build_label_layouts("LabelledDataset", "label_key"),
    "numbers": _build_label_layouts("ScoredDataset", "target_key"),
}
"""What a method's ROWS names, or what is read of a stream -> the ways to write them."""


def list_text_layouts(with_output: bool | None) -> tuple[ColumnLayout, ...]:
    """List the ways to write text.

    Args:
        with_output: whether an answer beside it is text too; None: it is.
    """
    layouts = LAYOUTS["text"]
    if with_output is False:
        text_alone = [layout for layout in layouts if len(layout.roles) == 1]
        return tuple(text_alone)
    return layouts


def name_column(role: str, column: str, key: str = "data.columns") -> str:
    """Write the word that names a column, as it can be pasted into a shell."""
    word = f"{key}.{role}={spell_value(column)}"
    if re.fullmatch(r"[\w./:%=-]+", word):
        return word
    # A shell changes these within double quotes.
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'


def list_columns(columns: Iterable[str]) -> str:
    """List columns by their names, in quotes where blanks stand round one."""
    names = []
    for column in columns:
        is_plain = column and column == column.strip()
        names.append(column if is_plain else repr(column))
    return ", ".join(names)


def explain_no_such_column(
    role: str,
    column: str,
    where: str,
    columns: Sequence[str],
    key: str = "data.columns",
) -> str:
    """Say that a column is named which the rows do not have."""
    guess = find_nearest(column, columns) or find_nearest(role, columns)
    hint = f"; did you mean {name_column(role, guess, key)}?" if guess else ""
    there_are = list_columns(columns)
    return f"{key}.{role}: {where}: no column {column!r}; its columns: {there_are}{hint}"


def find_layout(
    where: str,
    columns: Sequence[str],
    layouts: Iterable[ColumnLayout],
    mapped: dict[str, str],
    key: str = "data.columns",
) -> ColumnLayout:
    """Find the one layout that these columns have; of layouts within one another, the widest.

    Args:
        where: what messages call the rows.
        columns: the columns that the rows have.
        layouts: those that the method can read.
        mapped: role -> the column that plays it, where that has another name; a layout whose every
            column is named there is the one.
        key: what `mapped` is called in the configuration.

    Raises:
        UserError: says which columns there could be, with the nearest right name, or which layouts
            to choose from.
    """
    layouts = list(layouts)
    roles: set[str] = set()
    for layout in layouts:
        roles.update(layout.roles, layout.optional)
    _check_mapped(where, columns, sorted(roles), mapped, key)

    # Those that take all the named columns, if any do.
    taking = [layout for layout in layouts if layout.takes(mapped)]
    layouts = taking or layouts

    # Those whose columns are all there; of these one that is named whole is the one.
    fitting = []
    named_whole = []
    for layout in layouts:
        if set(layout.list_columns(mapped)) <= set(columns):
            fitting.append(layout)
            if set(layout.roles) == set(mapped):
                named_whole.append(layout)
    fitting = named_whole or fitting
    fitting = [layout.add_optional(columns, mapped) for layout in fitting]

    # Those that no other one holds.
    widest = []
    for layout in fitting:
        if not any(other.holds(layout) for other in fitting):
            widest.append(layout)

    if not widest:
        raise UserError(_explain_no_layout(where, columns, layouts, mapped, key))
    if len(widest) > 1:
        ways = ", or by ".join(map(str, widest))
        role = next(iter(widest[0].roles))
        word = name_column(role, mapped.get(role, role), key)
        raise UserError(f"{where}: could be read by {ways}; say which, as in {word}")
    return widest[0]


def _check_mapped(
    where: str,
    columns: Sequence[str],
    roles: Sequence[str],
    mapped: dict[str, str],
    key: str,
) -> None:
    """Refuse a named role that the method does not read, or a column that the rows do not have."""
    for role, column in mapped.items():
        if role not in roles:
            guess = find_nearest(role, roles)
            allowed = ", ".join(roles)
            hint = f"did you mean {guess}?" if guess else f"it may be {allowed}"
            raise UserError(f"{key}.{role}: this method reads no such column; {hint}")
        if column not in columns:
            raise UserError(explain_no_such_column(role, column, where, columns, key))


def note_unread(table: Table, read_columns: Iterable[str]) -> list[str]:
    """Say which columns of words nothing reads: a sentence, or none."""
    unread = [column for column in table.worded if column not in read_columns]
    if not unread:
        return []
    plural = "s" if len(unread) > 1 else ""
    names = ", ".join(unread)
    return [f"{table.where}: nothing reads its text column{plural} {names}"]


def _explain_no_layout(
    where: str,
    columns: Sequence[str],
    layouts: list[ColumnLayout],
    mapped: dict[str, str],
    key: str,
) -> str:
    """Say which columns the nearest layout lacks, and which of the table's may be meant.

    The arguments are those of `find_layout`.
    """

    def list_lacking(layout: ColumnLayout) -> list[str]:
        return [role for role in layout.roles if mapped.get(role, role) not in columns]

    def measure_lack(layout: ColumnLayout) -> float:
        return len(list_lacking(layout)) / len(layout.roles)

    nearest_layout = min(layouts, key=measure_lack)
    lacking = list_lacking(nearest_layout)
    guesses = []
    for role in lacking:
        guess = find_nearest(role, columns)
        if guess:
            guesses.append(name_column(role, guess, key))
    hint = f"say which it is: {key}.{lacking[0]}=NAME"
    if guesses:
        words = " ".join(guesses)
        hint = f"did you mean {words}?"
    ways = ", or ".join(dict.fromkeys(map(str, layouts)))
    there_are = list_columns(columns)
    return f"{where}: needs the columns {ways}; it has {there_are}; {hint}"
