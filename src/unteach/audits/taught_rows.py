"""The rows that facts were taught by, as files have them: each in the form that it came in."""

from collections.abc import Mapping, Sequence
from typing import Any

from unteach.audits.facts import Fact

TaughtRow = dict[str, Any]
"""Columns by which the data room reads a row in its form."""


def group_by_row(facts: Sequence[Fact]) -> list[list[Fact]]:
    """Group the facts of each row, in their order."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        key = f"fact {fact.index}" if fact.row is None else f"row {fact.row}"
        groups.setdefault(key, []).append(fact)
    return list(groups.values())


def locate_row(facts: Sequence[Fact]) -> str:
    """Say where the row of some facts stands, without the turn or the passage of each."""
    place = facts[0].place
    return place if len(facts) == 1 else place.rpartition(", ")[0]


def describe_row(facts: Sequence[Fact]) -> TaughtRow:
    """Describe the row of some facts: a document whole, a chat up to the last of them."""
    last = facts[-1]
    match last.form:
        case "document":
            return {"text": last.document}
        case "chat":
            return {"messages": _list_messages(last)}
        case "instruction":
            return _describe_instruction(last)
        case "prompt":
            return {"prompt": last.question, "completion": f"{last.gap}{last.answer}"}
        case "question":
            return {"question": last.question, "answer": last.answer}


def _list_messages(fact: Fact) -> list[dict[str, Any]]:
    """List the turns of a chat; one of the assistant's that is not learned has the weight 0."""
    messages: list[dict[str, Any]] = []
    for turn in fact.earlier:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.role == "assistant" and not turn.is_learned:
            message["weight"] = 0
        messages.append(message)
    messages.append({"role": "user", "content": fact.question})
    messages.append({"role": "assistant", "content": fact.answer})
    return messages


def _describe_instruction(fact: Fact) -> TaughtRow:
    """Describe an instruction with its system prompt and the turns before it, as Alpaca has it."""
    row: TaughtRow = {"instruction": fact.question, "output": fact.answer}
    turns = list(fact.earlier)
    if turns and turns[0].role == "system":
        row["system"] = turns.pop(0).content
    texts = [turn.content for turn in turns]
    pairs = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    if pairs:
        row["history"] = pairs
    return row


def list_texts(row: Mapping[str, Any]) -> list[str]:
    """List what is said in a row that `describe_row` made, in the order in which it is said.

    A completion stands without the white space before it.
    """
    if "messages" in row:
        return [turn["content"] for turn in row["messages"]]
    if "text" in row:
        return [row["text"]]
    if "prompt" in row:
        return [row["prompt"], row["completion"].lstrip()]
    if "instruction" in row:
        before = [row["system"]] if row.get("system") else []
        earlier = [text for pair in row.get("history") or () for text in pair]
        return [*before, *earlier, row["instruction"], row["output"]]
    return [row["question"], row["answer"]]


def learns_last_alone(facts: Sequence[Fact]) -> bool:
    """Whether conversations of several answers are among the facts' rows, of which the last alone
    is trained on (`data.turns=last`)."""
    answers = []
    for fact in facts:
        answers += [turn for turn in fact.earlier if turn.role == "assistant"]
    return bool(answers) and not any(turn.is_learned for turn in answers)
