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
from unteach.data.examples import Example, build_example
from unteach.data.handlers.base import RowDataset
from unteach.data.instructions import NO_CONTEXT, Context, InstructionColumns, encode_last
from unteach.data.template import Encoded
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.seeds import permutation
from unteach.wording import quote_value

LIKED = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
"""What a cell may say, in any case, of an answer that was liked or not."""


@dataclass(frozen=True)
class _Conversation:
    """A prompt of turns, with the tools that may be called."""

    messages: list[Message]
    tools: Tools


@dataclass(frozen=True)
class _Pair:
    """A prompt after its context, with a chosen and a rejected answer: all text, or all turns."""

    context: Context
    prompt: str | _Conversation
    chosen: str | Message
    rejected: str | Message


@dataset
@dataclass
class PreferenceDataset(RowDataset[_Pair]):
    """Prompts, each with a chosen and a rejected answer: for PrefDPO, CPO, SimPO and ORPO.

    All three are text, or turns: lists of {role, content} or of ShareGPT's {from, value}.
    prompt_key null: chosen and rejected are whole conversations that differ in their last turn.
    input_key, system_key, history_key, tools_key: columns of Alpaca's and ShareGPT's rows (see
    QADataset and ChatDataset).
    """

    max_length: int = 1024
    prompt_key: str | None = "prompt"
    chosen_key: str = "chosen"
    rejected_key: str = "rejected"
    input_key: str | None = None
    system_key: str | None = None
    history_key: str | None = None
    tools_key: str | None = None

    def __post_init__(self) -> None:
        self.open_rows(*self._keys, optional=(*self._around.names, self.tools_key))
        self.build_examples()

    def read_row(self, row_index: int, cells: Sequence[Any]) -> _Pair | None:
        """Read a row's pair of answers, texts or turns, with their prompt."""
        num_keys = len(self._keys)
        *cells_around, tools = cells[num_keys:]
        has_turns = any(isinstance(cell, list | dict) for cell in cells[:num_keys])
        if has_turns or not self.prompt_key:
            _, system, _ = cells_around
            return self._read_turns(row_index, cells[:num_keys], system, tools)
        return self._read_texts(row_index, cells[:num_keys], cells_around)

    @property
    def _keys(self) -> tuple[str, ...]:
        """The columns of the prompt, where it has one, and of the two answers."""
        if not self.prompt_key:
            return self.chosen_key, self.rejected_key
        return self.prompt_key, self.chosen_key, self.rejected_key

    @property
    def _around(self) -> InstructionColumns:
        return InstructionColumns(self.input_key, self.system_key, self.history_key)

    def _read_texts(
        self,
        row_index: int,
        cells: Sequence[Any],
        cells_around: Sequence[Any],
    ) -> _Pair | None:
        """Read a pair of texts.

        Args:
            row_index: the row.
            cells: the cells of prompt, chosen and rejected.
            cells_around: the cells of the columns that may stand beside an instruction.

        Returns:
            None, with a note in `row_errors`, where one of the texts is missing.
        """
        prompt, chosen, rejected = cells
        question, context = self._around.read(
            prompt,
            cells_around,
            row_index,
            self.row_errors,
        )
        texts = (question, chosen, rejected)
        if not self.row_errors.check_texts(texts, self._keys, row_index):
            return None
        return _Pair(context, question, chosen, rejected)

    def _read_turns(
        self,
        row_index: int,
        cells: Sequence[object],
        system: object,
        tools: object,
    ) -> _Pair | None:
        """Read a pair of turns.

        Args:
            row_index: the row.
            cells: the cells of earlier turns, if they have a column of their own, and of the turns
                that end in the chosen and in the rejected answer.
            system: the cell of the system prompt.
            tools: the cell of the tools that may be called.

        Returns:
            None, with a note in `row_errors`, where the row is no such pair.
        """
        *prompts, chosen, rejected = cells
        prompt = prompts[0] if prompts else None
        try:
            *chosen_prompt, chosen_answer = read_messages(chosen)
            *rejected_prompt, rejected_answer = read_messages(rejected)
            messages = [] if prompt is None or prompt == [] else read_messages(prompt)
            messages = messages + chosen_prompt
            if messages:
                messages = read_conversation(messages, system)
            callable_tools = read_tools(tools)
        except BadConversation as error:
            self.row_errors.add(
                "where one of prompt, chosen and rejected is a list of turns, all of them must "
                f"be, and one {error} (a conversation that holds its own prompt needs "
                "prompt_key=null)",
                row_index,
            )
            return None

        answers = (chosen_answer, rejected_answer)
        are_answers = all(answer["role"] == ASSISTANT for answer in answers)
        if chosen_prompt != rejected_prompt or not are_answers or not messages:
            self.row_errors.add(
                "chosen and rejected must be one conversation up to a last turn of the assistant",
                row_index,
            )
            return None

        is_complete = True
        for key, answer in zip((self.chosen_key, self.rejected_key), answers, strict=True):
            if says_nothing(answer):
                self.row_errors.drop(f"nothing in the last turn of {key}", row_index)
                is_complete = False
            # Both answers are learned from, whatever their weight in a conversation.
            answer.pop("weight", None)
        if not is_complete:
            return None
        conversation = _Conversation(messages, callable_tools)
        return _Pair(NO_CONTEXT, conversation, chosen_answer, rejected_answer)

    def encode_row(self, row_index: int, read: _Pair) -> list[Example]:
        """Build {chosen, rejected}; none, and count it, where one of them has no room."""
        try:
            chosen = self.build_usable(self._encode(read, read.chosen), row_index)
            rejected = self.build_usable(self._encode(read, read.rejected), row_index)
        except UserError as error:
            self.row_errors.add(str(error), row_index)
            return []
        if not chosen or not rejected:
            return []
        return [{"chosen": chosen[0], "rejected": rejected[0]}]

    def _encode(self, pair: _Pair, answer: Any) -> Encoded:
        """Encode the prompt of a pair with one of its answers."""
        prompt = pair.prompt
        if not isinstance(prompt, _Conversation):
            return encode_last(
                self.template,
                pair.context,
                (),
                prompt,
                answer,
                self.max_length,
            )
        messages = [*prompt.messages, answer]
        pieces = encode_chat(self.template, messages, last=True, tools=prompt.tools)
        (prompt_ids, _), (answer_ids, _) = pieces
        return Encoded.cut_answer(prompt_ids, answer_ids, self.max_length)


