"""The rows of a stream, as facts are made of them: questions with answers, chats, documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from unteach.data.conversations import ASSISTANT, UNSHOWN, Message, is_learned
from unteach.data.examples import find_row_index
from unteach.data.handlers.chat import ChatDataset
from unteach.data.handlers.qa import QADataset
from unteach.data.handlers.text import PretrainingDataset
from unteach.data.row_errors import RowErrors
from unteach.data.streams import Stream
from unteach.errors import UserError

Form = Literal["question", "prompt", "instruction", "chat", "document"]
"""How a row is written: a question and its answer; a prompt and its completion, whose words are
taken as they are; an instruction with what stands before it; turns; text."""


class Turn(NamedTuple):
    """A turn of a conversation.

    Attributes:
        is_learned: whether it is one of the assistant's that is trained on.
    """

    role: str
    content: str
    is_learned: bool = False


@dataclass(frozen=True)
class Exchange:
    """What is asked in a row and answered.

    Attributes:
        gap: the white space that the answer is written with before its first word.
        earlier: the turns before the question.
        number: of the answer among the turns of a chat, from 1; 0: it is the only one.
    """

    question: str
    answer: str
    gap: str = ""
    earlier: tuple[Turn, ...] = ()
    number: int = 0


@dataclass(frozen=True)
class FactRow:
    """A row of a stream.

    Attributes:
        number: its number among the stream's rows.
        place: where it stands, as messages say it.
        columns: all of its cells, where its dataset keeps them.
        exchanges: each answer that is trained on; none of a document.
        document: its text; "" where it is none.
    """

    number: int
    place: str
    form: Form
    columns: Mapping[str, Any]
    exchanges: tuple[Exchange, ...] = ()
    document: str = ""

    @property
    def words(self) -> str:
        """All that is said in it."""
        if not self.exchanges:
            return self.document
        last = self.exchanges[-1]
        return " ".join([*(turn.content for turn in last.earlier), last.question, last.answer])


@runtime_checkable
class Answered(Protocol):
    """A dataset of a plugin's, whose rows are questions and answers."""

    def __len__(self) -> int: ...

    def text(self, row: int) -> tuple[str, str]:
        """Give the question and the answer of a row."""
        ...


def read_rows(stream: Stream) -> list[FactRow]:
    """Read the rows of a stream.

    Raises:
        UserError: rows that are no questions, chats or documents, that are of several of these, or
            that no attack can ask for.
    """
    rows: list[FactRow] = []
    for dataset in stream.datasets:
        first = len(rows)
        if isinstance(dataset, PretrainingDataset):
            rows += _read_documents(dataset, first)
        elif isinstance(dataset, ChatDataset):
            rows += _read_chats(dataset, first)
        elif isinstance(dataset, QADataset):
            rows += _read_questions(dataset, first)
        elif isinstance(dataset, Answered):
            rows += _read_others(stream.name, dataset, first)
        else:
            raise UserError(
                f"data.{stream.name}: {type(dataset).__name__} has no questions and answers to "
                "audit, nor chats or documents; give rows of one of these"
            )
    forms = sorted({row.form for row in rows})
    if len(forms) > 1:
        raise UserError(
            f"data.{stream.name}: its datasets hold {' and '.join(f'{form}s' for form in forms)}, "
            "which are asked in different ways; audit them one after the other"
        )
    return rows


def _read_documents(dataset: PretrainingDataset, first: int) -> list[FactRow]:
    tokenizer = dataset.template.tokenizer
    documents, errors = dataset.read_documents()
    rows: list[FactRow] = []
    for row_index, text in documents:
        # A text may be written with its BOS and EOS, which are no words.
        words = text.removeprefix(tokenizer.bos_token or "").removesuffix(tokenizer.eos_token or "")
        if words.strip():
            place = errors.list_places([row_index])
            columns = errors.rows[row_index]
            number = first + len(rows)
            rows.append(FactRow(number, place, "document", columns, document=words))
    return rows


def _read_chats(dataset: ChatDataset, first: int) -> list[FactRow]:
    errors = RowErrors(dataset.where, dataset.row_errors.rows)
    rows = []
    for number, row_index in enumerate(_list_row_indices(dataset), first):
        read = dataset.read_again(row_index)
        messages = read.messages
        unshown = dataset.row_errors.unshown
        fault = _find_fault(messages, [key for key in unshown if row_index in unshown[key]])
        if read.tools or fault:
            errors.add(fault or "tools are asked for by no attack; leave such rows out", row_index)
            continue
        exchanges = _list_exchanges(messages, dataset.turns == "last")
        place = errors.list_places([row_index])
        columns = errors.rows[row_index]
        rows.append(FactRow(number, place, "chat", columns, tuple(exchanges)))
    errors.refuse()
    return rows


