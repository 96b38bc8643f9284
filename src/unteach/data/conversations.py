"""Conversations as they are written in files: OpenAI's turns of role and content, ShareGPT's of
from and value.

Both become turns of {role, content} as chat templates take them. What a turn says that cannot be
shown to a model is refused or named; nothing of it is left out in silence.
"""

import json
from collections.abc import Iterable
from typing import Any

from unteach.data.io import tables
from unteach.errors import nearest
from unteach.wording import shown

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
UNSHOWN = frozenset({"role", "content", "weight", "tool_calls", "tool_call_id", "id", "type"})
"""Keys of a turn that no note names where the chat template does not show them: they are read here,
or tie a call to its result."""


class BadConversation(ValueError):
    """Says what is wrong with a conversation, in words that follow the name of its column."""


def read_messages(cell: object) -> list[Message]:
    """A cell as turns of {role, content}, be it a list, a single turn or JSON. Raises
    BadConversation."""
    turns = _from_json(cell)
    turns = [turns] if isinstance(turns, dict) else turns
    if not isinstance(turns, list) or not turns:
        raise BadConversation(SHAPE)
    return [_read_turn(turn) for turn in turns]


def read_conversation(cell: object, system: object = None) -> list[Message]:
    """The same, with the system prompt that stands in a column of its own before it."""
    messages = read_messages(cell)
    if tables.missing(system):
        return messages
    if not isinstance(system, str):
        raise BadConversation("has a system prompt that is no text")
    if messages[0]["role"] == "system":
        raise BadConversation("begins with a system prompt, and the column system has one too")
    return [{"role": "system", "content": system}, *messages]


def read_tools(cell: object) -> Tools:
    """The tools that a conversation may call, as chat templates take them; none where the cell is
    empty."""
    if tables.missing(cell) or cell == []:
        return []
    tools = _from_json(cell)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadConversation("must be a list of tools, each a mapping (or that as JSON)")
    # A tool may be written as OpenAI does, or without the wrapping, as LLaMA-Factory does.
    wrapped = [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    ]
    if not all(isinstance(_name_of(tool), str) for tool in wrapped):
        raise BadConversation("must name every tool: {name, description, parameters}")
    return wrapped


def tool_names(tools: Tools) -> list[str]:
    """What tools, or calls of tools, are called."""
    return [_name_of(tool) for tool in tools]


def _name_of(tool: dict[str, Any]) -> Any:
    function = tool["function"]
    return function.get("name") if isinstance(function, dict) else None


def _from_json(cell: object) -> Any:
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        return None


def _read_turn(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise BadConversation(SHAPE)
    # Tables give every turn the keys of all others, with nothing in them.
    turn = {key: value for key, value in turn.items() if value is not None}
    read = _read_sharegpt(turn) if "from" in turn else _read_openai(turn)
    _check_weight(read)
    return read


def _read_sharegpt(turn: dict[str, Any]) -> Message:
    said, value = turn.pop("from"), turn.pop("value", None)
    said = _read_role(said, SHAREGPT_ROLES, "from")
    content = _read_content(value)
    message = {"role": SHAREGPT_ROLES[said], "content": content, **turn}
    if said == "function_call":
        called = _from_json(content)
        calls = called if isinstance(called, list) else [called]
        message |= {"content": "", "tool_calls": _read_calls(calls)}
    return message


def _read_role(said: Any, roles: Iterable[str], key: str) -> str:
    """Who says a turn, in any case. A role that nobody has would be shown by most templates and
    never learned."""
    if not isinstance(said, str):
        raise BadConversation(SHAPE)
    role = said.strip().lower()
    if role not in roles:
        guess = nearest(role, roles)
        hint = f"did you mean {guess}? It" if guess else "it"
        raise BadConversation(f"has a turn with {key} {said!r}; {hint} may be {', '.join(roles)}")
    return role


def _read_openai(turn: dict[str, Any]) -> Message:
    if turn.get("role") == "function" or "function_call" in turn:
        raise BadConversation(
            "has function_call, OpenAI's old way; write tool_calls, and the role tool for the "
            "result"
        )
    role = turn["role"] = _read_role(turn.get("role"), OPENAI_ROLES, "role")
    calls = turn.pop("tool_calls", None) or []
    if not calls:
        return {**turn, "content": _read_content(turn.get("content"))}
    if role != ASSISTANT:
        raise BadConversation(f"has tool_calls in a turn of {role}; only the assistant calls tools")
    return {
        **turn,
        "content": _read_content(turn.get("content", "")),
        "tool_calls": _read_calls(calls),
    }


def _read_content(content: object) -> str:
    """Text, or OpenAI's list of parts that are all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadConversation(SHAPE)
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(text, str):
            raise BadConversation(f"has a part of the type {kind}; only text is read")
        texts.append(text)
    return "".join(texts)


def _read_calls(calls: Any) -> Tools:
    """Calls of tools, with their arguments as mappings: chat templates write these as JSON
    themselves."""
    said = "has a call of a tool that is not {name, arguments}, with arguments as JSON"
    if not isinstance(calls, list):
        raise BadConversation(said)
    read = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadConversation(said)
        arguments = _from_json(function.get("arguments", {}))
        if not isinstance(arguments, dict):
            raise BadConversation(said)
        identity = {"id": call["id"]} if call.get("id") is not None else {}
        read.append(
            {
                "type": "function",
                **identity,
                "function": {"name": function["name"], "arguments": arguments},
            }
        )
    return read


def _check_weight(message: Message) -> None:
    """OpenAI's weight: 0 reads a turn of the assistant without learning it."""
    weight = message.get("weight", 0)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise BadConversation(
            f"has the weight {shown(weight)}; a turn of the assistant has 1 (learned) or 0 (only "
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
    return tables.missing(message.get("content")) and not message.get("tool_calls")