@dataclass(frozen=True)
class _JudgedAnswer:
    """A prompt after its context with one answer, and whether it was liked."""

    context: Context
    prompt: str
    answer: str
    is_liked: bool


@dataset
@dataclass
class FeedbackDataset(RowDataset[list[_JudgedAnswer]]):
    """Prompts with one answer each and whether it was liked (1, true, yes) or not: for KTO.

    Each row also has its prompt with another row's answer, by a seeded round through all rows,
    which KTO compares with. chosen_key, rejected_key: in place of answer and label, the columns of
    pairs, of which each gives two rows. input_key, system_key, history_key: columns of Alpaca's
    rows (see QADataset).
    """

    max_length: int = 1024
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
        self.around = InstructionColumns(self.input_key, self.system_key, self.history_key)
        self.open_rows(*self._keys, optional=self.around.names)
        self._draw_others()
        self.build_examples()

    @property
    def _keys(self) -> tuple[str, str, str]:
        """The columns of the prompt and of the two cells that say what is liked."""
        if self.chosen_key and self.rejected_key:
            return self.prompt_key, self.chosen_key, self.rejected_key
        return self.prompt_key, self.answer_key, self.label_key

    def _draw_others(self) -> None:
        """Draw for each answer the one that it is compared with: that before it in a seeded round.

        Raises:
            UserError: rows cannot be read, or there are fewer than two answers.
        """
        self.first_answer: list[int] = []
        """of each row, the number of its first answer among those of all rows"""
        self.places: list[tuple[int, int]] = []
        """(row, which of its answers) of each answer"""
        reader = self.copy_without_notes()
        for row_index in range(len(self.rows)):
            cells = self.pick_cells(self.rows[row_index], row_index)
            judged = reader.read_row(row_index, cells) or []
            self.first_answer.append(len(self.places))
            self.places += [(row_index, number) for number in range(len(judged))]
        reader.row_errors.refuse()
        if len(self.places) < 2:
            raise UserError(
                f"{self.where}: KTO needs at least two rows to compare with one another, got "
                f"{len(self.places)}"
            )
        order = permutation(len(self.places), self.seed, "mismatched")
        self.other = dict(zip(order, [order[-1], *order[:-1]], strict=True))

    def read_row(self, row_index: int, cells: Sequence[Any]) -> list[_JudgedAnswer] | None:
        """Read a row's answers: one with its label, or a chosen and a rejected one."""
        prompt, first, second, *cells_around = cells
        question, context = self.around.read(prompt, cells_around, row_index, self.row_errors)
        if self.chosen_key:
            if not self.row_errors.check_texts((question, first, second), self._keys, row_index):
                return None
            return [
                _JudgedAnswer(context, question, first, is_liked=True),
                _JudgedAnswer(context, question, second, is_liked=False),
            ]
        is_liked = LIKED.get(str(second).lower().removesuffix(".0"))
        if is_liked is None:
            self.row_errors.add(
                f"{self.label_key} must be 1 or 0 (true or false), and is {quote_value(second)}",
                row_index,
            )
        has_texts = self.row_errors.check_texts((question, first), self._keys[:2], row_index)
        if not has_texts or is_liked is None:
            return None
        return [_JudgedAnswer(context, question, first, is_liked)]

    def encode_row(self, row_index: int, read: list[_JudgedAnswer]) -> list[Example]:
        """Build {original, mismatched} of each answer that has room."""
        examples = []
        for number, judged in enumerate(read, self.first_answer[row_index]):
            other_row, other_number = self.places[self.other[number]]
            other_answer = self.read_again(other_row)[other_number].answer
            examples += self._build_one(row_index, judged, other_answer)
        return examples

    def _build_one(self, row_index: int, judged: _JudgedAnswer, other: str) -> list[Example]:
        """Build {original, mismatched}; none, and count it, where no answer has room."""
        try:
            usable = self.build_usable(self._encode(judged, judged.answer), row_index)
            if not usable:
                return []
            mismatched = self._encode(judged, other)
        except UserError as error:
            self.row_errors.add(str(error), row_index)
            return []
        assert mismatched.answer, "where one answer has room, another has"
        original = usable[0]
        original["weight"] = 1.0 if judged.is_liked else -1.0
        # An answer that is cut is counted where it is learned.
        return [{"original": original, "mismatched": build_example(mismatched, row_index)}]

    def _encode(self, judged: _JudgedAnswer, answer: str) -> Encoded:
        return encode_last(
            self.template,
            judged.context,
            (),
            judged.prompt,
            answer,
            self.max_length,
        )
