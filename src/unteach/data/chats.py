"""Conversations: every turn of the assistant is learned, exactly as the model will be asked for it."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from unteach.data import tables
from unteach.data.datasets import Example, RowDataset
from unteach.data.fitting import TooLong
from unteach.data.template import Template
from unteach.errors import UserError
from unteach.registry import dataset

Message = dict[str, Any]
ASSISTANT = "assistant"


@dataset
@dataclass
class ChatDataset(RowDataset):
    """Rows of `messages`, lists of {role, content} (in a csv, as JSON), shown by the model's chat template.

    turns: `all` learns every turn of the assistant, each with its end of turn; `last` only the last one, after all
    others. too_long: what becomes of a conversation of more than max_length tokens (see data/fitting.py).
    """

    messages_key: str = "messages"
    max_length: int = 2048
    turns: Literal["all", "last"] = "all"
    too_long: TooLong = "truncate_right"

    def __post_init__(self) -> None:
        self.questions: dict[int, tuple[str, str]] = {}
        told = []
        for number, (cell,) in enumerate(self.load(self.messages_key)):
            messages = None if tables.missing(cell) else as_messages(cell)
            if tables.missing(cell):
                self.faults.drop(f"nothing in {self.messages_key}", number)
            elif messages is None:
                self.faults.add(f"{self.messages_key} must be a list of {{role, content}}, both text", number)
            elif not any(message["role"] == ASSISTANT for message in messages):
                self.faults.drop("no turn of the assistant", number)
            else:
                told.append((number, messages))
                self.questions[number] = last_question(messages)
        self.faults.refuse()
        self.keep([example for row in told for example in self.build(*row)])

    def text(self, row: int) -> tuple[str, str]:
        """The last question and answer of an example's conversation, as they were given."""
        return self.questions[self.examples[row]["index"]]

    def build(self, number: int, messages: list[Message]) -> list[Example]:
        pieces = encode_chat(self.template, messages, last=self.turns == "last")
        ids = [token for tokens, _ in pieces for token in tokens]
        labels = [token if learned else -100 for tokens, learned in pieces for token in tokens]
        return self.fitted(ids, labels, number, self.max_length, self.too_long)


def last_question(messages: list[Message]) -> tuple[str, str]:
    """The last answer of a conversation, after what was said just before it."""
    answer = max(place for place, message in enumerate(messages) if message["role"] == ASSISTANT)
    asked = messages[answer - 1]["content"] if answer else ""
    return asked, messages[answer]["content"]


def as_messages(cell: Any) -> list[Message] | None:
    """A cell as a conversation, be it a list or JSON; None where it is none."""
    try:
        messages = json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        return None
    fine = isinstance(messages, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in messages
    )
    return messages if fine and messages else None


def encode_chat(template: Template, messages: list[Message], last: bool = False) -> list[tuple[tuple[int, ...], bool]]:
    """A conversation as pieces (token ids, whether they are learned).

    Each turn of the assistant is a piece with its end of turn, tokenised apart from what is asked, as it is when the
    model answers. last: only the last such turn is learned.

    Raises UserError where the template shows earlier turns differently once the conversation goes on.
    """
    if template.kind != "chat":
        raise UserError(
            f"conversations are shown by a chat template, and this model is asked by template={template.kind}; take a "
            "model whose tokenizer has one, or rows of prompts and answers"
        )
    if template.args.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": template.args.system_prompt}, *messages]
    answers = [i for i, message in enumerate(messages) if message["role"] == ASSISTANT]
    pieces: list[tuple[tuple[int, ...], bool]] = []
    shown = ""
    for i in answers[-1:] if last else answers:
        asked = template.shown(messages[:i], add_generation_prompt=True)
        pieces.append((_tokens(template, _after(shown, asked)), False))
        told = template.shown(messages[: i + 1], add_generation_prompt=False)
        learned, rest = template.turn(_after(asked, told))
        pieces.append((learned, True))
        shown = told.removesuffix(rest)
    if messages[-1]["role"] != ASSISTANT:
        whole = template.shown(messages, add_generation_prompt=False)
        pieces.append((_tokens(template, _after(shown, whole)), False))
    return pieces


def _tokens(template: Template, text: str) -> tuple[int, ...]:
    return tuple(template.tokenizer(text, add_special_tokens=False)["input_ids"])


def _after(shown: str, longer: str) -> str:
    """What a conversation that went on has more than was shown before."""
    if not longer.startswith(shown):
        raise UserError(
            "this chat template shows earlier turns differently once a conversation goes on; set turns=last, which "
            "learns the last turn of each conversation"
        )
    return longer[len(shown) :]
