"""Datasets of preferences: a chosen and a rejected answer to each prompt, or answers that were
liked or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unteach.data.chat_tokens import encode_chat
from unteach.data.conversations import (
    ASSISTANT,
    BadConversation,
    Message,
    Tools,
    read_conversation,
    read_messages,
    read_tools,
    says_nothing,
)
from unteach.data.handlers.qa import Example, RowDataset, example_of
from unteach.data.instructions import NO_CONTEXT, Context, encode_last, join_input, read_context
from unteach.data.template import Encoded
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.seeds import permutation
from unteach.wording import shown

LIKED = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
"""What a cell may say, in any case, of an answer that was liked or not."""


@dataclass
class _Asked(RowDataset):
    """Rows with a prompt, asked through the model's template."""

    max_length: int = 1024


@dataclass(frozen=True)
class _Judged:
    """A prompt after its context with one answer, and whether it was liked."""

    number: int
    context: Context
    prompt: str
    answer: str
    is_liked: bool


@dataclass(frozen=True)
class _Conversation:
    """What is asked of both answers: turns, and the tools that may be called."""

    messages: list[Message]
    tools: Tools


@dataset
@dataclass
class PreferenceDataset(_Asked):
    """Prompts, each with a chosen and a rejected answer: for PrefDPO, CPO, SimPO and ORPO.

    All three are text, or turns: lists of {role, content} or of ShareGPT's {from, value}.
    prompt_key null: chosen and rejected are whole conversations that differ in their last turn.
    input_key, system_key, history_key, tools_key: columns of Alpaca's and ShareGPT's rows (see
    QADataset and ChatDataset).
    """

    prompt_key: str | None = "prompt"
    chosen_key: str = "chosen"
    rejected_key: str = "rejected"
    input_key: str | None = None
    system_key: str | None = None
    history_key: str | None = None
    tools_key: str | None = None

    def __post_init__(self) -> None:
        keys = [key for key in (self.prompt_key, self.chosen_key, self.rejected_key) if key]
        gaps = (self.input_key, self.system_key, self.history_key, self.tools_key)
        pairs = []
        for number, row in enumerate(self.load(*keys, gaps=gaps)):
            cells, (given, system, history, tools) = row[: len(keys)], row[len(keys) :]
            if self.prompt_key is None or any(isinstance(cell, list | dict) for cell in cells):
                prompt = None if self.prompt_key is None else cells[0]
                if pair := self._read_turns(number, prompt, cells[-2], cells[-1], system, tools):
                    pairs.append((number, NO_CONTEXT, *pair))
                continue
            question = join_input(cells[0], given, str(self.input_key), number, self.faults)
            columns = str(self.system_key), str(self.history_key)
            context = read_context(system, history, columns, number, self.faults)
            if self.faults.texts((question, *cells[1:]), keys, number):
                pairs.append((number, context, question, *cells[1:]))
        self.faults.refuse()
        self.keep([self.pair(*pair) for pair in pairs])

    def _read_turns(
        self, number: int, prompt: object, chosen: Any, rejected: Any, system: object, tools: Any
    ) -> tuple[_Conversation, Message, Message] | None:
        """What is asked, and the two answers as turns; None, and noted, where the row is no such
        pair."""
        try:
            (*asked, best), (*others, worst) = read_messages(chosen), read_messages(rejected)
            before = [] if prompt is None or prompt == [] else read_messages(prompt)
            shown = read_conversation(before + asked, system) if before + asked else []
            callable_tools = read_tools(tools)
        except BadConversation as error:
            self.faults.add(
                "where one of prompt, chosen and rejected is a list of turns, all of them must "
                f"be, and one {error} (a conversation that holds its own prompt needs "
                "prompt_key=null)",
                number,
            )
            return None
        if asked != others or best["role"] != ASSISTANT or worst["role"] != ASSISTANT or not shown:
            self.faults.add(
                "chosen and rejected must be one conversation up to a last turn of the assistant",
                number,
            )
            return None
        empty = [says_nothing(best), says_nothing(worst)]
        for key, is_empty in zip((self.chosen_key, self.rejected_key), empty, strict=True):
            if is_empty:
                self.faults.drop(f"nothing in the last turn of {key}", number)
        if any(empty):
            return None
        answers = [
            {key: value for key, value in turn.items() if key != "weight"} for turn in (best, worst)
        ]
        return _Conversation(shown, callable_tools), answers[0], answers[1]

    def pair(
        self, number: int, context: Context, prompt: object, chosen: Any, rejected: Any
    ) -> Example | None:
        try:
            built = {
                "chosen": self.usable(self._encode(context, prompt, chosen), number),
                "rejected": self.usable(self._encode(context, prompt, rejected), number),
            }
        except UserError as error:
            self.faults.add(str(error), number)
            return None
        return built if all(built.values()) else None

    def _encode(self, context: Context, prompt: Any, answer: Any) -> Encoded:
        if not isinstance(prompt, _Conversation):
            return encode_last(self.template, context, (), prompt, answer, self.max_length)
        (asked, _), (learned, _) = encode_chat(
            self.template, [*prompt.messages, answer], True, prompt.tools
        )
        room = max(0, self.max_length - len(asked))
        return Encoded(asked, learned[:room], max(0, len(learned) - room))


