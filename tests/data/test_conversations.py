"""Conversations as ShareGPT and OpenAI write them: what is learned, and what is refused with its
line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.handlers.test_rows_of_kinds import learned, rows, turns
from unteach.data.handlers.chat import ChatDataset
from unteach.data.handlers.preference import PreferenceDataset
from unteach.data.template import Template
from unteach.errors import UserError

TOOLS = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% "
    "endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m['role'] in ('user', 'assistant') %}<|im_start|>{{ m['role'] "
    "}}\n{{ m['content'] }}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% "
    "endif %}"
)
WEATHER = {
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {}},
}


@pytest.fixture
def tools(chat: Template) -> Template:
    chat.tokenizer.chat_template = TOOLS
    return Template(chat.tokenizer)


def sharegpt(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for who, text in said]


def messages(template: Template, path: Path, *found: Any, **given: Any) -> ChatDataset:
    return ChatDataset(
        template,
        rows(path, *({"messages": one} if isinstance(one, list) else one for one in found)),
        **given,
    )


def test_sharegpt_is_the_same_conversation(chat: Template, tmp_path: Path) -> None:
    ours = messages(chat, tmp_path, turns("Who?", "Ann.", "Where?", "In Rome.", system="Be kind."))
    told = sharegpt(
        ("system", "Be kind."),
        ("human", "Who?"),
        ("gpt", "Ann."),
        ("user", "Where?"),
        ("assistant", "In Rome."),
    )
    assert messages(chat, tmp_path, told).examples == ours.examples
    beside = {"conversations": json.dumps(told[1:]), "system": "Be kind."}  # as a csv has it
    theirs = ChatDataset(
        chat, rows(tmp_path, beside), messages_key="conversations", system_key="system"
    )
    assert theirs.examples == ours.examples


def test_roles_are_read_in_any_case(chat: Template, tmp_path: Path) -> None:
    ours = messages(chat, tmp_path, turns("Who?", "Ann.", system="Be kind.")).examples
    said = [
        {**turn, "role": turn["role"].upper()} for turn in turns("Who?", "Ann.", system="Be kind.")
    ]
    assert messages(chat, tmp_path, said).examples == ours
    assert (
        messages(
            chat, tmp_path, sharegpt(("System", "Be kind."), ("Human", "Who?"), ("GPT ", "Ann."))
        ).examples
        == ours
    )


def test_a_turn_of_weight_0_is_read_and_not_learned(chat: Template, tmp_path: Path) -> None:
    said = turns("Who?", "Ann.", "Where?", "In Rome.", "When?", "Now.")
    for turn, weight in ((1, 0), (3, 1), (5, 0)):
        said[turn]["weight"] = weight  # type: ignore[assignment]
    (example,) = messages(chat, tmp_path, said).examples
    assert learned(chat, example) == "In Rome.<|im_end|>"
    (plain,) = messages(
        chat, tmp_path, turns("Who?", "Ann.", "Where?", "In Rome.", "When?", "Now.")
    ).examples
    assert example["input_ids"] == plain["input_ids"]
    (last,) = messages(chat, tmp_path, said, turns="last").examples
    assert learned(chat, last) == "In Rome.<|im_end|>"
    nothing = [{**turn, "weight": 0} for turn in turns("Who?", "Ann.")]
    assert dict(messages(chat, tmp_path, said, nothing).dropped) == {
        "no turn of the assistant has weight 1 (line 2)": 1
    }


def test_a_row_with_an_empty_answer_is_dropped(tools: Template, tmp_path: Path) -> None:
    said = turns("Who?", " \n", "Where?", "In Rome.")
    unlearned = [said[0], {**said[1], "weight": 0}, *said[2:]]
    called = turns("Who?", "")
    called[1]["tool_calls"] = [{"function": {"name": "ask", "arguments": {}}}]  # type: ignore[assignment]
    good = turns("Who?", "Ann.")
    found = (
        good,
        said,
        turns("Who?", ""),
        sharegpt(("human", "Who?"), ("gpt", "")),
        unlearned,
        called,
    )
    made = messages(tools, tmp_path, *found)
    assert made.notes() == ["3 rows dropped, nothing in a turn of the assistant (lines 2, 3, 4)"]
    assert [example["index"] for example in made.examples] == [0, 4, 5]
    last = messages(tools, tmp_path, *found, turns="last")
    assert [example["index"] for example in last.examples] == [0, 1, 4, 5], (
        "earlier turns are only read"
    )


def test_so_is_a_pair_with_an_empty_answer(chat: Template, tmp_path: Path) -> None:
    pair = {
        "prompt": turns("Who?"),
        "chosen": turns("", "Ann.")[1:],
        "rejected": turns("", "Bert.")[1:],
    }
    made = PreferenceDataset(chat, rows(tmp_path, pair, {**pair, "rejected": turns("", " ")[1:]}))
    assert made.notes() == ["1 row dropped, nothing in the last turn of rejected (line 2)"]


def test_parts_of_text_are_joined_and_empty_keys_are_none(chat: Template, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "o?"}]
    said = [
        {"role": "user", "content": parts, "name": None},
        {"role": "assistant", "content": "Ann.", "tool_calls": None, "weight": None},
    ]
    assert (
        messages(chat, tmp_path, said).examples
        == messages(chat, tmp_path, turns("Who?", "Ann.")).examples
    )


def test_tools_and_their_calls_are_shown_and_learned(tools: Template, tmp_path: Path) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
    }
    openai = {
        "messages": [
            {"role": "user", "content": "Weather in Rome?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ],
        "tools": [{"type": "function", "function": WEATHER}],
    }
    (example,) = messages(tools, tmp_path, openai, tools_key="tools").examples
    asked = '{"name": "get_weather", "arguments": {"city": "Rome"}}<|im_end|>'
    assert learned(tools, example) == f"{asked}It is sunny.<|im_end|>"
    shown = tools.tokenizer.decode(example["input_ids"])
    assert "<|im_start|>tool\nsunny<|im_end|>" in shown and '"description": "The weather."' in shown
    told = sharegpt(
        ("human", "Weather in Rome?"),
        ("function_call", '{"name": "get_weather", "arguments": {"city": "Rome"}}'),
    )
    told += sharegpt(("observation", "sunny"), ("gpt", "It is sunny."))
    row = {"conversations": told, "tools": json.dumps([WEATHER])}
    theirs = ChatDataset(
        tools, rows(tmp_path, row), messages_key="conversations", tools_key="tools"
    )
    assert theirs.examples == [example]


def test_what_the_template_does_not_show_is_refused_or_named(
    chat: Template, tools: Template, tmp_path: Path
) -> None:
    good = turns("Who?", "Ann.")
    asked = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]},
    ]
    chat.tokenizer.chat_template = STRICT
    strict = Template(chat.tokenizer)
    with pytest.raises(UserError) as caught:
        messages(
            strict,
            tmp_path,
            good,
            turns("Who?", "Ann.", system="Be kind."),
            asked,
            {"messages": good, "tools": [WEATHER]},
            tools_key="tools",
        )
    said = str(caught.value)
    assert (
        "does not show what a turn of system says; take a model whose template knows this role"
        in said
    )
    assert "(line 2)" in said
    assert "does not show tool_calls; take a model whose template knows them (line 3)" in said
    assert "does not show tools; take a model whose template knows them (line 4)" in said
    named = [{**good[0], "name": "Bert"}, good[1]]
    assert messages(strict, tmp_path, good, named).notes() == [
        "1 row with name in a turn, which the chat template does not show (line 2)"
    ]


BAD = {
    "messages must be a list of {role, content} or of {from, value}, both text": [
        {"role": "user", "content": 5}
    ],
    "messages has a turn with from 'bing'; it may be human, user, gpt": sharegpt(("bing", "Who?")),
    "messages has a turn with role 'assitant'; did you mean assistant? It may be system, "
    "developer, user": [{"role": "assitant", "content": "a"}],
    "messages has a turn with role 'model'; it may be system, developer, user, assistant, tool": [
        {"role": "model", "content": "a"}
    ],
    "messages has a part of the type image_url; only text is read": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    ],
    "messages has function_call, OpenAI's old way; write tool_calls": [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    ],
    "messages has a call of a tool that is not {name, arguments}": [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
    ],
    "messages has tool_calls in a turn of user": [
        {"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f"}}]}
    ],
    "messages has the weight 0.5; a turn of the assistant has 1": [
        {"role": "assistant", "content": "a", "weight": 0.5}
    ],
    "messages has weight 1 in a turn of user": [{"role": "user", "content": "a", "weight": 1}],
    "the conversation begins with a turn of the assistant": [
        {"role": "assistant", "content": "Hello."}
    ],
}


@pytest.mark.parametrize("said", BAD)
def test_turns_that_are_none_are_refused_with_their_line(
    chat: Template, tmp_path: Path, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        messages(chat, tmp_path, turns("Who?", "Ann."), BAD[said])
    assert said in str(caught.value) and "(line 2)" in str(caught.value)


def test_a_system_prompt_stands_in_one_place_and_tools_are_a_list(
    chat: Template, tmp_path: Path
) -> None:
    twice = {"messages": turns("Who?", "Ann.", system="a"), "system": "b"}
    with pytest.raises(
        UserError,
        match=r"begins with a system prompt, and the column system has one too \(line 1\)",
    ):
        messages(chat, tmp_path, twice, system_key="system")
    with pytest.raises(UserError, match=r"tools must be a list of tools, .* \(line 1\)"):
        messages(
            chat,
            tmp_path,
            {"messages": turns("Who?", "Ann."), "tools": "get_weather"},
            tools_key="tools",
        )


def test_preferences_of_sharegpt(chat: Template, tmp_path: Path) -> None:
    pair = {
        "conversations": sharegpt(("human", "Who?")),
        "chosen": {"from": "gpt", "value": "Ann."},
        "rejected": {"from": "gpt", "value": "Bert."},
    }
    ours = {
        "prompt": turns("Who?"),
        "chosen": turns("Who?", "Ann.")[1:],
        "rejected": turns("Who?", "Bert.")[1:],
    }
    (theirs,) = PreferenceDataset(chat, rows(tmp_path, pair), prompt_key="conversations").examples
    (example,) = PreferenceDataset(chat, rows(tmp_path, ours)).examples
    assert theirs == example
    with pytest.raises(
        UserError, match=r"chosen and rejected must be one conversation .*\(line 1\)"
    ):
        PreferenceDataset(
            chat,
            rows(tmp_path, {**pair, "chosen": {"from": "human", "value": "Ann."}}),
            prompt_key="conversations",
        )


ONE_CALL = TOOLS.replace(
    "{% for call in m.tool_calls or [] %}", "{% for call in (m.tool_calls or [])[:1] %}"
)
NO_WORDS = TOOLS.replace("{{ m['content'] }}", "{{ '' if m.tool_calls else m['content'] }}")
NO_TOOLS = TOOLS.replace("{% if tools %}", "{% if false %}")


@pytest.mark.parametrize(
    ("shown", "said", "refused"),
    [
        (ONE_CALL, "", "shows only some of a turn's tool_calls"),
        (NO_WORDS, "I look.", "does not show what the assistant says beside tool_calls"),
        (NO_TOOLS, "", "does not show tools"),
        (TOOLS, "I look.", None),
    ],
)
def test_a_template_that_shows_part_of_a_turn_is_refused(
    chat: Template, tmp_path: Path, shown: str, said: str, refused: str | None
) -> None:
    chat.tokenizer.chat_template = shown
    calls = [
        {"function": {"name": "get_weather", "arguments": {"city": city}}}
        for city in ("Rome", "Oslo")
    ]
    row = {
        "messages": [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": said, "tool_calls": calls},
        ],
        "tools": [WEATHER],
    }
    if refused is None:
        (example,) = messages(Template(chat.tokenizer), tmp_path, row, tools_key="tools").examples
        assert learned(chat, example).count("get_weather") == 2 and "I look." in learned(
            chat, example
        )
        return
    with pytest.raises(UserError, match=rf"{refused}.*\(line 1\)"):
        messages(Template(chat.tokenizer), tmp_path, row, tools_key="tools")
