"""Conversations to tokens, exactly as the model will be asked for each turn of the assistant."""

from collections import Counter

from unteach.data.conversations import ASSISTANT, Message, Tools, is_learned, list_tool_names
from unteach.data.rendered_text import extract_answer, is_shown
from unteach.data.template import Template
from unteach.errors import UserError

Piece = tuple[tuple[int, ...], bool]
"""Token ids, and whether they are learned."""


def encode_chat(
    template: Template,
    messages: list[Message],
    last: bool = False,
    tools: Tools | None = None,
) -> list[Piece]:
    """Encode a conversation as pieces.

    Each turn of the assistant is a piece with its end of turn, tokenised apart from what is asked,
    as it is when the model answers.

    Args:
        template: the model's, which must be a chat template.
        messages: the conversation.
        last: learn only the last turn that may be learned.
        tools: the tools that may be called in it.

    Raises:
        UserError: the template shows earlier turns differently once the conversation goes on, or
            does not show what a turn says.
    """
    _refuse_other_kind(template)
    if template.args.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": template.args.system_prompt}, *messages]
    messages = template.hide_all(messages)
    tools = template.hide_all(tools)

    # What the template leaves out of the whole conversation is refused before any of it is cut.
    whole = _render_whole(template, messages, tools)
    _refuse_unshown(template, messages, tools, whole)

    pieces: list[Piece] = []
    encoded_text = ""
    for k in _list_answers(messages, last):
        message = messages[k]
        if k == 0:
            raise UserError(
                "the conversation begins with a turn of the assistant, which answers nothing"
            )
        # What the model is asked goes on from what is encoded already.
        prompt = template.chat.render(messages[:k], add_generation_prompt=True, tools=tools)
        new_text = _cut_start(encoded_text, prompt, last)
        pieces.append((template.encode_plain(new_text), False))

        # The answer is what the template adds to that once it is given.
        answered = template.chat.render(messages[: k + 1], add_generation_prompt=False, tools=tools)
        rendered_answer = extract_answer(prompt, answered, message["content"])
        _refuse_unshown_answer(message, rendered_answer)
        words = _list_words(message, rendered_answer)
        answer_ids, answer_text = template.encode_turn(rendered_answer, words)
        pieces.append((answer_ids, is_learned(message)))
        encoded_text = prompt + answer_text

    if messages[-1]["role"] != ASSISTANT:
        rest = _cut_start(encoded_text, whole, last)
        pieces.append((template.encode_plain(rest), False))
    return pieces


def _refuse_other_kind(template: Template) -> None:
    """Refuse a model that is asked by tags or by raw words."""
    if template.kind != "chat":
        raise UserError(
            "conversations are shown by a chat template, and this model is asked by "
            f"template={template.kind}; take a model whose tokenizer has one, or rows of prompts "
            "and answers"
        )


def _list_answers(messages: list[Message], last: bool) -> list[int]:
    """List the indices of the assistant's turns; with `last` only that of the last learned one."""
    indices = []
    for index, message in enumerate(messages):
        if message["role"] == ASSISTANT and (is_learned(message) or not last):
            indices.append(index)
    return indices[-1:] if last else indices


def _render_whole(
    template: Template,
    messages: list[Message],
    tools: Tools | None,
) -> str:
    """Render the conversation; say so where only its calls of tools make that fail."""
    try:
        return template.chat.render(messages, add_generation_prompt=False, tools=tools)
    except UserError as error:
        without_calls = _drop_calls(messages)
        if without_calls == messages or _try_render(template, without_calls, tools) is None:
            raise
        raise UserError(
            "the chat template cannot show tool_calls whose arguments are a mapping, as they are "
            f"here; take a model whose template can, or leave such rows out ({error})"
        ) from None


def _try_render(
    template: Template,
    messages: list[Message],
    tools: Tools | None,
) -> str | None:
    """Render a whole conversation; None where the template refuses it."""
    try:
        return template.chat.render(messages, add_generation_prompt=False, tools=tools)
    except UserError:
        return None


def _drop_calls(messages: list[Message]) -> list[Message]:
    """Leave the calls of tools out of each turn."""
    without_calls = []
    for message in messages:
        message = dict(message)
        message.pop("tool_calls", None)
        without_calls.append(message)
    return without_calls


def _list_words(message: Message, rendered: str) -> list[str]:
    """List the words of a turn: its answer, its calls, and what else of it the template shows."""
    words = [message["content"], *_list_call_texts(message)]
    for key, value in message.items():
        if key in ("role", "content") or not isinstance(value, str):
            continue
        if value.strip() in rendered:
            words.append(value)
    return words


def _list_call_texts(message: Message) -> list[str]:
    """List all texts in a turn's calls of tools: whom it calls, and with what."""
    texts = []
    for call in message.get("tool_calls", []):
        texts += _list_texts(call["function"])
    return texts


def _list_texts(value: object) -> list[str]:
    """List all texts in a mapping, a list or a text."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    texts: list[str] = []
    if isinstance(value, list):
        for item in value:
            texts += _list_texts(item)
    return texts


def _refuse_unshown(
    template: Template,
    messages: list[Message],
    tools: Tools | None,
    whole: str,
) -> None:
    """Refuse a conversation of which the chat template leaves something out.

    Many templates know only user and assistant, and neither calls nor tools.

    Args:
        template: the model's.
        messages: the conversation.
        tools: the tools that may be called in it.
        whole: what the template renders of them.
    """
    # What a call is called with may stand in the tools: only a template that ignores calls renders
    # the same without them.
    without_calls = _drop_calls(messages)
    if without_calls != messages and _try_render(template, without_calls, tools) == whole:
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
    # In the same way a tool's name may stand in a call of it.
    if tools and template.chat.render(messages, add_generation_prompt=False) == whole:
        raise UserError(
            "the chat template does not show tools; take a model whose template knows them"
        )


def _refuse_unshown_answer(message: Message, rendered: str) -> None:
    """Refuse a turn of the assistant whose calls, or words beside them, are not shown."""
    _refuse_unshown_calls(message, rendered)
    if message.get("tool_calls") and not is_shown(message["content"], rendered):
        raise UserError(
            "the chat template does not show what the assistant says beside tool_calls; take "
            "a model whose template does, or leave the words out"
        )


def _refuse_unshown_calls(message: Message, rendered: str) -> None:
    """Refuse a turn of which the template shows no call, or only some, or not what they are called
    with."""
    name_counts = Counter(list_tool_names(message.get("tool_calls", [])))
    if not all(name in rendered for name in name_counts):
        raise UserError(
            "the chat template does not show tool_calls; take a model whose template knows them"
        )
    shows_each = all(rendered.count(name) >= count for name, count in name_counts.items())
    texts = _list_call_texts(message)
    if not shows_each or not all(is_shown(text, rendered) for text in texts):
        raise UserError(
            "the chat template shows only some of a turn's tool_calls; take a model whose "
            "template shows several, or leave such rows out"
        )


def _cut_start(start: str, longer: str, last: bool) -> str:
    """Give what a conversation that went on has after what was rendered before.

    Args:
        start: what was rendered.
        longer: what is rendered now.
        last: whether only the last turn is learned; it changes how to mend it.

    Raises:
        UserError: the template renders the start otherwise now.
    """
    if longer.startswith(start):
        return longer[len(start) :]
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
