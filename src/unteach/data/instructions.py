"""Instructions as Alpaca writes them: an instruction with its input, a system prompt and earlier
turns before it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unteach.data.chat_tokens import Piece, encode_chat
from unteach.data.conversations import ASSISTANT, Message
from unteach.data.io import tables
from unteach.data.row_errors import RowErrors
from unteach.data.template import Encoded, Template
from unteach.data.truncation import IGNORED
from unteach.errors import UserError

Pairs = Sequence[tuple[str, str]]


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
        return any(tables.missing(answer) for _, answer in self.history)


NO_CONTEXT = Context()


def join_input(instruction: Any, given: object, column: str, number: int, faults: RowErrors) -> Any:
    """An instruction and its input, joined by a line end as LLaMA-Factory does; either may be
    empty."""
    if not faults.text(given, column, number, needed=False):
        return instruction
    if tables.missing(instruction):
        return given
    return f"{instruction}\n{given}" if isinstance(instruction, str) else instruction


def read_context(
    system: Any, history: Any, columns: tuple[str, str], number: int, faults: RowErrors
) -> Context:
    """The system prompt and the earlier turns of a row; what is wrong with them is noted by
    `faults`."""
    system_column, history_column = columns
    has_system = faults.text(system, system_column, number, needed=False)
    pairs = () if tables.missing(history) else _read_history(history)
    if pairs is None:
        faults.add(f"{history_column} must be a list of [question, answer], both text", number)
    return Context(system if has_system else "", pairs or ())


def _read_history(cell: object) -> tuple[tuple[str, str], ...] | None:
    """Pairs of texts from a list or JSON; None where the cell is none."""
    try:
        pairs = json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        return None
    if not isinstance(pairs, list):
        return None
    for pair in pairs:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(text, str) for text in pair)
        ):
            return None
    return tuple((question, answer) for question, answer in pairs)


def encode_last(
    template: Template,
    context: Context,
    shots: Pairs,
    question: str,
    answer: str,
    max_length: int | None = None,
) -> Encoded:
    """A question after its context with its answer, which alone is learned."""
    if not context:
        return template.encode(question, answer, shots, max_length)
    if template.kind != "chat":
        _refuse_system(template, context)
        return template.encode(question, answer, [*shots, *context.history], max_length)
    messages = _as_messages(context, shots, question, answer)
    (asked, _), (learned, _) = encode_chat(template, messages, last=True)
    room = len(learned) if max_length is None else max(0, max_length - len(asked))
    return Encoded(asked, learned[:room], max(0, len(learned) - room))


def encode_all(
    template: Template, context: Context, shots: Pairs, question: str, answer: str
) -> tuple[list[int], list[int]]:
    """input_ids and labels of a question after its context; the answers of earlier turns are
    learned too.

    Without a chat template an earlier answer is learned up to its last word: what the template
    shows after it is only read, since an answer that is asked for ends with the end-of-sequence
    token.
    """
    if not context.history:
        encoded = encode_last(template, context, shots, question, answer)
        return encoded.input_ids, encoded.labels
    if template.kind == "chat":
        pieces = encode_chat(template, _as_messages(context, shots, question, answer))
    else:
        _refuse_system(template, context)
        pieces = _encode_turns(template, shots, [*context.history, (question, answer)])
    ids: list[int] = []
    labels: list[int] = []
    for tokens, is_learned in pieces:
        ids += tokens
        labels += tokens if is_learned else [IGNORED] * len(tokens)
    return ids, labels


def _encode_turns(template: Template, shots: Pairs, turns: Pairs) -> list[Piece]:
    """Questions and answers in the template's tags, as pieces."""
    if template.args.boundary == "joint":
        raise UserError(
            "boundary=joint is about one question and its answer; rows with earlier turns need "
            "apart"
        )
    pieces: list[Piece] = []
    shown = ""
    for number, (question, answer) in enumerate(turns):
        before = [*shots, *turns[:number]]
        asked = template.write_prompt(question, before)
        # The first piece has BOS where the tokenizer puts one.
        pieces.append(
            (
                template.encode_prompt(question, before)
                if not number
                else template.plain(asked[len(shown) :]),
                False,
            )
        )
        told = (template.args.answer_prefix or "") + template.hide(answer)
        is_last = number == len(turns) - 1
        pieces.append((template.plain(told) + ((template.eos,) if is_last else ()), True))
        shown = asked + told
    return pieces


def _as_messages(context: Context, shots: Pairs, question: str, answer: str) -> list[Message]:
    messages: list[Message] = (
        [{"role": "system", "content": context.system}] if context.system else []
    )
    for asked, told in shots:  # which show how, and are not learned
        messages.append({"role": "user", "content": asked})
        messages.append({"role": ASSISTANT, "content": told, "weight": 0})
    for asked, told in [*context.history, (question, answer)]:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": ASSISTANT, "content": told})
    return messages


def _refuse_system(template: Template, context: Context) -> None:
    if context.system:
        raise UserError(
            "a system prompt is shown by a chat template, and this model is asked by "
            f"template={template.kind}; take a model whose tokenizer has one, or rows without "
            "system"
        )
