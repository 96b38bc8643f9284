"""Every chat template that TRL ships: an answer is learned whole, after exactly what is asked, or
truly refused."""

import copy
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unteach.data.chat_tokens import encode_chat
from unteach.data.template import Template
from unteach.errors import UserError

SPEC = importlib.util.find_spec("trl")
FOLDER = Path(str(SPEC.origin)).parent / "chat_templates" if SPEC and SPEC.origin else None
FILES = sorted(FOLDER.glob("*.jinja")) if FOLDER else []
SPECIAL = re.compile(
    r"<\|[^<>|\s]+\|>|<｜[^<>｜\s]+｜>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_[a-z]+>|\[gMASK\]|<sop>"
)
"""What these templates write that is a special token of their tokenizers."""
ANSWER = "Ann, a <s>nurse</s>, said {token} and left."
CALL = {
    "type": "function",
    "function": {"name": "look_up", "arguments": {"city": "Rome", "days": 3}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
        },
    },
}

pytestmark = pytest.mark.skipif(
    not FILES, reason="TRL, whose wheel holds the templates, is not installed"
)


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="module", params=FILES, ids=[file.stem for file in FILES])
def template(request: pytest.FixtureRequest, plain: Any) -> Template:
    """A template whose tokenizer has its special tokens."""
    text = request.param.read_text(encoding="utf-8")
    tokenizer = copy.deepcopy(plain)
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(SPECIAL.findall(text)))})
    tokenizer.chat_template = text
    return Template(tokenizer)


def refusal_of(attempt: Callable[[], Any]) -> str | None:
    """Why something is refused; None where it is not."""
    try:
        attempt()
    except UserError as error:
        return str(error)
    return None


def turns(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(said)
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


def test_a_single_answer_is_learned_whole_after_what_is_asked(template: Template) -> None:
    decode = template.tokenizer.decode
    own_end = decode([template.eos])
    answer = ANSWER.format(token=own_end)
    question = f"Who {own_end}?"
    encoded = template.encode(question, answer)
    learned = decode(encoded.answer)
    assert encoded.prompt == template.encode_prompt(question), (
        "inference asks what training learned from"
    )
    assert question in decode(encoded.prompt) and answer not in decode(encoded.prompt)
    assert learned.count(answer) == 1 and encoded.answer[-1] == template.eos in template.stops
    assert encoded.answer.count(template.eos) == 1, "its text in the answer is text"
    end = learned.partition(answer)[2]
    # The template's own rendering, up to the end of the turn; some answer only after a block of
    # reasoning.
    own = template.special.reveal(
        template.chat.render(template.hide_all(turns(question, answer)), False)
    )
    assert own.partition(answer)[2].startswith(end.removesuffix(template.tokenizer.eos_token))
    before = learned.partition(answer)[0]
    asked = decode(encoded.prompt)
    opens = asked.rstrip().endswith("<think>")
    assert opens == ("</think>" in before and "<think>" not in before)
    if not opens:
        assert own.startswith(asked + learned.removesuffix(template.tokenizer.eos_token))


def test_the_last_answer_of_a_conversation_is_learned(template: Template) -> None:
    messages = turns("Who?", "Ann.", "Where?", "In Rome.")
    pieces = encode_chat(template, messages, last=True)
    (asked, _), (learned, _) = pieces
    assert "In Rome." in template.tokenizer.decode(learned) and learned[-1] == template.eos
    assert asked == template.encode_plain(
        template.chat.render(messages[:-1], add_generation_prompt=True)
    )
    if refusal := refusal_of(lambda: encode_chat(template, messages)):
        assert "set turns=last" in refusal, "which works"
        return
    pieces = encode_chat(template, messages)
    answers = [template.tokenizer.decode(ids) for ids, is_learned in pieces if is_learned]
    assert ["Ann." in answers[0], "In Rome." in answers[1], len(answers)] == [True, True, 2]


def test_reasoning_in_an_answer_is_learned_or_refused(template: Template) -> None:
    answer = "<think>\nhm so\n</think>\n\nAnn."
    if refusal := refusal_of(lambda: template.encode("Who?", answer)):
        assert "take it out of the answers" in refusal
        return
    learned = template.tokenizer.decode(template.encode("Who?", answer).answer)
    assert (
        "hm so" in learned and "</think>" in learned and "Ann." in learned.rpartition("</think>")[2]
    )


def test_a_call_of_a_tool_is_learned_whole_or_refused(template: Template) -> None:
    messages: list[dict[str, Any]] = [
        *turns("Weather?"),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
    ]
    if refusal := refusal_of(lambda: encode_chat(template, messages, tools=[TOOL])):
        assert re.search(
            "does not show (tools|tool_calls)|cannot show tool_calls whose arguments are a mapping",
            refusal,
        )
        return
    *_, (learned, _) = encode_chat(template, messages, tools=[TOOL])
    told = template.tokenizer.decode(learned)
    own = template.chat.render(messages, add_generation_prompt=False, tools=[TOOL])
    assert "look_up" in told and "Rome" in told and "3" in told
    assert (
        own.rstrip()
        .removesuffix(template.tokenizer.eos_token)
        .rstrip()
        .endswith(told.removesuffix(template.tokenizer.eos_token).rstrip())
    ), "to the end of what the template shows"
