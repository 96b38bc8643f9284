"""Conversations: every turn of the assistant is learned, exactly as the model will be asked for
it."""

from dataclasses import dataclass, field
from typing import Literal

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
from unteach.data.examples import DEFERRED, Example
from unteach.data.handlers.base import RowDataset
from unteach.data.io.cells import is_missing
from unteach.data.rendered_text import is_shown
from unteach.data.rows import locate_row
from unteach.data.truncation import IGNORED, TooLong
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.wording import format_count


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
    (see data/truncation.py).
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
        self.conversations: dict[int, tuple[list[Message], Tools]] = {}
        optional = (self.system_key, self.tools_key)
        rows = self.load(self.messages_key, optional=optional)
        for row_index, (cell, system, tools) in enumerate(rows):
            conversation = self._read(row_index, cell, system, tools)
            if conversation is not None:
                self.conversations[row_index] = conversation
        # What is no conversation is refused before the others are tokenised.
        self.row_errors.refuse()

        examples: list[Example] = []
        deferred: list[Example] = []
        for row_index, (messages, callable_tools) in self.conversations.items():
            if self.is_deferred(row_index):
                deferred.append({"index": row_index, DEFERRED: True})
            else:
                examples += self._build(row_index, messages, callable_tools)
        self.keep(examples + deferred)

    def encode_deferred(self, row_index: int) -> list[Example]:
        """Build the examples of a conversation that was not tokenised at once."""
        messages, tools = self.conversations[row_index]
        return self._build(row_index, messages, tools)

    def text(self, row: int) -> tuple[str, str]:
        """Give the last question and answer of an example's conversation, as they were written."""
        row_index = self.examples[row]["index"]
        messages, _ = self.conversations[row_index]
        return find_last_question(messages)

    def context_place(self, row: int) -> str | None:
        """Say where an example stands that has more before its last answer than the one question;
        else None."""
        row_index = self.examples[row]["index"]
        messages, tools = self.conversations[row_index]
        if not tools and len(messages) <= 2:
            return None
        return locate_row(self.row_errors.rows, row_index, self.where)

    def _read(
        self,
        row_index: int,
        cell: object,
        system: object,
        tools: object,
    ) -> tuple[list[Message], Tools] | None:
        """Read the turns of a row and its tools.

        Args:
            row_index: the row.
            cell: its conversation.
            system: its system prompt.
            tools: the tools that may be called.

        Returns:
            None, with a note in `row_errors`, where it has nothing to learn or is no conversation.
        """
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
        return messages, callable_tools

    def _build(
        self,
        row_index: int,
        messages: list[Message],
        tools: Tools,
    ) -> list[Example]:
        """Build the examples of a conversation; none, and count it, where nothing is left."""
        messages = self.template.hide_all(messages)
        tools = self.template.hide_all(tools)
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
                self.unshown.setdefault(key, []).append(row_index)

    def notes(self) -> list[str]:
        """Say also what the chat template does not show."""
        notes = super().notes()
        for key, row_indices in self.unshown.items():
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
