"""Instructions as Alpaca writes them: an instruction with its input, a system prompt and earlier
turns before it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unteach.data.chat_tokens import Piece, encode_chat
from unteach.data.conversations import ASSISTANT, Message
from unteach.data.io.cells import is_missing
from unteach.data.row_errors import RowErrors
from unteach.data.template import Encoded, Template
from unteach.data.truncation import IGNORED
from unteach.errors import UserError

Pairs = Sequence[tuple[str, str]]
"""(question, answer) pairs."""


@dataclass(frozen=True)
class Context:
    """What stands before a question: a system prompt, and earlier questions with their answers."""

    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.system or self.history)

    @property
    def has_empty_answer(self) -> bool:
        """Whether an earlier question has no words as its answer."""
        return any(is_missing(answer) for _, answer in self.history)


NO_CONTEXT = Context()


@dataclass(frozen=True)
class InstructionColumns:
    """The columns of Alpaca's rows beside the instruction; None for one that the rows lack."""

    input: str | None
    system: str | None
    history: str | None

    @property
    def names(self) -> tuple[str | None, ...]:
        """The columns in the order in which their cells are read."""
        return self.input, self.system, self.history

    def read(
        self,
        instruction: object,
        cells: Sequence[Any],
        row_index: int,
        row_errors: RowErrors,
    ) -> tuple[Any, Context]:
        """Read a question with its input, and what stands before it.

        Args:
            instruction: the cell of the instruction; it may be empty.
            cells: the cells of these columns.
            row_index: the row.
            row_errors: notes what is wrong with the cells.
        """
        added, system, history = cells
        question = instruction
        if row_errors.check_text(added, str(self.input), row_index, is_required=False):
            question = _join_input(instruction, added)
        if not row_errors.check_text(
            system,
            str(self.system),
            row_index,
            is_required=False,
        ):
            system = ""
        pairs = () if is_missing(history) else read_history(history)
        if pairs is None:
            message = f"{self.history} must be a list of [question, answer], both text"
            row_errors.add(message, row_index)
        return question, Context(system, pairs or ())


def _join_input(instruction: object, added: str) -> object:
    """Join an instruction and its input by a line end, as LLaMA-Factory does."""
    if is_missing(instruction):
        return added
    if not isinstance(instruction, str):
        return instruction
    return f"{instruction}\n{added}"


def read_history(cell: object) -> tuple[tuple[str, str], ...] | None:
    """Read pairs of texts from a list or JSON; None where the cell is none."""
    pairs = cell
    if isinstance(cell, str):
        try:
            pairs = json.loads(cell)
        except ValueError:
            return None
    if not isinstance(pairs, list):
        return None
    history = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            return None
        question, answer = pair
        if not isinstance(question, str) or not isinstance(answer, str):
            return None
        history.append((question, answer))
    return tuple(history)


def encode_last(
    template: Template,
    context: Context,
    shots: Pairs,
    question: str,
    answer: str,
    max_length: int | None = None,
) -> Encoded:
    """Encode a question after its context with its answer, which alone is learned.

    Args:
        template: the model's.
        context: the system prompt and the earlier turns.
        shots: pairs that show how, before these.
        question: what is asked.
        answer: what is learned.
        max_length: what prompt and answer may have together; the answer is cut to it.
    """
    if not context:
        return template.encode(question, answer, shots, max_length)
    if template.kind != "chat":
        _refuse_system(template, context)
        return template.encode(question, answer, [*shots, *context.history], max_length)
    messages = _build_messages(context, shots, question, answer)
    pieces = encode_chat(template, messages, last=True)
    (prompt_ids, _), (answer_ids, _) = pieces
    return Encoded.cut_answer(prompt_ids, answer_ids, max_length)


def encode_all(
    template: Template,
    context: Context,
    shots: Pairs,
    question: str,
    answer: str,
) -> tuple[list[int], list[int]]:
    """Encode a question after its context; the answers of earlier turns are learned too.

    Without a chat template an earlier answer is learned up to its last word: what the template
    shows after it is only read, since an answer that is asked for ends with the end-of-sequence
    token.

    Returns:
        input_ids and labels.
    """
    if not context.history:
        encoded = encode_last(template, context, shots, question, answer)
        return encoded.input_ids, encoded.labels
    if template.kind == "chat":
        pieces = encode_chat(
            template,
            _build_messages(
                context,
                shots,
                question,
                answer,
            ),
        )
    else:
        _refuse_system(template, context)
        pieces = _encode_turns(template, shots, [*context.history, (question, answer)])
    ids: list[int] = []
    labels: list[int] = []
    for piece_ids, is_learned in pieces:
        ids += piece_ids
        labels += piece_ids if is_learned else [IGNORED] * len(piece_ids)
    return ids, labels


def _encode_turns(template: Template, shots: Pairs, turns: Pairs) -> list[Piece]:
    """Encode questions and answers in the template's tags, as pieces.

    Each question is a piece that is read, and each answer one that is learned.
    """
    if template.args.boundary == "joint":
        raise UserError(
            "boundary=joint is about one question and its answer; rows with earlier turns need "
            "apart"
        )
    pieces: list[Piece] = []
    encoded_text = ""
    for turn_index, (question, answer) in enumerate(turns):
        before = [*shots, *turns[:turn_index]]
        prompt_text = template.write_hidden_prompt(question, before)
        if turn_index == 0:
            # The first piece has BOS where the tokenizer puts one.
            prompt_ids = template.encode_prompt(question, before)
        else:
            prompt_ids = template.encode_plain(prompt_text[len(encoded_text) :])
        pieces.append((prompt_ids, False))

        answer_text = (template.args.answer_prefix or "") + template.hide(answer)
        answer_ids = template.encode_plain(answer_text)
        if turn_index == len(turns) - 1:
            answer_ids = (*answer_ids, template.eos)
        pieces.append((answer_ids, True))
        encoded_text = prompt_text + answer_text
    return pieces


def _build_messages(
    context: Context,
    shots: Pairs,
    question: str,
    answer: str,
) -> list[Message]:
    """Build the conversation of a question after its context, with its answer."""
    messages: list[Message] = []
    if context.system:
        messages.append({"role": "system", "content": context.system})
    for shot_question, shot_answer in shots:  # they show how, and are not learned
        messages.append({"role": "user", "content": shot_question})
        messages.append(
            {
                "role": ASSISTANT,
                "content": shot_answer,
                "weight": 0,
            }
        )
    for turn_question, turn_answer in [*context.history, (question, answer)]:
        messages.append({"role": "user", "content": turn_question})
        messages.append({"role": ASSISTANT, "content": turn_answer})
    return messages


def _refuse_system(template: Template, context: Context) -> None:
    """Refuse a system prompt where no chat template shows it."""
    if context.system:
        raise UserError(
            "a system prompt is shown by a chat template, and this model is asked by "
            f"template={template.kind}; take a model whose tokenizer has one, or rows without "
            "system"
        )
