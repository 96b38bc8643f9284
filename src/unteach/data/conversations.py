"""Conversations as they are written in files: OpenAI's turns of role and content, ShareGPT's of
from and value.

Both become turns of {role, content} as chat templates take them. What a turn says that cannot be
shown to a model is refused or named; nothing of it is left out in silence.
"""

import json
from collections.abc import Iterable
from typing import Any

from unteach.data.io.cells import is_missing
from unteach.errors import find_nearest
from unteach.wording import quote_value

Message = dict[str, Any]
Tools = list[dict[str, Any]]
ASSISTANT = "assistant"
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": ASSISTANT,
    "assistant": ASSISTANT,
    "function_call": ASSISTANT,
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""What ShareGPT's `from` may be -> the role that it is."""
OPENAI_ROLES = ("system", "developer", "user", ASSISTANT, "tool", "ipython")
"""What OpenAI's `role` may be; Llama's chat templates call what a tool gave `ipython`."""
SHAPE = "must be a list of {role, content} or of {from, value}, both text"
CALL_SHAPE = "has a call of a tool that is not {name, arguments}, with arguments as JSON"
UNSHOWN = frozenset({"role", "content", "weight", "tool_calls", "tool_call_id", "id", "type"})
"""Keys of a turn that no note names where the chat template does not show them: they are read here,
or tie a call to its result."""


class BadConversation(ValueError):
    """Says what is wrong with a conversation, in words that follow the name of its column."""


def read_messages(cell: object) -> list[Message]:
    """Read a cell as turns of {role, content}, be it a list, a single turn or JSON.

    Raises:
        BadConversation: the cell holds something else.
    """
    turns = _parse_json(cell)
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list) or not turns:
        raise BadConversation(SHAPE)
    return [_read_turn(turn) for turn in turns]


def read_conversation(cell: object, system: object = None) -> list[Message]:
    """Read a cell as turns, after the system prompt that stands in a column of its own."""
    messages = read_messages(cell)
    if is_missing(system):
        return messages
    if not isinstance(system, str):
        raise BadConversation("has a system prompt that is no text")
    if messages[0]["role"] == "system":
        raise BadConversation("begins with a system prompt, and the column system has one too")
    return [{"role": "system", "content": system}, *messages]


def read_tools(cell: object) -> Tools:
    """Read the tools that a conversation may call, as chat templates take them.

    None where the cell is empty.
    """
    if is_missing(cell) or cell == []:
        return []
    tools = _parse_json(cell)
    are_mappings = isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    if not are_mappings:
        raise BadConversation("must be a list of tools, each a mapping (or that as JSON)")
    wrapped = []
    for tool in tools:
        # A tool may be written as OpenAI does, or without the wrapping, as LLaMA-Factory does.
        if "function" not in tool:
            tool = {"type": "function", "function": tool}
        wrapped.append(tool)
    if not all(isinstance(name, str) for name in list_tool_names(wrapped)):
        raise BadConversation("must name every tool: {name, description, parameters}")
    return wrapped


def list_tool_names(tools: Tools) -> list[Any]:
    """List the names of tools, or of calls of tools; None for one that has none."""
    names = []
    for tool in tools:
        function = tool["function"]
        names.append(function.get("name") if isinstance(function, dict) else None)
    return names


def _parse_json(cell: object) -> Any:
    """Parse a cell that may be JSON; None where it is text of another kind."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except ValueError:
        return None


def _read_turn(turn: object) -> Message:
    """Read a turn of either kind as {role, content} and what else it says."""
    if not isinstance(turn, dict):
        raise BadConversation(SHAPE)
    # Tables give every turn the keys of all others, with nothing in them.
    turn = {key: value for key, value in turn.items() if value is not None}
    read_turn = _read_sharegpt if "from" in turn else _read_openai
    read = read_turn(turn)
    _check_weight(read)
    return read


def _read_sharegpt(turn: dict[str, Any]) -> Message:
    """Read a turn of ShareGPT's, where a call of tools is a turn of its own with JSON in it."""
    role = _read_role(turn.pop("from"), SHAREGPT_ROLES, "from")
    content = _read_content(turn.pop("value", None))
    message = {
        "role": SHAREGPT_ROLES[role],
        "content": content,
        **turn,
    }
    if role == "function_call":
        calls = _parse_json(content)
        if not isinstance(calls, list):
            calls = [calls]
        message["content"] = ""
        message["tool_calls"] = _read_calls(calls)
    return message


