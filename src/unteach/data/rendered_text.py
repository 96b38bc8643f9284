"""What a chat template rendered: whether it shows what was said, and where the words end."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from unteach.data.reasoning import (
    CLOSE,
    OPEN,
    write_after_closed_reasoning,
    write_after_open_reasoning,
)
from unteach.errors import UserError

USE_ANOTHER = (
    "give the model another template, or ask it by tags (template=qa, for rows of a question and "
    "an answer)"
)
"""How to mend a chat template that leaves something out."""


def refuse_unshown(messages: Sequence[Mapping[str, Any]], rendered: str) -> None:
    """Refuse a conversation of which the chat template leaves out what somebody says.

    Reasoning of the assistant may be left out: many templates show none but the last.
    """
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            continue
        if message["role"] == "assistant":
            content = content.rpartition(CLOSE)[2]
        if not is_shown(content, rendered):
            raise UserError(
                f"the chat template does not show what a turn of {message['role']} says: "
                f"{USE_ANOTHER}"
            )


def is_shown(text: str, rendered: str) -> bool:
    """Whether a text stands in what a template rendered; some templates write it as JSON."""
    text = text.strip()
    return text in rendered or _as_json(text) in rendered


def is_answer_shown(answer: str, rendered: str) -> bool:
    """Whether all of an answer stands in what a template rendered of it.

    Its reasoning and what follows it may stand apart: the prompt may have opened the reasoning,
    and templates write it with line ends of their own.
    """
    if is_shown(answer, rendered):
        return True
    reasoning, close, final = answer.rpartition(CLOSE)
    if not close:
        return False
    return all(is_shown(part, rendered) for part in (final, *reasoning.split(OPEN)))


def find_end_of_words(rendered: str, words: Sequence[str]) -> int:
    """Find where the last of a turn's words ends; 0 where the template shows none as they are."""
    end = 0
    for text in words:
        final = text.rpartition(CLOSE)[2].strip()
        for spelling in (text.strip(), _as_json(text), final):
            if spelling in rendered:
                end = max(end, rendered.index(spelling) + len(spelling))
                break
    return end


def extract_answer(prompt: str, whole: str, answer: str) -> str:
    """Give what a conversation with its answer has after its prompt.

    Args:
        prompt: the conversation up to where the answer starts, as the template renders it.
        whole: the same with the answer.
        answer: the words of the answer, hidden.

    Raises:
        UserError: the template renders the prompt otherwise once it is answered.
    """
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    text = write_after_open_reasoning(prompt, whole, answer)
    if text is None and CLOSE not in answer:
        text = write_after_closed_reasoning(prompt, whole)
    if text is not None:
        return text
    if CLOSE in answer and prompt.rstrip().endswith(CLOSE):
        raise UserError(
            f"an answer holds reasoning ({CLOSE}), and this chat template asks for answers "
            "without: it closes the reasoning in the prompt; take it out of the answers, or "
            "give the model another template"
        )
    raise UserError(
        "this chat template shows a question differently once it is answered, so that no "
        f"answer can be learned after what is asked: {USE_ANOTHER}"
    )


def _as_json(text: str) -> str:
    """Write a text as JSON does, without the quotes round it."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
