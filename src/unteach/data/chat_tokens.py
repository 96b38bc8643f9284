"""Conversations to tokens, exactly as the model will be asked for each turn of the assistant."""

from collections import Counter
from typing import Any

from unteach.data.conversations import ASSISTANT, Message, Tools, is_learned, tool_names
from unteach.data.template import Template, is_shown
from unteach.errors import UserError

Piece = tuple[tuple[int, ...], bool]
"""Token ids, and whether they are learned."""


def encode_chat(
    template: Template, messages: list[Message], last: bool = False, tools: Tools | None = None
) -> list[Piece]:
    """A conversation as pieces.

    Each turn of the assistant is a piece with its end of turn, tokenised apart from what is asked,
    as it is when the model answers. last: only the last turn that may be learned is.

    Raises UserError where the template shows earlier turns differently once the conversation goes
    on, or does not show what a turn says.
    """
    if template.kind != "chat":
        raise UserError(
            "conversations are shown by a chat template, and this model is asked by "
            f"template={template.kind}; take a model whose tokenizer has one, or rows of prompts "
            "and answers"
        )
    if template.args.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": template.args.system_prompt}, *messages]
    messages, tools = template.hide_all(messages), template.hide_all(tools)
    whole = _show_whole(template, messages, tools)
    _refuse_unshown(template, messages, tools, whole)
    # A tool's name may stand in a call of it: only a template that ignores tools shows the same
    # without them.
    if tools and template.shown(messages, add_generation_prompt=False) == whole:
        raise UserError(
            "the chat template does not show tools; take a model whose template knows them"
        )
    answers = [i for i, message in enumerate(messages) if message["role"] == ASSISTANT]
    if last:
        answers = [i for i in answers if is_learned(messages[i])][-1:]
    pieces: list[Piece] = []
    shown = ""
    for i in answers:
        if i == 0:
            raise UserError(
                "the conversation begins with a turn of the assistant, which answers nothing"
            )
        asked = template.shown(messages[:i], add_generation_prompt=True, tools=tools)
        pieces.append((template.plain(_after(shown, asked, last)), False))
        told = template.shown(messages[: i + 1], add_generation_prompt=False, tools=tools)
        text = template.text_after(asked, told, messages[i]["content"])
        _refuse_unshown_calls(messages[i], text)
        if messages[i].get("tool_calls") and not is_shown(messages[i]["content"], text):
            raise UserError(
                "the chat template does not show what the assistant says beside tool_calls; take "
                "a model whose template does, or leave the words out"
            )
        answer, answer_text = template.turn(text, _words_of(messages[i], text))
        pieces.append((answer, is_learned(messages[i])))
        shown = asked + answer_text
    if messages[-1]["role"] != ASSISTANT:
        pieces.append((template.plain(_after(shown, whole, last)), False))
    return pieces


def _show_whole(template: Template, messages: list[Message], tools: Tools | None) -> str:
    """The conversation as the template shows it; where only its calls of tools make that fail, this
    is said."""
    try:
        return template.shown(messages, add_generation_prompt=False, tools=tools)
    except UserError as error:
        uncalled = [
            {key: value for key, value in message.items() if key != "tool_calls"}
            for message in messages
        ]
        if uncalled == messages or _shown_or_none(template, uncalled, tools) is None:
            raise
        raise UserError(
            "the chat template cannot show tool_calls whose arguments are a mapping, as they are "
            f"here; take a model whose template can, or leave such rows out ({error})"
        ) from None


def _words_of(message: Message, text: str) -> list[str]:
    """The words of a turn: what it says, whom it calls with what, and what else of it the template
    shows."""
    words = [
        message["content"],
        *_texts_in([call["function"] for call in message.get("tool_calls", [])]),
    ]
    others = [value for key, value in message.items() if key not in ("role", "content")]
    return words + [value for value in others if isinstance(value, str) and value.strip() in text]


def _texts_in(value: Any) -> list[str]:
    """All texts in a mapping, a list or a text."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    return (
        [text for item in inner for text in _texts_in(item)]
        if isinstance(value, dict | list)
        else []
    )


def _refuse_unshown(
    template: Template, messages: list[Message], tools: Tools | None, whole: str
) -> None:
    """Refuses a conversation of which the chat template leaves something out: many know only user
    and assistant."""
    # What a call is called with may stand in the tools: only a template that ignores calls shows
    # the same without.
    uncalled = [
        {key: value for key, value in message.items() if key != "tool_calls"}
        for message in messages
    ]
    if uncalled != messages and _shown_or_none(template, uncalled, tools) == whole:
        raise UserError(
            "the chat template does not show tool_calls; take a model whose template knows them"
        )
    for message in messages:
        if message["role"] != ASSISTANT and not is_shown(message["content"], whole):
            raise UserError(
                f"the chat template does not show what a turn of {message['role']} says; take a "
                "model whose template knows this role, or leave such rows out"
            )
        _refuse_unshown_calls(message, whole)


def _shown_or_none(template: Template, messages: list[Message], tools: Tools | None) -> str | None:
    try:
        return template.shown(messages, add_generation_prompt=False, tools=tools)
    except UserError:
        return None


def _refuse_unshown_calls(message: Message, text: str) -> None:
    """Refuses a turn of which the template shows no call, or only some, or not what they are called
    with."""
    calls = message.get("tool_calls", [])
    called = Counter(tool_names(calls))
    if not all(name in text for name in called):
        raise UserError(
            "the chat template does not show tool_calls; take a model whose template knows them"
        )
    is_counted = all(text.count(name) >= number for name, number in called.items())
    if not is_counted or not all(
        is_shown(word, text) for word in _texts_in([call["function"] for call in calls])
    ):
        raise UserError(
            "the chat template shows only some of a turn's tool_calls; take a model whose "
            "template shows several, or leave such rows out"
        )


def _after(shown: str, longer: str, last: bool) -> str:
    """What a conversation that went on has more than was shown before."""
    if longer.startswith(shown):
        return longer[len(shown) :]
    if last:
        raise UserError(
            "this chat template shows the last answer differently once the conversation goes on; "
            "leave out the turns after it"
        )
    raise UserError(
        "this chat template shows earlier turns differently once a conversation goes on; set "
        "turns=last of the dataset (data.turns=last for files), which learns the last turn of "
        "each conversation"
    )