def _find_fault(messages: Sequence[Message], not_shown: Sequence[str]) -> str:
    """Say why no attack can ask for a conversation; empty: they can.

    Args:
        not_shown: keys of its turns that the chat template does not show.
    """
    for message, previous in zip(messages, [None, *messages[:-1]], strict=True):
        if message.get("tool_calls") or message["role"] in ("tool", "ipython"):
            return "calls of tools are asked for by no attack; leave such rows out"
        more = set(message) - UNSHOWN - set(not_shown)
        if more:
            return (
                f"the chat template shows {', '.join(sorted(more))} of a turn, which no attack "
                "asks with; leave such rows out"
            )
        if is_learned(message) and (previous is None or previous["role"] != "user"):
            return (
                "a turn of the assistant does not follow one of the user, so that nothing asks for "
                "it; give it the weight 0, or leave such rows out"
            )
    return ""


def _list_exchanges(messages: Sequence[Message], last: bool) -> list[Exchange]:
    """List the answers of a conversation that are trained on, each with what stands before it."""
    learned = [index for index, message in enumerate(messages) if is_learned(message)]
    if last:
        learned = learned[-1:]
    turns = []
    for index, message in enumerate(messages):
        turns.append(Turn(message["role"], message["content"], index in learned))
    exchanges = []
    for index in learned:
        exchanges.append(
            Exchange(
                question=turns[index - 1].content,
                answer=turns[index].content.strip(),
                earlier=tuple(turns[: index - 1]),
                number=index + 1 if len(learned) > 1 else 0,
            )
        )
    return exchanges


def _read_questions(dataset: QADataset, first: int) -> list[FactRow]:
    is_raw = dataset.template.kind == "raw"
    form: Form = "prompt" if is_raw else "question"
    read_rows = {index: dataset.read_again(index) for index in _list_row_indices(dataset)}
    if any(read.context for read in read_rows.values()):
        form = "instruction"
    rows = []
    for number, (row_index, read) in enumerate(read_rows.items(), first):
        question, answer, context = read.question, read.answer, read.context
        place = dataset.row_errors.list_places([row_index])
        _refuse_no_answer(answer, f"{dataset.where}: {place}")
        turns = [Turn("system", context.system)] if context.system else []
        exchanges = []
        for earlier_question, earlier_answer in context.history:
            if dataset.turns == "all":
                number_of_turn = len(turns) + 2
                exchanges.append(
                    _build_exchange(earlier_question, earlier_answer, turns, is_raw, number_of_turn)
                )
            turns.append(Turn("user", earlier_question))
            turns.append(Turn(ASSISTANT, earlier_answer, dataset.turns == "all"))
        last = len(turns) + 2 if exchanges else 0
        exchanges.append(_build_exchange(question, answer, turns, is_raw, last))
        columns = dataset.row_errors.rows[row_index]
        rows.append(FactRow(number, place, form, columns, tuple(exchanges)))
    return rows


def _build_exchange(
    question: str, answer: str, turns: Sequence[Turn], is_raw: bool, number: int
) -> Exchange:
    """Build an exchange; words that are taken as they are keep the white space between them."""
    words = answer.strip()
    gap = answer[: len(answer) - len(answer.lstrip())] if is_raw else ""
    asked = question if is_raw else question.strip()
    return Exchange(asked, words, gap, tuple(turns), number)


def _read_others(name: str, dataset: Answered, first: int) -> list[FactRow]:
    """Read the rows of a dataset of a plugin's, in a stream of some name."""
    rows = []
    for row in range(len(dataset)):
        place = str(dataset.place(row)) if hasattr(dataset, "place") else f"row {row + 1}"
        question, answer = dataset.text(row)
        _refuse_no_answer(answer, f"data.{name}: {place}")
        exchange = Exchange(question.strip(), answer.strip())
        columns = {}
        if hasattr(dataset, "row_errors") and hasattr(dataset, "examples"):
            columns = dataset.row_errors.rows[find_row_index(dataset.examples[row])]
        rows.append(FactRow(first + row, place, "question", columns, (exchange,)))
    return rows


def _list_row_indices(dataset: ChatDataset | QADataset) -> list[int]:
    """List the rows that a dataset has examples of, each once: a long one may have several."""
    return list(dict.fromkeys(dataset.examples.rows))


def _refuse_no_answer(answer: object, place: str) -> None:
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"{place} has no one answer")