@dataset
@dataclass
class FeedbackDataset(_Asked):
    """Prompts with one answer each and whether it was liked (1, true, yes) or not: for KTO.

    Each row also has its prompt with another row's answer, by a seeded round through all rows,
    which KTO compares with. chosen_key, rejected_key: in place of answer and label, the columns of
    pairs, of which each gives two rows. input_key, system_key, history_key: columns of Alpaca's
    rows (see QADataset).
    """

    prompt_key: str = "prompt"
    answer_key: str = "completion"
    label_key: str = "label"
    chosen_key: str | None = None
    rejected_key: str | None = None
    seed: int = 0
    input_key: str | None = None
    system_key: str | None = None
    history_key: str | None = None

    def __post_init__(self) -> None:
        if (self.chosen_key is None) != (self.rejected_key is None):
            raise UserError(f"{self.where}: chosen_key and rejected_key go together")
        told = self._of_pairs() if self.chosen_key else self._of_labels()
        if len(told) < 2:
            self.faults.refuse()
            raise UserError(
                f"{self.where}: KTO needs at least two rows to compare with one another, got "
                f"{len(told)}"
            )
        order = permutation(len(told), self.seed, "mismatched")
        before = {order[k]: order[k - 1] for k in range(len(order))}
        self.keep([self.build(told, k, before[k]) for k in range(len(told))])

    def build(self, told: list[_Judged], k: int, other: int) -> Example | None:
        row = told[k]
        try:
            original = self.usable(self._encode(row, row.answer), row.number)
            if original is None:
                return None
            encoded = self._encode(row, told[other].answer)
        except UserError as error:
            self.faults.add(str(error), row.number)
            return None
        assert encoded.answer, "where one answer has room, another has"
        # an answer that is cut is counted where it is learned
        mismatched = example_of(encoded, row.number)
        return {
            "original": {**original, "weight": 1.0 if row.is_liked else -1.0},
            "mismatched": mismatched,
        }

    def _encode(self, row: _Judged, answer: str) -> Encoded:
        return encode_last(self.template, row.context, (), row.prompt, answer, self.max_length)

    def _of_labels(self) -> list[_Judged]:
        told = []
        keys = (self.prompt_key, self.answer_key)
        for number, (prompt, answer, label, *around) in enumerate(
            self.load(*keys, self.label_key, gaps=self._gaps())
        ):
            question, context = self._read_asked(prompt, around, number)
            liked = LIKED.get(str(label).lower().removesuffix(".0"))
            if liked is None:
                self.faults.add(
                    f"{self.label_key} must be 1 or 0 (true or false), and is {shown(label)}",
                    number,
                )
            good = self.faults.texts((question, answer), keys, number)
            if good and liked is not None:
                told.append(_Judged(number, context, question, answer, liked))
        self.faults.refuse()
        return told

    def _of_pairs(self) -> list[_Judged]:
        assert self.chosen_key and self.rejected_key
        keys, told = (self.prompt_key, self.chosen_key, self.rejected_key), []
        for number, (prompt, chosen, rejected, *around) in enumerate(
            self.load(*keys, gaps=self._gaps())
        ):
            question, context = self._read_asked(prompt, around, number)
            if self.faults.texts((question, chosen, rejected), keys, number):
                told.append(_Judged(number, context, question, chosen, True))
                told.append(_Judged(number, context, question, rejected, False))
        self.faults.refuse()
        return told

    def _gaps(self) -> tuple[str | None, ...]:
        return self.input_key, self.system_key, self.history_key

    def _read_asked(
        self, prompt: object, around: Sequence[Any], number: int
    ) -> tuple[Any, Context]:
        """What is asked with its input, and what stands before it."""
        given, system, history = around
        columns = str(self.system_key), str(self.history_key)
        context = read_context(system, history, columns, number, self.faults)
        return join_input(prompt, given, str(self.input_key), number, self.faults), context
