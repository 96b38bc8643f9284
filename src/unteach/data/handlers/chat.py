"""Conversations: every turn of the assistant is learned, exactly as the model will be asked for
it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
from unteach.data.examples import Example
from unteach.data.handlers.base import RowDataset
from unteach.data.io.cells import is_missing
from unteach.data.rendered_text import is_shown
from unteach.data.rows import locate_row
from unteach.data.truncation import IGNORED, TooLong
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.wording import format_count


@dataclass(frozen=True)
class _Conversation:
    """Turns, with the tools that may be called."""

    messages: list[Message]
    tools: Tools


@dataset
@dataclass
class ChatDataset(RowDataset[_Conversation]):
    """Conversations, shown by the model's chat template: lists of {role, content} (in a csv, as
    JSON), or ShareGPT's of {from, value}. A turn of the assistant with `weight` 0 is read and not
    learned.

    system_key, tools_key: columns of the system prompt, and of the tools that may be called, where
    rows have such.
    turns: `all` learns every turn of the assistant, each with its end of turn; `last` only the last
    one, after all others. too_long: what becomes of a conversation of more than max_length tokens
    (see data/truncation.py).
    """

    DEFERS: ClassVar[bool] = True
    messages_key: str = "messages"
    system_key: str | None = None
    tools_key: str | None = None
    max_length: int = 2048
    turns: Literal["all", "last"] = "all"
    too_long: TooLong = "truncate_right"

    def __post_init__(self) -> None:
        self.open_rows(self.messages_key, optional=(self.system_key, self.tools_key))
        self.build_examples()

    def text(self, row: int) -> tuple[str, str]:
        """Give the last question and answer of an example's conversation, as they were written."""
        read = self.read_again(int(self.examples.rows[row]))
        return find_last_question(read.messages)

    def context_place(self, row: int) -> str | None:
        """Say where an example stands that has more before its last answer than the one question;
        else None."""
        row_index = int(self.examples.rows[row])
        read = self.read_again(row_index)
        if not read.tools and len(read.messages) <= 2:
            return None
        return locate_row(self.rows, row_index, self.where)

    def read_row(self, row_index: int, cells: Sequence[Any]) -> _Conversation | None:
        """Read the turns of a row and its tools; None, with a note, where it has nothing to learn
        or is no conversation."""
        cell, system, tools = cells
        if is_missing(cell) or cell == []:
            self.row_errors.drop(f"nothing in {self.messages_key}", row_index)
            return None
        column = self.messages_key
        try:
            messages = read_conversation(cell, system)
            column = str(self.tools_key)
            callable_tools = read_tools(tools)
        except BadConversation as error:
            self.row_errors.add(f"{column} {error}", row_index)
            return None

        learned = [message for message in messages if is_learned(message)]
        if not learned:
            has_answer = any(message["role"] == ASSISTANT for message in messages)
            reason = "no turn of the assistant" + (" has weight 1" if has_answer else "")
            self.row_errors.drop(reason, row_index)
            return None
        if self.turns == "last":
            learned = learned[-1:]
        # To learn an empty turn would be to learn to say nothing.
        if any(says_nothing(message) for message in learned):
            self.row_errors.drop("nothing in a turn of the assistant", row_index)
            return None
        return _Conversation(messages, callable_tools)

    def encode_row(self, row_index: int, read: _Conversation) -> list[Example]:
        """Build the examples of a conversation; none, and count it, where nothing is left."""
        messages = self.template.hide_all(read.messages)
        tools = self.template.hide_all(read.tools)
        try:
            pieces = encode_chat(
                self.template,
                messages,
                last=self.turns == "last",
                tools=tools,
            )
        except UserError as error:
            self.row_errors.add(str(error), row_index)
            return []
        self._note_unshown(row_index, messages, tools)
        ids: list[int] = []
        labels: list[int] = []
        for piece_ids, is_piece_learned in pieces:
            ids += piece_ids
            labels += piece_ids if is_piece_learned else [IGNORED] * len(piece_ids)
        return self.fit(ids, labels, row_index, self.max_length, self.too_long)

    def _note_unshown(
        self,
        row_index: int,
        messages: list[Message],
        tools: Tools,
    ) -> None:
        """Note the keys of turns whose text the chat template leaves out."""
        keys = set()
        for message in messages:
            keys |= set(message) - UNSHOWN
        if not keys:
            return
        whole = self.template.chat.render(
            messages,
            add_generation_prompt=False,
            tools=tools,
        )
        for key in sorted(keys):
            values = [message.get(key) for message in messages]
            texts = [value for value in values if isinstance(value, str)]
            if not all(is_shown(text, whole) for text in texts):
                self.row_errors.unshown.setdefault(key, []).append(row_index)

    def notes(self) -> list[str]:
        """Say also what the chat template does not show."""
        notes = super().notes()
        for key, row_indices in self.row_errors.unshown.items():
            count = format_count(len(row_indices), "row")
            places = self.row_errors.list_places(row_indices)
            notes.append(
                f"{count} with {key} in a turn, which the chat template does not show ({places})"
            )
        return notes


def find_last_question(messages: list[Message]) -> tuple[str, str]:
    """Find the last answer of a conversation that is learned, and what was said just before it."""
    question, answer = "", ""
    previous: Message = {}
    for message in messages:
        if is_learned(message):
            question = previous.get("content") or ""
            answer = message.get("content") or ""
        previous = message
    return question, answer
