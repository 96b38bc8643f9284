"""Conversations: every turn of the assistant is learned, exactly as the model will be asked for
it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from unteach.data.chat_tokens import encode_chat
from unteach.data.conversations import (
    ASSISTANT,
    UNSHOWN,
    BadConversation,
    Message,
    Tools,
    is_learned,
    read_conversation,
    read_tools,
    says_nothing,
)
from unteach.data.handlers.qa import DEFERRED, Example, RowDataset
from unteach.data.io import sources, tables
from unteach.data.template import is_shown
from unteach.data.truncation import TooLong
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.wording import counted


@dataset
@dataclass
class ChatDataset(RowDataset):
    """Conversations, shown by the model's chat template: lists of {role, content} (in a csv, as
    JSON), or ShareGPT's of {from, value}. A turn of the assistant with `weight` 0 is read and not
    learned.

    system_key, tools_key: columns of the system prompt, and of the tools that may be called, where
    rows have such.
    turns: `all` learns every turn of the assistant, each with its end of turn; `last` only the last
    one, after all others. too_long: what becomes of a conversation of more than max_length tokens
    (see data/fitting.py).
    """

    messages_key: str = "messages"
    system_key: str | None = None
    tools_key: str | None = None
    max_length: int = 2048
    turns: Literal["all", "last"] = "all"
    too_long: TooLong = "truncate_right"
    unshown: dict[str, list[int]] = field(init=False, default_factory=dict)
    """keys of turns that hold text which the chat template does not show -> their rows"""

    def __post_init__(self) -> None:
        self.questions: dict[int, tuple[str, str]] = {}
        self.with_context: set[int] = set()
        conversations = []
        for number, (cell, system, tools) in enumerate(
            self.load(self.messages_key, gaps=(self.system_key, self.tools_key))
        ):
            if read := self._read(number, cell, system, tools):
                conversations.append((number, *read))
                self.questions[number] = last_question(read[0])
                if read[1] or len(read[0]) > 2:
                    self.with_context.add(number)
        self.faults.refuse()
        deferred = [row for row in conversations if self.is_deferred(row[0])]
        self.deferred = {number: (messages, tools) for number, messages, tools in deferred}
        built = [
            example
            for row in conversations
            if row[0] not in self.deferred
            for example in self.build(*row)
        ]
        self.keep([*built, *({"index": number, DEFERRED: True} for number in self.deferred)])

    def encode_deferred(self, index: int) -> list[Example]:
        return self.build(index, *self.deferred[index])

    def text(self, row: int) -> tuple[str, str]:
        """The last question and answer of an example's conversation, as they were given."""
        return self.questions[self.examples[row]["index"]]

    def context_place(self, row: int) -> str | None:
        """Where an example stands that has more before its last answer than the one question; else
        None."""
        index = self.examples[row]["index"]
        return (
            sources.place(self.faults.rows, index, self.where)
            if index in self.with_context
            else None
        )

    def _read(
        self, number: int, cell: object, system: object, tools: Any
    ) -> tuple[list[Message], Tools] | None:
        """The turns of a row and its tools; None, and noted, where it is none."""
        if tables.missing(cell) or cell == []:
            self.faults.drop(f"nothing in {self.messages_key}", number)
            return None
        column = self.messages_key
        try:
            messages = read_conversation(cell, system)
            column = str(self.tools_key)
            callable_tools = read_tools(tools)
        except BadConversation as error:
            self.faults.add(f"{column} {error}", number)
            return None
        learned = [message for message in messages if is_learned(message)]
        if not learned:
            all_read = any(message["role"] == ASSISTANT for message in messages)
            self.faults.drop(
                f"no turn of the assistant{' has weight 1' if all_read else ''}", number
            )
            return None
        # To learn an empty turn would be to learn to say nothing.
        if any(
            says_nothing(message) for message in (learned[-1:] if self.turns == "last" else learned)
        ):
            self.faults.drop("nothing in a turn of the assistant", number)
            return None
        return messages, callable_tools

    def build(self, number: int, messages: list[Message], tools: Tools) -> list[Example]:
        messages, tools = self.template.hide_all(messages), self.template.hide_all(tools)
        try:
            pieces = encode_chat(self.template, messages, last=self.turns == "last", tools=tools)
        except UserError as error:
            self.faults.add(str(error), number)
            return []
        self._note_unshown(number, messages, tools)
        ids = [token for tokens, _ in pieces for token in tokens]
        labels = [token if learned else -100 for tokens, learned in pieces for token in tokens]
        return self.fitted(ids, labels, number, self.max_length, self.too_long)

    def _note_unshown(self, number: int, messages: list[Message], tools: Tools) -> None:
        said = {key for message in messages for key in message if key not in UNSHOWN}
        shown = (
            self.template.shown(messages, add_generation_prompt=False, tools=tools) if said else ""
        )
        for key in sorted(said):
            values = [message[key] for message in messages if key in message]
            if not all(is_shown(value, shown) for value in values if isinstance(value, str)):
                self.unshown.setdefault(key, []).append(number)

    def notes(self) -> list[str]:
        told = super().notes()
        for key, numbers in self.unshown.items():
            rows = counted(len(numbers), "row")
            told.append(
                f"{rows} with {key} in a turn, which the chat template does not show "
                f"({self.faults.listed(numbers)})"
            )
        return told


def last_question(messages: list[Message]) -> tuple[str, str]:
    """The last answer of a conversation that is learned, after what was said just before it."""
    answer = max(place for place, message in enumerate(messages) if is_learned(message))
    asked = messages[answer - 1].get("content") if answer else ""
    return asked or "", messages[answer].get("content") or ""