def _read_role(value: object, roles: Iterable[str], key: str) -> str:
    """Read who says a turn, in any case.

    A role that nobody has is refused: most templates would show it, and it would never be learned.
    """
    if not isinstance(value, str):
        raise BadConversation(SHAPE)
    role = value.strip().lower()
    if role not in roles:
        guess = find_nearest(role, roles)
        hint = f"did you mean {guess}? It" if guess else "it"
        allowed = ", ".join(roles)
        raise BadConversation(f"has a turn with {key} {value!r}; {hint} may be {allowed}")
    return role


def _read_openai(turn: dict[str, Any]) -> Message:
    """Read a turn of OpenAI's, which may call tools beside what it says."""
    if turn.get("role") == "function" or "function_call" in turn:
        raise BadConversation(
            "has function_call, OpenAI's old way; write tool_calls, and the role tool for the "
            "result"
        )
    role = _read_role(turn.get("role"), OPENAI_ROLES, "role")
    turn["role"] = role
    calls = turn.pop("tool_calls", None) or []
    if not calls:
        return {**turn, "content": _read_content(turn.get("content"))}
    if role != ASSISTANT:
        raise BadConversation(f"has tool_calls in a turn of {role}; only the assistant calls tools")
    content = _read_content(turn.get("content", ""))
    return {
        **turn,
        "content": content,
        "tool_calls": _read_calls(calls),
    }


def _read_content(content: object) -> str:
    """Read a text, or OpenAI's list of parts that are all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadConversation(SHAPE)
    texts = []
    for part in content:
        kind, text = None, None
        if isinstance(part, dict):
            kind = part.get("type", "text")
            text = part.get("text")
        if kind != "text" or not isinstance(text, str):
            raise BadConversation(f"has a part of the type {kind}; only text is read")
        texts.append(text)
    return "".join(texts)


def _read_calls(calls: object) -> Tools:
    """Read calls of tools, with their arguments as mappings: chat templates write these as JSON
    themselves."""
    if not isinstance(calls, list):
        raise BadConversation(CALL_SHAPE)
    messages = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadConversation(CALL_SHAPE)
        arguments = _parse_json(function.get("arguments", {}))
        if not isinstance(arguments, dict):
            raise BadConversation(CALL_SHAPE)
        message: dict[str, Any] = {"type": "function"}
        if call.get("id") is not None:
            message["id"] = call["id"]
        message["function"] = {"name": function["name"], "arguments": arguments}
        messages.append(message)
    return messages


def _check_weight(message: Message) -> None:
    """Refuse a weight other than OpenAI's: 0 reads a turn of the assistant without learning it."""
    weight = message.get("weight", 0)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise BadConversation(
            f"has the weight {quote_value(weight)}; a turn of the assistant has 1 (learned) or 0 "
            "(only "
            "read)"
        )
    if weight == 1 and message["role"] != ASSISTANT:
        raise BadConversation(
            f"has weight 1 in a turn of {message['role']}; only turns of the assistant are learned"
        )


def is_learned(message: Message) -> bool:
    """Whether a turn is one that is learned."""
    return message["role"] == ASSISTANT and message.get("weight", 1) == 1


def says_nothing(message: Message) -> bool:
    """Whether a turn has no words, and calls no tool either."""
    return is_missing(message.get("content")) and not message.get("tool_calls")
